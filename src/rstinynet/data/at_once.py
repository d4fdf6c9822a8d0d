"""A data set that appears whole: no labels of another one beside it, and none before the last."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rstinynet.errors import UsageError

LABELS = (
    *(
        f"{folder}*{suffix}"
        for folder in ("", "annotations/")
        for suffix in (".json", ".csv", ".gpkg", ".geojson")
    ),
    "data.yaml",
    "labels/**/*.txt",
    "Annotations/*.xml",
    "ImageSets/Main/*.txt",
    "labelTxt/*.txt",
    "*/labelTxt/*.txt",
)
"""Where a data folder has its labels, in any of the formats."""
NAMED = 5
"""How many files an error names."""


def refuse_others(out: Path, written: Collection[Path], *, images: Collection[Path] = ()) -> None:
    """Refuse a folder with label files (or `images` that count as labelled) not among `written`.

    They would be read as one set with the new ones: another split's are a leak.

    Raises:
        UsageError: there are such files.
    """
    ours = set(written)
    there = {path for pattern in LABELS for path in out.glob(pattern)} | set(images)
    others = sorted(str(path.relative_to(out)) for path in there - ours)
    if others:
        named = ", ".join(others[:NAMED]) + (", ..." if len(others) > NAMED else "")
        raise UsageError(
            f"{out} holds a data set of which this would leave {len(others)} files, to be read as "
            f"one set with the new: {named}; give a new folder as --out, or remove them"
        )


@contextmanager
def labels_at_once(out: Path) -> Iterator[Path]:
    """Yield a folder to write labels into, as they are to lie in `out`; moved there on success.

    On any error they are removed, and labels that stood in `out` are left as they were.
    """
    stood = out.is_dir()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".labels.", dir=out) as folder:
            staged = Path(folder)
            yield staged
            paths = [path for path in sorted(staged.rglob("*")) if path.is_file()]
            # What makes the others a set, a list or a data.yaml, comes last.
            for path in sorted(paths, key=lambda path: _is_list(path.relative_to(staged))):
                final = out / path.relative_to(staged)
                final.parent.mkdir(parents=True, exist_ok=True)
                path.replace(final)
    except BaseException:
        if not stood:
            with suppress(OSError):  # images are kept, so that the next run goes on
                out.rmdir()
        raise


def _is_list(path: Path) -> bool:
    return len(path.parts) == 1 or path.parts[0] == "ImageSets"
