"""The paper's Tables I and II with measured rows, each number where it may stand.

A measured row goes into a published table only where it was measured on that table's test set,
recognised by its classes and its counts of images and boxes. Everything else goes into a table of
its own that names its data, since numbers from other images cannot be compared with AI-TOD's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.catalog import aitod, dior
from rstinynet.data.catalog.prepared import RECORD
from rstinynet.data.folder import name_of
from rstinynet.errors import DataError
from rstinynet.evaluate.published import (
    DIOR_CODES,
    PAPER,
    SEVEN,
    PublishedRow,
    aitod_rows,
    dior_rows,
)
from rstinynet.evaluate.tables import NOTHING, TextTable, number, percent
from rstinynet.model.metadata import BEFORE_SCHEMA, renamed

AITOD_TEST = "AI-TOD v1, test"
AITOD_V2_TEST = "AI-TOD v2, test"
DIOR_TEST = "DIOR, test"
HEADS = ("AP", "AP50", "AP75", "AP_vt", "AP_t", "AP_s", "AP_m")
_SPREAD = 0.5
"""Points by which a printed mean may differ from that of the printed classes, for rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """One detector's numbers, measured by this package."""

    name: str
    on: str
    """The data, in words; `AITOD_TEST` and the like only where it is that set."""
    values: Mapping[str, float | None]
    """The seven numbers in [0, 1]; None where the data has no such object."""
    ap50_of_class: Mapping[str, float | None]
    """AP50 in [0, 1] of each class."""
    detail: str = ""
    """How it was measured, for the notes."""


def recognise(data: Path, split: str, labelled: LabelledSet) -> str:
    """What the data is in words: one of the published test sets, or the folder and split.

    AI-TOD v1's test set is told from its training part by its count of boxes. For v2 no such
    count is published for one part, so the record that `rstinynet data prepare` left is asked.
    """
    names = {name.casefold() for name in labelled.names}
    images = len(labelled)
    boxes = sum(len(image.boxes) for image in labelled.images)
    expected = aitod.EXPECTED["v1"]["test"]
    if names == set(aitod.CLASSES) and images == expected.images:
        if boxes == expected.boxes:
            return AITOD_TEST
        if split == "test" and _prepared_as(data, "v2"):
            return AITOD_V2_TEST
    if (
        names == {name.casefold() for name in dior.CLASSES}
        and images == dior.EXPECTED["test"].images
        and split == "test"
    ):
        return DIOR_TEST
    return f"{name_of(data)}, {split} ({images:,} images, {boxes:,} boxes)"


def read_run(run: Path) -> MeasuredRow:
    """The best weights of a training run, as its metrics.json has them (validation split).

    Raises DataError where the run is not finished or its files cannot be used.
    """
    try:
        metrics = json.loads((run / "metrics.json").read_bytes())
        seven = {name: _share(metrics.get(name)) for name in SEVEN}
        per_class = metrics.get("per_class", {})
        of_class = {str(name): _share(each.get("ap50")) for name, each in per_class.items()}
        data, model = _arguments(run)
    except FileNotFoundError as error:
        raise DataError(
            f"--run takes the folder of a finished training run, with metrics.json in it; {run} "
            "has none: finish it with rstinynet train --resume"
        ) from error
    except (OSError, ValueError, AttributeError, TypeError, KeyError, yaml.YAMLError) as error:
        raise DataError(f"{run}: its files cannot be used: {error}") from error
    return MeasuredRow(
        name=f"{model} ({run.resolve().name})",
        on=f"{data}, val ({metrics.get('images', '?')} images)",
        values=seven,
        ap50_of_class=of_class,
        detail=f"{metrics.get('epochs', '?')} epochs, {metrics.get('minutes', '?')} minutes",
    )


WAYS = (("area under the curve", "ap50_area"), ("11-point", "ap50_11"))
"""The two interpolations of DIOR's protocol, and their keys in an evaluation's dictionary."""


def measured_dior(
    name: str, report: Mapping[str, Any], key: str, *, on: str, detail: str
) -> MeasuredRow:
    """A row of DIOR's table from an evaluation's dictionary, in the interpolation of `key`."""
    return MeasuredRow(
        name=name,
        on=on,
        values={"ap50": report[key]},
        ap50_of_class={label: each[key] for label, each in report["per_class"].items()},
        detail=detail,
    )


