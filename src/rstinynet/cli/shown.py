"""What `rstinynet predict` reads from its options and shows on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rstinynet.errors import UsageError

if TYPE_CHECKING:
    from pyproj import CRS

WIDTH = 120
"""Columns of tables that no terminal shows."""


def crs_name(crs: CRS | None) -> str | None:
    """EPSG:32611 or the like; the system's own name where no authority lists it."""
    if crs is None:
        return None
    authority = crs.to_authority()
    return crs.name if authority is None else ":".join(authority)


def progress_bar(console: Console) -> Progress:
    """Tiles done, of how many, and how long the rest takes."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tiles"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def line(record: dict[str, Any]) -> str:
    """What was found in a source, where it is, and what to know of it."""
    counts = ", ".join(f"{n} {name}" for name, n in record["counts"].items()) or "nothing found"
    files = ", ".join(Path(file).name for file in record["files"].values())
    to = f" → {escape(files)}" if files else ""
    return (
        f"[green]done[/] {escape(record['source'])} ({record['width']} by {record['height']}): "
        f"{escape(counts)} in {record['seconds']:.1f} s{to}{notes_of(record['notes'])}"
    )


def notes_of(notes: Sequence[Any]) -> str:
    """Lines for texts or warnings, each once."""
    texts = dict.fromkeys(str(getattr(note, "message", note)) for note in notes)
    return "".join(f"\n  [yellow]note[/] {escape(text)}" for text in texts)


def told_apart(paths: list[str]) -> list[str]:
    """Names of files for headings: with their folders where two have one name.

    Of models that search together, separated by commas, each counts.
    """
    from rstinynet.model.located import parted

    short = [[Path(one).name for one in parted(path)] for path in paths]
    every = list(chain.from_iterable(short))
    return [",".join(names) for names in short] if len(set(every)) == len(every) else paths


def listed(text: str | None) -> list[str] | None:
    """Names separated by commas. UsageError where there are none."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError("a list of names separated by commas must not be empty")
    return parts


def numbers(text: str | None) -> list[int] | None:
    """Bands separated by commas. UsageError for anything but numbers."""
    parts = listed(text)
    if parts is None:
        return None
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--bands takes numbers from 1 separated by commas, not {text!r}")
    return [int(part) for part in parts]
