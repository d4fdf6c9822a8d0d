"""What every prepared set shares: expected counts, whole images, and a set that appears at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstinynet import files
from rstinynet.data.formats.coco import read_coco
from rstinynet.data.formats.common import image_size
from rstinynet.errors import DataError, UsageError

RECORD = "prepared.json"
LISTED = 6
"""How many missing names an error lists of each kind."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done and how many there are."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one split must hold; None where nothing is published."""

    images: int | None
    boxes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A prepared data set."""

    folder: Path
    version: str
    splits: dict[str, Counts]
    """What was written, by split."""
    missing: int
    """Images that were left out because they were not there."""


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def require_same_version(out: Path, version: str) -> None:
    """Refuse to mix two versions of a data set in one folder.

    Raises:
        UsageError: `out` holds another version.
    """
    record = out / RECORD
    if not record.is_file():
        return
    try:
        there = json.loads(record.read_bytes()).get("version")
    except (ValueError, AttributeError):
        there = "an unreadable record"
    if there != version:
        raise UsageError(
            f"{out} holds {there}, not {version}: their numbers must not be mixed; "
            "give another --out"
        )


def is_whole(path: Path, size: tuple[int, int]) -> bool:
    """Whether an image of this (width, height) is there, to its end marker."""
    if not path.is_file():
        return False
    try:
        if image_size(path) != size:
            return False
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            tail = file.read()
    except (DataError, OSError):
        return False
    marker = b"\xff\xd9" if path.suffix.lower() in (".jpg", ".jpeg") else b"IEND"
    return marker in tail


def refuse_missing(title: str, missing: Mapping[str, Sequence[str]], where: str) -> None:
    """Raise an error that lists what is missing, by kind, and where it is to be had.

    Raises:
        DataError: anything is missing.
    """
    wanting = {kind: sorted(names) for kind, names in missing.items() if names}
    if not wanting:
        return
    lines = [f"{title}: cannot be prepared yet, since some of it is missing or damaged:"]
    for kind, names in wanting.items():
        listed = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
        lines.append(f"  {len(names)} {kind}: {listed}")
    lines.append(where)
    raise DataError("\n".join(lines))


def check_counts(split: str, found: Counts, expected: Mapping[str, Counts], source: str) -> None:
    """Compare with what was published.

    Raises:
        DataError: the numbers of images or boxes differ.
    """
    wanted = expected.get(split)
    if wanted is None:
        return
    for what, count, right in (
        ("images", found.images, wanted.images),
        ("boxes", found.boxes, wanted.boxes),
    ):
        if right is not None and count != right:
            raise DataError(
                f"{source}: '{split}' has {count} {what}, the published set has {right}; the file "
                "is of another version or not whole: download it again"
            )


def publish(
    out: Path, contents: Mapping[str, dict[str, Any]], record: dict[str, Any]
) -> dict[str, Counts]:
    """Write the COCO files of all splits, after reading each back as training will.

    They are written beside and renamed when the last one has been read, so that a set with
    annotations under its final names is whole. Returns what the reader found.
    """
    found: dict[str, Counts] = {}
    staging = out / ".preparing"
    for split, content in contents.items():
        files.write_json(staging / f"{split}.json", content)
        labelled = read_coco(staging / f"{split}.json", out / "images")
        boxes = sum(len(image.boxes) for image in labelled.images)
        found[split] = Counts(len(labelled), boxes)
    for split in contents:
        (staging / f"{split}.json").replace(out / f"{split}.json")
    staging.rmdir()
    splits = {name: {"images": each.images, "boxes": each.boxes} for name, each in found.items()}
    files.write_json(out / RECORD, {**record, "splits": splits})
    return found
