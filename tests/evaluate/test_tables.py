"""Tables as text, and the published rows in them."""

from __future__ import annotations

import csv
import math

import pytest

from rstinynet.evaluate.published import DIOR_CODES, ablation_rows, aitod_rows, dior_rows
from rstinynet.evaluate.tables import NOTHING, TextTable, number, percent, write_tables

TABLE = TextTable(
    title="A & B_c",
    columns=("name", "AP ± 1"),
    rows=(("x|y_z <b>, 50 %", "1.0"), ("empty", NOTHING)),
    notes=("Δ 100² #1",),
)


def test_markdown_escapes_what_would_break_the_table():
    assert TABLE.as_text("markdown").splitlines() == [
        "**A & B\\_c**",
        "",
        "| name | AP ± 1 |",
        "| --- | ---: |",
        "| x\\|y\\_z &lt;b>, 50 % | 1.0 |",
        f"| empty | {NOTHING} |",
        "",
        "Δ 100² #1",
    ]


def test_csv_keeps_the_text_and_leaves_what_is_missing_empty():
    lines = TABLE.as_text("csv").splitlines()
    assert lines[:2] == ["# A & B_c", "# Δ 100² #1"]
    assert list(csv.reader(lines[2:])) == [
        ["name", "AP ± 1"],
        ["x|y_z <b>, 50 %", "1.0"],
        ["empty", ""],
    ]


def test_latex_escapes_its_own_letters():
    text = TABLE.as_text("latex")
    assert r"\caption{A \& B\_c}" in text
    assert r"x|y\_z \textless{}b\textgreater{}, 50 \% & 1.0 \\" in text
    assert r"$\Delta$ 100$^2$ \#1" in text
    assert text.count("{tabular}") == 2


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match="must have 2 cells, not 1"):
        TextTable(title="", columns=("a", "b"), rows=(("1",),))


def test_all_three_forms_are_written(tmp_path):
    written = write_tables([TABLE, TABLE], tmp_path / "new" / "t.v1")
    assert [path.name for path in written] == ["t.v1.md", "t.v1.csv", "t.v1.tex"]
    assert written[0].read_text().count("| name |") == 2


def test_numbers_that_are_not_there_are_dashes():
    assert [percent(None), percent(math.nan), percent(0.0), number(1234567, 0)] == [
        NOTHING,
        NOTHING,
        "0.0",
        "1,234,567",
    ]


def test_the_published_rows_are_the_papers():
    table1 = {row.method: row for row in aitod_rows()}
    assert list(table1["RS-TinyNet"].values.values()) == [34.2, 65.2, 31.5, 14.9, 34.5, 41.5, 46.6]
    assert table1["FFCA-YOLO"].values["ap"] is None
    assert sum(row.source.startswith("Table I,") for row in aitod_rows()) == 23
    assert not any("Table" in row.source for row in aitod_rows("v2"))
    table2 = {row.method: row for row in dior_rows()}
    assert len(table2) == 15
    assert table2["RS-TinyNet"].values["map50"] == 74.3
    assert tuple(table2["DETR"].values) == (*DIOR_CODES, "map50")
    assert ablation_rows()["full"].ap - ablation_rows()["baseline"].ap == pytest.approx(6.3)
