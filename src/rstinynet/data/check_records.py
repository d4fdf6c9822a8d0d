"""What is wrong with the records of a split: its boxes, its list of images, their scales."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.findings import Example, Finding, Severity, finding
from rstinynet.data.formats.coco import GSD_FIELD, is_gsd, shown

OVER_EDGE_PX = 0.5
"""How far a box may reach over the image's edge without being counted."""

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


def records_in_file(source: Path, split: str) -> list[Finding]:
    """From the JSON as it is, since reading it cuts boxes and stops at the first error."""
    try:
        root = json.loads(source.read_bytes())
    except (OSError, ValueError, RecursionError):
        return []  # said as unusable annotations
    return _boxes_in_file(root, split) + _scales_in_file(root, split)


def _boxes_in_file(root: Any, split: str) -> list[Finding]:
    try:
        sizes = {
            each["id"]: (_name_in(each), float(each["width"]), float(each["height"]))
            for each in root["images"]
        }
        rows = [
            (*sizes[each["image_id"]], repr(each["category_id"]), tuple(map(float, each["bbox"])))
            for each in root["annotations"]
            if each.get("image_id") in sizes and len(each.get("bbox", ())) == 4
        ]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
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


def _scales_in_file(root: Any, split: str) -> list[Finding]:
    try:
        wrong = [
            Example(split=split, image=_name_in(each), note=f"{GSD_FIELD} is {shown(value)}")
            for each in root["images"]
            if (value := each.get(GSD_FIELD)) is not None and not is_gsd(value)
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        return []  # said as unusable annotations
    if not wrong:
        return []
    says = f"{len(wrong)} images have a {GSD_FIELD} that is not metres a pixel, a number above 0"
    return [finding("bad scales", "error", split, wrong, says)]


def _name_in(record: Any) -> str:
    """An image's name; ValueError for one that no disk could hold and no terminal print."""
    name = str(record["file_name"])
    os.fsencode(name)
    return name


def images_twice(labelled: LabelledSet, split: str) -> list[Finding]:
    """Files that two of a split's images are: each is taught without the other's boxes."""
    ids: defaultdict[Path, list[int]] = defaultdict(list)
    for image in labelled.images:
        ids[image.path].append(image.id)
    cases = [
        Example(split=split, image=str(path), note=f"images {', '.join(map(str, own))}")
        for path, own in ids.items()
        if len(own) > 1
    ]
    if not cases:
        return []
    says = f"{len(cases)} image files are listed more than once, each time with labels of its own"
    return [finding("images twice", "error", split, cases, says)]


def boxes_in_set(labelled: LabelledSet, split: str) -> list[Finding]:
    """From the boxes as they were read, for formats without a file to look into."""
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
            found.append(finding(kind, severity, split, worst, f"{len(worst)} {says}"))
    return found
