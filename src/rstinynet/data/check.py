"""Looking through a data set for what would spoil a training run, before it costs one."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.convert import open_any, splits_of_any
from rstinynet.data.folder import annotation_file, different_classes
from rstinynet.data.image import read_rgb
from rstinynet.data.overlap import HashArray, footprint, near_pairs, overlapping, picture_hash
from rstinynet.data.stats import LEVELS, Stats, count
from rstinynet.errors import DataError

Severity = Literal["error", "warning"]

EXAMPLES = 12
"""How many of the worst cases of a kind are kept."""
OVER_EDGE_PX = 0.5
"""How far a box may reach over the image's edge without being counted."""
IMBALANCE = 100
"""Times that the most frequent class may outnumber the rarest."""
ANCHORLESS = 0.05
"""Share of boxes without an anchor from which on a set of levels is warned of."""


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


Progress = Callable[[str, int, int], None]


def check(
    data: Path | str,
    *,
    splits: Sequence[str] | None = None,
    images: bool = True,
    scale: float = 1.0,
    levels: Mapping[str, Sequence[int]] = LEVELS,
    progress: Progress = lambda split, done, total: None,
) -> Report:
    """Everything that is wrong with the splits of a data set in any of the formats.

    Args:
        data: as for `open_any`.
        splits: default those of train, val and test that are there.
        images: decode every image; without, only the annotations are looked at.
        scale: resize factor of training, for the anchors.
        levels: strides by a name, such as a model's.
        progress: called with the split, the images read and all of them.

    Raises:
        DataError: there is no split at all.
    """
    chosen = list(splits) if splits is not None else splits_of_any(data)
    if not chosen:
        raise DataError(f"{data}: no train, val or test; give a data folder or a data.yaml")
    findings: list[Finding] = []
    stats: dict[str, Stats] = {}
    seen: dict[str, _Seen] = {}
    for split in chosen:
        source = annotation_file(data, split)
        try:
            labelled = open_any(data, split)
        except DataError as error:
            findings.append(_finding("unusable annotations", "error", split, [], str(error), one=1))
            findings += _boxes_in_file(source, split) if source is not None else []
            continue
        in_file = _boxes_in_file(source, split) if source is not None else None
        findings += _boxes_in_set(labelled, split) if in_file is None else in_file
        stats[split] = count(labelled, scale=scale, levels=levels)
        findings += _balance(stats[split], split)
        seen[split] = _Seen(labelled)
        if images:
            findings += _look_at(seen[split], split, progress)
    findings += _missing_classes(stats)
    findings += _different_classes(seen)
    findings += _shared_ground(seen)
    return Report(data=str(data), findings=tuple(findings), stats=stats)


@dataclass(slots=True)
class _Seen:
    labelled: LabelledSet
    hashes: list[HashArray | None] = field(default_factory=list)

    def name(self, at: int) -> str:
        return str(self.labelled.images[at].path)


def _finding(
    kind: str, severity: Severity, split: str, cases: Sequence[Example], says: str, one: int = 0
) -> Finding:
    return Finding(
        kind=kind,
        severity=severity,
        split=split,
        count=one or len(cases),
        message=says,
        examples=tuple(cases[:EXAMPLES]),
    )


Box = tuple[float, float, float, float]
Cases = defaultdict[str, list[tuple[float, Example]]]

_BOX_KINDS: dict[str, tuple[Severity, str]] = {
    "outside": ("error", "boxes lie wholly outside their image"),
    "inside out": ("error", "boxes have a negative side"),
    "over the edge": ("warning", "boxes reach over the image's edge; they are cut to it"),
    "empty": ("warning", "boxes have no area; they are left out"),
    "below a pixel": ("warning", "boxes have a side below one pixel"),
    "duplicated": ("warning", "boxes stand twice with the same class"),
}


