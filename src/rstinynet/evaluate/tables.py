"""A table of text cells, written as Markdown, CSV and LaTeX with the same content."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rstinynet.files import write_bytes

Form = Literal["markdown", "csv", "latex"]
FORMS: tuple[Form, ...] = get_args(Form)
SUFFIXES: dict[Form, str] = {"markdown": ".md", "csv": ".csv", "latex": ".tex"}
NOTHING = "–"  # noqa: RUF001
"""Stands where a number was not published or not measured."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "²": r"$^2$",
    "Δ": r"$\Delta$",
    "✓": r"$\bullet$",
    "×": r"$\times$",  # noqa: RUF001
    "–": "--",  # noqa: RUF001
    "−": r"$-$",  # noqa: RUF001
}
_MARKDOWN = {"|": r"\|", "<": "&lt;", "*": r"\*", "_": r"\_", "`": r"\`"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """Rows of text under columns, with a title above and notes below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    left: int = 1
    """How many of the first columns hold words; the others hold numbers, set to the right."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"a row must have {len(self.columns)} cells, not {len(row)}: {row}"
                )

    def as_text(self, form: Form) -> str:
        """The table in one form, ended by a line break."""
        return {"markdown": self._markdown, "csv": self._csv, "latex": self._latex}[form]()

    def _markdown(self) -> str:
        rules = ["---" if at < self.left else "---:" for at in range(len(self.columns))]
        lines = [f"**{_escaped(self.title, _MARKDOWN)}**", ""]
        for row in (self.columns, rules, *self.rows):
            cells = row if row is rules else [_escaped(cell, _MARKDOWN) for cell in row]
            lines.append(f"| {' | '.join(cells)} |")
        for note in self.notes:
            lines += ["", _escaped(note, _MARKDOWN)]
        return "\n".join(lines) + "\n"

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([["" if c == NOTHING else c for c in row] for row in self.rows])
        return "".join(f"# {line}\n" for line in (self.title, *self.notes)) + text.getvalue()

    def _latex(self) -> str:
        """A table of the package booktabs."""
        spec = "l" * self.left + "r" * (len(self.columns) - self.left)
        ends = r" \\"
        body = [" & ".join(_escaped(cell, _LATEX) for cell in row) + ends for row in self.rows]
        heads = " & ".join(_escaped(cell, _LATEX) for cell in self.columns) + ends
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(self.title, _LATEX)}}}"]
        lines += [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", heads, r"\midrule", *body]
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\footnotesize {_escaped(note, _LATEX)}" for note in self.notes]
        return "\n".join([*lines, r"\end{table}"]) + "\n"


def write_tables(tables: Sequence[TextTable], stem: Path) -> list[Path]:
    """Write the tables, one after the other, as STEM.md, STEM.csv and STEM.tex."""
    written = []
    for form in FORMS:
        path = stem.with_name(stem.name + SUFFIXES[form])
        write_bytes(path, "\n".join(table.as_text(form) for table in tables).encode())
        written.append(path)
    return written


def percent(value: float | None) -> str:
    """A share in [0, 1] as a percentage with one digit; a dash for None and NaN."""
    return number(None if value is None else 100 * value)


def number(value: float | None, digits: int = 1) -> str:
    """A number with `digits` decimals and thousands apart; a dash for None and NaN."""
    return NOTHING if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def _escaped(text: str, table: dict[str, str]) -> str:
    return "".join(table.get(letter, letter) for letter in " ".join(text.split()))
