"""What a look through a data set found, for print, JSON and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rstinynet.data.stats import Stats

Severity = Literal["error", "warning"]

EXAMPLES = 12
"""How many of the worst cases of a kind are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One case: an image, where in it, and for pairs the other image."""

    split: str
    image: str
    box_xyxy: tuple[float, float, float, float] | None = None
    note: str = ""
    other: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """All cases of one kind."""

    kind: str
    severity: Severity
    """An error would spoil a training run or its evaluation; a warning may be meant so."""
    split: str
    count: int
    message: str
    examples: tuple[Example, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        record = {name: getattr(self, name) for name in ("kind", "severity", "split", "count")}
        cases = [
            {name: getattr(each, name) for name in ("split", "image", "box_xyxy", "note", "other")}
            for each in self.examples
        ]
        return {**record, "message": self.message, "examples": cases}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found in a data set."""

    data: str
    findings: tuple[Finding, ...]
    stats: dict[str, Stats]

    @property
    def errors(self) -> int:
        """Findings that would spoil a training run."""
        return sum(each.severity == "error" for each in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "data": self.data,
            "errors": self.errors,
            "warnings": len(self.findings) - self.errors,
            "findings": [each.as_dict() for each in self.findings],
            "stats": {split: each.as_dict() for split, each in self.stats.items()},
        }


def finding(
    kind: str, severity: Severity, split: str, cases: Sequence[Example], says: str, one: int = 0
) -> Finding:
    """All `cases` of a kind, of which the first are kept; `one` counts what has no cases."""
    return Finding(
        kind=kind,
        severity=severity,
        split=split,
        count=one or len(cases),
        message=says,
        examples=tuple(cases[:EXAMPLES]),
    )