def aitod_tables(measured: Sequence[MeasuredRow]) -> list[TextTable]:
    """Table I with what was measured on its set, then v2, each published row with its source."""
    tables = []
    for version, on in (("v1", AITOD_TEST), ("v2", AITOD_V2_TEST)):
        rows = [_aitod_row(row) for row in aitod_rows(version)]
        rows += [_own_row(row) for row in measured if row.on == on]
        notes = [f"Published rows: {PAPER}, Table I, after the sources that it names by number."]
        if version == "v2":
            notes = ["v1 and v2 have other annotations: never compare across them."]
        notes.append(
            "'other literature': not in the paper; reported there, and not measured by anyone "
            "here. 'measured here': by this package, AI-TOD protocol, 1500 detections of each "
            "class on an image."
        )
        tables.append(
            TextTable(
                title=f"AI-TOD {version}, test set: published, and measured here",
                columns=("method", "backbone", "year", "source", *HEADS),
                rows=tuple(rows),
                notes=(*notes, *_details(measured, on)),
                left=4,
            )
        )
    return tables


def dior_table(measured: Sequence[MeasuredRow]) -> TextTable:
    """Table II with what was measured on DIOR's test set: AP50 of each class and their mean."""
    rows = []
    doubtful = []
    for row in dior_rows():
        cells = [number(row.values[code]) for code in DIOR_CODES]
        rows.append((row.method, row.source, *cells, number(row.values["map50"])))
        mean = _mean_of(row)
        if abs(mean - (row.values["map50"] or 0)) > _SPREAD:
            doubtful.append(
                f"{row.method} ({row.values['map50']} printed, its classes give {mean})"
            )
    for own in measured:
        if own.on == DIOR_TEST:
            by_name = {name.casefold(): value for name, value in own.ap50_of_class.items()}
            cells = [percent(by_name.get(name.casefold())) for name in dior.CLASSES]
            rows.append((own.name, "measured here", *cells, percent(own.values.get("ap50"))))
    codes = ", ".join(f"{c} {n}" for c, n in zip(DIOR_CODES, dior.CLASSES, strict=True))
    notes = [
        f"Published rows: {PAPER}, Table II, after the sources that it names by number. AP50 in "
        "percent; the interpolation is not published.",
        f"Classes: {codes}.",
    ]
    if doubtful:
        notes.append(f"The printed mean is not that of the printed classes: {'; '.join(doubtful)}.")
    return TextTable(
        title="DIOR, test set: published, and measured here",
        columns=("method", "source", *DIOR_CODES, "mAP50"),
        rows=tuple(rows),
        notes=(*notes, *_details(measured, DIOR_TEST)),
        left=2,
    )


def other_table(measured: Sequence[MeasuredRow]) -> TextTable | None:
    """What was measured on other data; None where nothing was."""
    published = (AITOD_TEST, AITOD_V2_TEST, DIOR_TEST)
    others = sorted((row for row in measured if row.on not in published), key=lambda row: row.on)
    if not others:
        return None
    return TextTable(
        title="Measured here, on other data",
        columns=("method", "data", *HEADS),
        rows=tuple(
            (row.name, row.on, *(percent(row.values.get(name)) for name in SEVEN)) for row in others
        ),
        notes=(
            "AI-TOD protocol, percent. None of this is AI-TOD's or DIOR's published test set: "
            "numbers of other data cannot be compared with the published ones, and so stand apart. "
            "Compare rows of the same data only.",
            *_notes_of(others),
        ),
        left=2,
    )


def _aitod_row(row: PublishedRow) -> tuple[str, ...]:
    words = (row.method, row.backbone or NOTHING, row.year or NOTHING, row.source)
    return (*words, *(number(row.values[name]) for name in SEVEN))


def _own_row(row: MeasuredRow) -> tuple[str, ...]:
    words = (row.name, NOTHING, NOTHING, "measured here")
    return (*words, *(percent(row.values.get(name)) for name in SEVEN))


def _details(measured: Sequence[MeasuredRow], on: str) -> tuple[str, ...]:
    return _notes_of([row for row in measured if row.on == on])


def _notes_of(rows: Sequence[MeasuredRow]) -> tuple[str, ...]:
    told = [f"{row.name}: {row.detail}" for row in rows if row.detail]
    return (f"Measured here: {'; '.join(told)}.",) if told else ()


def _mean_of(row: PublishedRow) -> float:
    values = [row.values[code] for code in DIOR_CODES]
    return round(sum(value for value in values if value is not None) / len(values), 1)


def _prepared_as(data: Path, version: str) -> bool:
    folder = data if data.is_dir() else data.parent
    try:
        there = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(there, dict) and version in str(there.get("version"))


def _arguments(run: Path) -> tuple[str, str]:
    """The data folder's name and the model of a run."""
    arguments: Any = yaml.safe_load((run / "args.yaml").read_text("utf-8"))
    model = renamed(str(arguments["model"]), schema=arguments.get("schema", BEFORE_SCHEMA))
    return Path(str(arguments["data"])).name, model


def _share(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not a number from 0 to 1")
    return float(value)
