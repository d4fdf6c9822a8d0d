"""`rstinynet tables`: the paper's tables with published rows, and our own beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rstinynet.evaluate.comparison import MeasuredRow
    from rstinynet.evaluate.tables import TextTable


def tables(
    which: Annotated[
        str, typer.Option("--table", help="Which: aitod (Table I), dior (Table II) or all.")
    ] = "all",
    run: Annotated[
        list[Path] | None,
        typer.Option(help="A finished training run whose numbers to insert. Repeatable."),
    ] = None,
    results: Annotated[
        list[str] | None,
        typer.Option(help="name=dets.json: a COCO results file to score on --data. Repeatable."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled data that the results were made on.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --data.")] = "test",
    form: Annotated[
        str, typer.Option("--format", help="What is printed: markdown, csv or latex.")
    ] = "markdown",
    out: Annotated[
        Path | None, typer.Option(help="Also write tables.md, .csv and .tex into this folder.")
    ] = None,
) -> None:
    """Print published rows, and measured ones where they were measured on the same test set.

    What was measured on other data goes into a table of its own.
    """
    from typing import get_args

    from rstinynet.errors import UsageError
    from rstinynet.evaluate.comparison import aitod_tables, dior_table, other_table, read_run
    from rstinynet.evaluate.tables import Form, write_tables
    from rstinynet.files import check_folder_place

    if which not in ("aitod", "dior", "all"):
        raise UsageError(f"--table must be aitod, dior or all, not {which!r}")
    if form not in get_args(Form):
        raise UsageError(f"--format must be one of {', '.join(get_args(Form))}, not {form!r}")
    if bool(results) != (data is not None):
        raise UsageError("--results name=FILE and --data DIR go together")
    if out is not None:
        check_folder_place(out, option="--out")
    measured = [read_run(folder) for folder in run or []]
    if results and data is not None:
        measured += _score(_named(results), data, split)
    _check_shown(which, measured)
    made: list[TextTable] = []
    if which in ("aitod", "all"):
        made += aitod_tables(measured)
    if which in ("dior", "all"):
        made.append(dior_table(measured))
    apart = other_table(measured)
    if apart is not None:
        made.append(apart)
    print("\n".join(table.as_text(form) for table in made), end="")  # type: ignore[arg-type]
    if out is not None:
        write_tables(made, out / "tables")


def _check_shown(which: str, measured: list[MeasuredRow]) -> None:
    """UsageError where a measured row belongs into a table that is not asked for."""
    from rstinynet.errors import UsageError
    from rstinynet.evaluate.comparison import AITOD_TEST, AITOD_V2_TEST, DIOR_TEST

    table_of = {AITOD_TEST: "aitod", AITOD_V2_TEST: "aitod", DIOR_TEST: "dior"}
    for row in measured:
        if which not in ("all", table_of.get(row.on, which)):
            raise UsageError(
                f"--table {which} has no place for {row.name}, measured on {row.on}: give --table "
                f"{table_of[row.on]} or all"
            )


def _named(results: list[str]) -> dict[str, Path]:
    from rstinynet.errors import UsageError

    named: dict[str, Path] = {}
    for text in results:
        name, separator, path = text.partition("=")
        if not (separator and name.strip() and path.strip()):
            raise UsageError(f"--results takes name=FILE, not {text!r}")
        if name.strip() in named:
            raise UsageError(f"--results names must differ; {name.strip()!r} is given twice")
        named[name.strip()] = Path(path.strip())
    return named


def _score(named: dict[str, Path], data: Path, split: str) -> list[MeasuredRow]:
    from rstinynet.data.folder import open_split
    from rstinynet.data.formats.coco import require_annotations
    from rstinynet.evaluate.coco import evaluate
    from rstinynet.evaluate.comparison import (
        DIOR_TEST,
        WAYS,
        MeasuredRow,
        measured_dior,
        recognise,
    )
    from rstinynet.evaluate.protocols import DIOR
    from rstinynet.evaluate.published import SEVEN
    from rstinynet.evaluate.results import read_results

    labelled = require_annotations(open_split(data, split), source=data)
    on = recognise(data, split, labelled)
    rows = []
    for name, path in named.items():
        found = read_results(path, labelled)
        told = {"on": on, "detail": f"results file {path.name}"}
        if on == DIOR_TEST:
            report = evaluate(labelled, found, protocol=DIOR).as_dict()
            # The published interpolation is not known, so both are given.
            rows += [measured_dior(f"{name}, {way}", report, key, **told) for way, key in WAYS]
            continue
        report = evaluate(labelled, found).as_dict()
        rows.append(
            MeasuredRow(
                name=name,
                values={key: report[key] for key in SEVEN},
                ap50_of_class={key: each["ap50"] for key, each in report["per_class"].items()},
                **told,
            )
        )
    return rows
