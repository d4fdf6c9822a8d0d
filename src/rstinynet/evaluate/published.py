"""Published numbers: the RS-TinyNet paper's three tables, and a few of other literature.

They are facts of their papers, kept in `papers/*.csv` and never measured by this package. Source:
Jiang, Zhang and Mao, "RS-TinyNet: Stage-wise Feature Fusion Network for Detecting Tiny Objects in
Remote Sensing Images", arXiv:2507.13120, 2025, Tables I (AI-TOD), II (DIOR) and III (ablation). A
row's own source is its reference number there. All values are percentages as printed; None where
none is printed.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

PAPER = "Jiang, Zhang and Mao, RS-TinyNet, arXiv:2507.13120, 2025"
SEVEN = ("ap", "ap50", "ap75", "ap_vt", "ap_t", "ap_s", "ap_m")
DIOR_CODES = (
    "AL",
    "AT",
    "BF",
    "BC",
    "BG",
    "CM",
    "DM",
    "EA",
    "ES",
    "GC",
    "GF",
    "HB",
    "OP",
    "SP",
    "SD",
    "ST",
    "TC",
    "TS",
    "VH",
    "WM",
)
"""The paper's code of each class, in the order of `rstinynet.data.catalog.dior.CLASSES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """One row of a published table."""

    method: str
    source: str
    """The table and the reference number that the paper gives for the row."""
    values: Mapping[str, float | None]
    """Percentages by column."""
    backbone: str = ""
    year: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedAblation:
    """One row of Table III (AI-TOD test, scale m, 600 epochs)."""

    ap: float
    ap50: float
    ap75: float
    parameters: int


@functools.cache
def aitod_rows(version: str = "v1") -> tuple[PublishedRow, ...]:
    """Table I (test set of AI-TOD v1) and later rows; for "v2" rows of other literature only."""
    return tuple(
        PublishedRow(
            method=row["method"],
            source=row["source"],
            backbone=row["backbone"],
            year=row["year"],
            values={name: _value(row[name]) for name in SEVEN},
        )
        for row in _read("aitod.csv")
        if row["set"] == version
    )


@functools.cache
def dior_rows() -> tuple[PublishedRow, ...]:
    """Table II: AP50 of each class of DIOR's test set, and their mean."""
    return tuple(
        PublishedRow(
            method=row["method"],
            source=row["source"],
            values={name: _value(row[name]) for name in (*DIOR_CODES, "map50")},
        )
        for row in _read("dior.csv")
    )


@functools.cache
def ablation_rows() -> Mapping[str, PublishedAblation]:
    """Table III, by the names of `rstinynet.model.presets.PAPER_ROWS` and "baseline"."""
    return {
        row["row"]: PublishedAblation(
            ap=float(row["ap"]),
            ap50=float(row["ap50"]),
            ap75=float(row["ap75"]),
            parameters=int(row["parameters"]),
        )
        for row in _read("ablation.csv")
    }


def _read(name: str) -> list[dict[str, str]]:
    text = (resources.files("rstinynet") / "evaluate" / "papers" / name).read_text("utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def _value(text: str) -> float | None:
    return float(text) if text else None