def _boxes_in_file(source: Path, split: str) -> list[Finding]:
    """From the JSON as it is, since reading it cuts boxes and stops at the first error."""
    try:
        root = json.loads(source.read_bytes())
        sizes = {
            each["id"]: (str(each["file_name"]), float(each["width"]), float(each["height"]))
            for each in root["images"]
        }
        rows = [
            (*sizes[each["image_id"]], each["category_id"], tuple(map(float, each["bbox"])))
            for each in root["annotations"]
            if each.get("image_id") in sizes and len(each.get("bbox", ())) == 4
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []  # said as unusable annotations
    cases: Cases = defaultdict(list)
    twice: set[tuple[object, ...]] = set()
    for name, width, height, kind, (left, top, across, down) in rows:
        box = (left, top, left + across, top + down)
        _sort_in(cases, Example(split=split, image=name, box_xyxy=box), (width, height))
        key = (name, kind, *(round(value, 2) for value in box))
        if key in twice:
            cases["duplicated"].append((0.0, Example(split=split, image=name, box_xyxy=box)))
        twice.add(key)
    return _box_findings(cases, split)


def _boxes_in_set(labelled: LabelledSet, split: str) -> list[Finding]:
    cases: Cases = defaultdict(list)
    for image in labelled.images:
        twice: set[tuple[object, ...]] = set()
        for label, corners in zip(image.labels.tolist(), image.boxes.tolist(), strict=True):
            left, top, right, bottom = corners
            box = (left, top, right, bottom)
            example = Example(split=split, image=str(image.path), box_xyxy=box)
            _sort_in(cases, example, (image.width, image.height))
            key = (label, *(round(value, 2) for value in box))
            if key in twice:
                cases["duplicated"].append((0.0, example))
            twice.add(key)
    return _box_findings(cases, split)


def _sort_in(cases: Cases, example: Example, size: tuple[float, float]) -> None:
    """Put a box among the cases of its kind, with how bad it is."""
    assert example.box_xyxy is not None
    left, top, right, bottom = example.box_xyxy
    width, height = size
    shortest = min(right - left, bottom - top)
    over = max(-left, -top, right - width, bottom - height)
    if not all(map(math.isfinite, example.box_xyxy)):
        return  # said as unusable annotations
    if shortest < 0:
        cases["inside out"].append((-shortest, example))
    elif left >= width or top >= height or right < 0 or bottom < 0:
        cases["outside"].append((over, example))
    elif shortest == 0:
        cases["empty"].append((0.0, example))
    else:
        if over > OVER_EDGE_PX:
            cases["over the edge"].append((over, example))
        if shortest < 1:
            cases["below a pixel"].append((1 - shortest, example))


def _box_findings(cases: Cases, split: str) -> list[Finding]:
    found = []
    for kind, (severity, says) in _BOX_KINDS.items():
        worst = [example for _, example in sorted(cases[kind], key=lambda each: -each[0])]
        if worst:
            found.append(_finding(kind, severity, split, worst, f"{len(worst)} {says}"))
    return found


def _balance(stats: Stats, split: str) -> list[Finding]:
    if not stats.boxes:
        says = f"not one box on {stats.images} images"
        return [_finding("no objects", "error", split, [], says, one=stats.images)]
    found = []
    present = {name: number for name, number in stats.classes.items() if number}
    most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
    if present[most] > IMBALANCE * present[least]:
        says = f"{present[most]} boxes of {most}, {present[least]} of {least}"
        found.append(_finding("class imbalance", "warning", split, [], says, one=1))
    for levels, share in stats.no_anchor.items():
        if share > ANCHORLESS:
            says = f"with {levels} no anchor lies in {share:.1%} of the boxes"
            boxes = round(share * stats.boxes)
            found.append(_finding("no anchor", "warning", split, [], says, one=boxes))
    return found


def _missing_classes(stats: dict[str, Stats]) -> list[Finding]:
    if "train" not in stats:
        return []
    found = []
    for split, each in stats.items():
        absent = [
            name
            for name, number in each.classes.items()
            if number and not stats["train"].classes.get(name)
        ]
        if absent and split != "train":
            says = f"classes that train has no box of: {', '.join(absent)}"
            found.append(_finding("untaught classes", "error", split, [], says, one=len(absent)))
    return found


def _different_classes(seen: dict[str, _Seen]) -> list[Finding]:
    """Splits whose list of classes is not that of train, which training refuses."""
    if "train" not in seen:
        return []
    train = seen["train"].labelled
    found = []
    for split, each in seen.items():
        if each.labelled.categories != train.categories:
            says = str(different_classes(Path(split), train, each.labelled, split=split))
            found.append(_finding("different classes", "error", split, [], says, one=1))
    return found


def _look_at(seen: _Seen, split: str, progress: Progress) -> list[Finding]:
    """Decode every image; keeps the hash of each."""
    damaged: list[Example] = []
    wrong: list[Example] = []
    images = seen.labelled.images
    for done, image in enumerate(images):
        progress(split, done, len(images))
        try:
            pixels = read_rgb(image.path)
        except DataError as error:
            damaged.append(Example(split=split, image=str(image.path), note=str(error)))
            seen.hashes.append(None)
            continue
        height, width = pixels.shape[:2]
        if (width, height) != (image.width, image.height):
            note = f"{width} x {height}, labelled as {image.width} x {image.height}"
            wrong.append(Example(split=split, image=str(image.path), note=note))
        seen.hashes.append(picture_hash(pixels))
    progress(split, len(images), len(images))
    found = []
    if damaged:
        says = f"{len(damaged)} images cannot be read or are cut short"
        found.append(_finding("damaged images", "error", split, damaged, says))
    if wrong:
        says = f"{len(wrong)} images are of another size than their labels say"
        found.append(_finding("mis-sized images", "error", split, wrong, says))
    return found


def _shared_ground(seen: dict[str, _Seen]) -> list[Finding]:
    found = []
    names = list(seen)
    grounds = {
        name: [footprint(image.path) for image in each.labelled.images]
        for name, each in seen.items()
    }
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            both = f"{first} and {second}"
            pairs = [
                _pair(seen, first, second, a, b, note=f"{bits} of 512 bits differ")
                for a, b, bits in near_pairs(seen[first].hashes, seen[second].hashes)
            ]
            if pairs:
                says = f"{len(pairs)} pairs of images look the same: scores on {second} flatter"
                found.append(_finding("near-duplicates", "error", both, pairs, says))
            shared = [
                _pair(seen, first, second, a, b, note="their ground overlaps")
                for a, b in overlapping(grounds[first], grounds[second])
            ]
            if shared:
                says = f"{len(shared)} pairs of images show the same ground by their georeference"
                found.append(_finding("overlapping ground", "error", both, shared, says))
    return found


def _pair(seen: dict[str, _Seen], first: str, second: str, a: int, b: int, *, note: str) -> Example:
    return Example(split=first, image=seen[first].name(a), other=seen[second].name(b), note=note)
