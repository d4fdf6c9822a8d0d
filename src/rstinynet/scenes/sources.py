"""Which files a command is to search, and the names their results get."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rstinynet.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".jp2", ".bmp", ".webp", ".vrt"})
"""Files of a folder that are taken for images."""


def find(sources: Iterable[str | Path]) -> list[Path]:
    """Files named by paths, folders (their images, not those of subfolders) and globs, in order.

    A file named twice is taken once. A named file that does not exist is kept, so that it is
    reported beside the others. Raises DataError for a folder without images or a glob without
    matches.
    """
    found: dict[Path, None] = {}
    for source in sources:
        for path in _expand(str(source)):
            found.setdefault(path)
    return list(found)


def names(paths: Sequence[Path]) -> list[str]:
    """A name for each path's results: its stem, or more of the path where stems are the same.

    Names differ even where the file system does not tell upper from lower case.
    """
    chosen = [path.stem for path in paths]
    for widen in (_with_suffix, _with_folder):
        same = Counter(name.casefold() for name in chosen)
        chosen = [
            widen(path) if same[name.casefold()] > 1 else name
            for path, name in zip(paths, chosen, strict=True)
        ]
    taken: set[str] = set()
    for index, name in enumerate(chosen):
        unique, number = name, 2
        while unique.casefold() in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique.casefold())
        chosen[index] = unique
    return chosen


def _expand(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        images = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not images:
            raise DataError(
                f"{source}: the folder has no images ({', '.join(sorted(SUFFIXES))}); images in "
                f"subfolders are found by a glob such as '{path / '**' / '*.tif'}'"
            )
        return images
    if not path.exists() and glob.has_magic(source):
        matches = sorted(Path(match) for match in glob.glob(source, recursive=True))
        images = [match for match in matches if match.is_file()]
        if not images:
            raise DataError(f"{source}: no file matches this pattern; check it and its quotes")
        return images
    return [path]


def _with_suffix(path: Path) -> str:
    return f"{path.stem}_{path.suffix.lstrip('.').lower()}"


def _with_folder(path: Path) -> str:
    return f"{path.resolve().parent.name}_{_with_suffix(path)}"
