"""A measured number stands among published ones only where it was measured on their images."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from rstinynet.data.catalog import aitod, dior
from rstinynet.errors import DataError
from rstinynet.evaluate.comparison import (
    AITOD_TEST,
    AITOD_V2_TEST,
    DIOR_TEST,
    WAYS,
    MeasuredRow,
    aitod_tables,
    dior_table,
    measured_dior,
    other_table,
    read_run,
    recognise,
)
from rstinynet.evaluate.published import SEVEN


@dataclass
class Image:
    boxes: np.ndarray


@dataclass
class Set:
    """As much of a labelled set as is looked at."""

    names: tuple[str, ...]
    counts: tuple[int, int]
    images: list[Image] = field(init=False)

    def __post_init__(self):
        self.images = [Image(np.zeros((self.counts[1], 4)))] * min(self.counts[0], 1)

    def __len__(self):
        return self.counts[0]


def row(name, on, ap=0.5):
    return MeasuredRow(
        name=name,
        on=on,
        values=dict.fromkeys(SEVEN, ap),
        ap50_of_class={"Dam": 0.25},
        detail="for a test",
    )


@pytest.mark.parametrize(
    ("names", "counts", "split", "expected"),
    [
        (aitod.CLASSES, (14_018, 347_617), "test", AITOD_TEST),
        (aitod.CLASSES, (14_018, 353_004), "trainval", "d, trainval (14,018 images, 353,004 boxe"),
        (aitod.CLASSES, (14_017, 347_617), "test", "d, test (14,017 images"),
        (aitod.CLASSES[:4], (14_018, 347_617), "test", "d, test"),
        (aitod.CLASSES, (14_018, 370_000), "test", "d, test"),
        (dior.CLASSES, (11_738, 1), "test", DIOR_TEST),
        (dior.CLASSES, (11_738, 1), "val", "d, val"),
    ],
)
def test_published_test_sets_are_told_from_all_others(names, counts, split, expected, tmp_path):
    assert recognise(tmp_path / "d", split, Set(names, counts)).startswith(expected)


def test_version_two_is_known_by_the_record_of_its_preparation(tmp_path):
    given = Set(aitod.CLASSES, (14_018, 370_000))
    (tmp_path / "prepared.json").write_text(json.dumps({"version": "AI-TOD v2"}))
    assert recognise(tmp_path, "test", given) == AITOD_V2_TEST
    (tmp_path / "prepared.json").write_text("[]")
    assert recognise(tmp_path, "test", given) != AITOD_V2_TEST


def test_each_row_is_put_where_it_belongs():
    measured = [
        row("one", AITOD_TEST, 0.111),
        row("two", AITOD_V2_TEST, 0.222),
        row("three", DIOR_TEST, 0.333),
        row("four", "mine, val", 0.444),
    ]
    version1, version2 = (table.as_text("markdown") for table in aitod_tables(measured))
    on_dior = dior_table(measured).as_text("markdown")
    other = other_table(measured)
    assert other is not None
    apart = other.as_text("markdown")
    texts = (version1, version2, on_dior, apart)
    for at, (name, value) in enumerate(
        [("one", "11.1"), ("two", "22.2"), ("three", "33.3"), ("four", "44.4")]
    ):
        holding = [name in [c.strip() for c in text.split("|")] for text in texts]
        assert holding == [at == other_at for other_at in range(4)]
        assert value in texts[at]
    assert "| one | – | – | measured here |" in version1  # noqa: RUF001
    assert "cannot be compared" in apart
    assert other_table(measured[:3]) is None


def test_classes_of_dior_meet_by_name_and_a_doubtful_mean_is_said():
    table = dior_table([row("ours", DIOR_TEST)])
    own = dict(zip(table.columns, table.rows[-1], strict=True))
    assert (own["DM"], own["AL"], own["mAP50"]) == ("25.0", "–", "50.0")  # noqa: RUF001
    [said] = [note for note in table.notes if "printed mean" in note]
    assert "DETR (68.6 printed, its classes give 51.0)" in said
    assert said.count("printed,") == 1


def test_both_interpolations_of_dior_are_rows_of_its_table():
    report = {"ap50_area": 0.7, "ap50_11": 0.6}
    report["per_class"] = {"DAM": {"ap50_area": 0.4, "ap50_11": 0.3}}
    rows = [measured_dior(way, report, key, on=DIOR_TEST, detail="") for way, key in WAYS]
    table = dior_table(rows)
    ours = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows[-2:]]
    assert [(each["DM"], each["mAP50"]) for each in ours] == [("40.0", "70.0"), ("30.0", "60.0")]


def finished_run(folder: Path, **changes):
    folder.mkdir()
    metrics = dict.fromkeys(SEVEN, 0.25) | {"images": 3, "epochs": 2.0, "minutes": 1.0}
    metrics["per_class"] = {"ship": {"ap50": None}}
    (folder / "metrics.json").write_text(json.dumps(metrics | changes))
    (folder / "args.yaml").write_text("model: yolo11n\ndata: /somewhere/private/mine\n")
    return folder


def test_a_run_is_read_with_its_data_by_name_only(tmp_path):
    read = read_run(finished_run(tmp_path / "run"))
    assert (read.name, read.on) == ("yolo11n (run)", "mine, val (3 images)")
    assert read.values["ap"] == 0.25
    assert read.ap50_of_class == {"ship": None}
    assert "private" not in str(read)


def test_runs_that_are_not_finished_or_not_sound_are_refused(tmp_path):
    with pytest.raises(DataError, match="finished training run"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="cannot be used"):
        read_run(finished_run(tmp_path / "odd", ap="high"))
    with pytest.raises(DataError, match="cannot be used"):
        read_run(finished_run(tmp_path / "list", per_class=[1]))
