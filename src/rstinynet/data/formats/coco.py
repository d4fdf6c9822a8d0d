"""COCO JSON: annotations in and out, results out.

Sources: the COCO data format (https://cocodataset.org/#format-data, #format-results) and, for
`neg_category_ids` and `not_exhaustive_category_ids`, LVIS (https://www.lvisdataset.org/dataset).
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

import numpy as np

from rstinynet import files
from rstinynet.boxes import to_xywh
from rstinynet.data.annotations import Category, LabelledImage, LabelledSet, fingerprint_of
from rstinynet.errors import DataError

log = logging.getLogger(__name__)

Record = dict[str, Any]
GSD_FIELD = "gsd_m"
"""Field of an image record: metres of ground that a pixel's side is."""
INTEGERS = 2**63
"""Ids and sizes must be below this: 64 bits, of which one is the sign."""
LISTED = 5
"""How many offending names an error lists."""
SHOWN = 100
"""How many characters of an offending value an error shows."""


def read_coco(json_path: Path | str, images_dir: Path | str | Sequence[Path]) -> LabelledSet:
    """The labelled set in a COCO file whose images lie under `images_dir`.

    With several folders, each image is taken from the first that has it. Boxes that reach over
    the image's edge are cut to it, boxes without area are left out, and both are logged with
    their number. The set is partly labelled when any image has the key `neg_category_ids`.

    Raises:
        DataError: anything else in the file is not as COCO's format has it, a box is not finite,
            has a negative side or lies wholly outside its image, or image files are missing.
    """
    source = Path(json_path)
    content = _read(source)
    root = _parse(source, content)
    categories = _categories(source, root["categories"])
    label_of = {category.id: label for label, category in enumerate(categories)}
    images = _by_id(source, "image", root["images"])
    annotations = _annotations_by_image(source, root["annotations"], images, label_of)
    folders = [Path(images_dir)] if isinstance(images_dir, str | Path) else list(images_dir)
    paths = _image_paths(source, images, folders)
    partial = any("neg_category_ids" in record for record in images.values())
    tally = {"clipped": 0, "empty": 0}
    labelled = tuple(
        _labelled_image(source, record, paths[id_], annotations[id_], label_of, partial, tally)
        for id_, record in images.items()
    )
    if tally["clipped"]:
        log.warning("%s: %d boxes reach outside their image: cut to it", source, tally["clipped"])
    if tally["empty"]:
        log.warning("%s: %d boxes without area: left out", source, tally["empty"])
    return LabelledSet(images=labelled, categories=categories, fingerprint=fingerprint_of(content))


def require_annotations(labelled: LabelledSet, *, source: Path | str) -> LabelledSet:
    """The same set.

    Raises:
        DataError: it has no box of an object at all: nothing can be learnt or measured from it.
    """
    if not any((~image.crowd).any() for image in labelled.images):
        raise DataError(
            f"{source}: no annotations: {len(labelled)} images and not one box; training "
            "and evaluation need boxes: check that this is the annotation file and not the list "
            "of images"
        )
    return labelled


def write_coco(labelled: LabelledSet, path: Path | str, *, images_dir: Path | str) -> None:
    """Write the set as a COCO file; file names are relative to `images_dir`."""
    partial = not all(image.known.all() for image in labelled.images)
    ids = np.array([category.id for category in labelled.categories], np.int64)
    images: list[Record] = []
    annotations: list[Record] = []
    for image in labelled.images:
        record: Record = {
            "id": image.id,
            "file_name": Path(os.path.relpath(image.path, images_dir)).as_posix(),
            "width": image.width,
            "height": image.height,
        }
        if partial:
            there = np.isin(np.arange(len(ids)), image.labels)
            record["neg_category_ids"] = ids[image.known & ~there].tolist()
        if (image.known & ~image.exhaustive).any():
            record["not_exhaustive_category_ids"] = ids[image.known & ~image.exhaustive].tolist()
        images.append(record)
        before = len(annotations)
        annotations.extend(
            {
                "id": before + 1 + row,
                "image_id": image.id,
                "category_id": int(ids[label]),
                "bbox": box,
                "area": float(image.areas[row]),
                "iscrowd": int(image.crowd[row]),
            }
            for row, (box, label) in enumerate(
                zip(to_xywh(image.boxes).tolist(), image.labels.tolist(), strict=True)
            )
        )
    categories = [{"id": category.id, "name": category.name} for category in labelled.categories]
    files.write_json(path, {"images": images, "annotations": annotations, "categories": categories})


def _read(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except FileNotFoundError:
        raise DataError(f"annotation file not found: {source}; check the path") from None
    except OSError as error:
        raise DataError(f"annotation file cannot be read: {source}: {error.strerror}") from error


def _parse(source: Path, content: bytes) -> dict[str, list[Any]]:
    try:
        root = json.loads(content)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, too
        raise DataError(
            f"{source}: not valid JSON ({error}); export it again or check that it is whole"
        ) from error
    if not isinstance(root, dict):
        raise DataError(f"{source}: a COCO file is one object, this is a {type(root).__name__}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(root.get(key), list):
            raise DataError(f"{source}: a COCO file needs the list '{key}'; found {sorted(root)}")
        for index, record in enumerate(root[key]):
            if not isinstance(record, dict):
                raise DataError(f"{source}: {key}[{index}] must be an object, not {shown(record)}")
    if not root["categories"]:
        raise DataError(f"{source}: 'categories' is empty; name at least one class")
    return root


def _integer(source: Path, what: str, record: Record, key: str, *, least: int | None = None) -> int:
    value: Any = record.get(key)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not -INTEGERS <= value < INTEGERS or (least is not None and value < least):
        wanted = "an integer" if least is None else f"an integer of at least {least}"
        wanted += " and below 2^63" if whole else ""
        found = f"is {shown(value)}" if key in record else "is missing"
        raise DataError(f"{source}: {what}: '{key}' must be {wanted} and {found}; correct the file")
    return int(value)


def shown(value: object) -> str:
    """A value from a file for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def is_gsd(value: object) -> bool:
    """Whether this can be metres of ground a pixel: a finite number above 0."""
    return _is_number(value) and _is_finite(value) and value > 0


def _by_id(source: Path, what: str, records: list[Record]) -> dict[int, Record]:
    found: dict[int, Record] = {}
    for index, record in enumerate(records):
        id_ = _integer(source, f"{what} number {index}", record, "id")
        if id_ in found:
            raise DataError(f"{source}: two {what} records have the id {id_}; ids must differ")
        found[id_] = record
    return found


def _categories(source: Path, records: list[Record]) -> tuple[Category, ...]:
    found = _by_id(source, "category", records)
    for id_, record in found.items():
        name = record.get("name")
        if not _is_text(name):
            raise DataError(f"{source}: category {id_}: 'name' must be a text, not {shown(name)}")
    categories = tuple(Category(id=id_, name=found[id_]["name"]) for id_ in sorted(found))
    names = [category.name for category in categories]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{source}: category names stand twice: {twice}; merge or rename them")
    return categories


def _annotations_by_image(
    source: Path,
    records: list[Record],
    images: Mapping[int, Record],
    label_of: Mapping[int, int],
) -> defaultdict[int, list[Record]]:
    grouped: defaultdict[int, list[Record]] = defaultdict(list)
    seen: set[int] = set()
    for index, record in enumerate(records):
        id_ = _integer(source, f"annotation number {index}", record, "id")
        if id_ in seen:
            raise DataError(f"{source}: two annotations have the id {id_}; ids must differ")
        seen.add(id_)
        what = f"annotation {id_}"
        image_id = _integer(source, what, record, "image_id")
        if image_id not in images:
            raise DataError(f"{source}: {what}: no image has its image_id {image_id}")
        category_id = _integer(source, what, record, "category_id")
        if category_id not in label_of:
            raise DataError(
                f"{source}: {what}: no category has its category_id {category_id}; "
                f"known are {sorted(label_of)}"
            )
        _check_box(source, what, record, images[image_id])
        grouped[image_id].append(record)
    return grouped


def _check_box(source: Path, what: str, record: Record, image: Record) -> None:
    """Raise unless the box is usable; NaN fails every comparison, so it needs its own test."""
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise DataError(
            f"{source}: {what}: 'bbox' must be four numbers (left, top, width, height), not "
            f"{shown(box)}"
        )
    if not all(map(_is_finite, box)):
        raise DataError(
            f"{source}: {what}: 'bbox' must be finite, not {shown(box)}; remove or correct it"
        )
    left, top, width, height = box
    if width < 0 or height < 0:
        raise DataError(
            f"{source}: {what}: 'bbox' {box} has a negative side; COCO's boxes are "
            "(left, top, width, height), not corners"
        )
    across = _integer(source, f"image {image['id']}", image, "width", least=1)
    down = _integer(source, f"image {image['id']}", image, "height", least=1)
    if left >= across or top >= down or left + width < 0 or top + height < 0:
        raise DataError(
            f"{source}: {what}: 'bbox' {box} lies wholly outside image {image['id']} "
            f"({across} x {down}); remove it, or check that the boxes are in pixels"
        )
    area = record.get("area", 0.0)
    if not _is_number(area) or not _is_finite(area) or area < 0:
        raise DataError(
            f"{source}: {what}: 'area' must be a number of at least 0, not {shown(area)}"
        )
    if record.get("iscrowd", 0) not in (0, 1):
        raise DataError(
            f"{source}: {what}: 'iscrowd' must be 0 or 1, not {shown(record['iscrowd'])}"
        )


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: int | float) -> bool:
    """Whether a float can hold it: integers of hundreds of digits are none."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it is a text that a disk could hold as a name: JSON has halves of characters."""
    try:
        return isinstance(value, str) and bool(os.fsencode(value))
    except UnicodeEncodeError:
        return False


def _image_paths(
    source: Path, images: Mapping[int, Record], folders: Sequence[Path]
) -> dict[int, Path]:
    listings: dict[Path, frozenset[str]] = {}
    paths: dict[int, Path] = {}
    missing: list[str] = []
    for id_, record in images.items():
        name = record.get("file_name")
        if not _is_text(name):
            raise DataError(f"{source}: image {id_}: 'file_name' must be a text, not {shown(name)}")
        relative = PurePosixPath(name.replace("\\", "/"))
        if relative.is_absolute() or ".." in relative.parts or "\0" in name or ":" in name[:2]:
            raise DataError(
                f"{source}: image {id_}: 'file_name' {name!r} leads out of the images folder; "
                "it must be a relative path without '..'"
            )
        for folder in folders:
            path = Path(os.path.abspath(folder)) / relative
            if path.parent not in listings:
                listings[path.parent] = _listing(path.parent)
            if path.name in listings[path.parent]:
                paths[id_] = path
                break
        else:
            missing.append(name)
    if missing:
        listed = ", ".join(missing[:LISTED]) + (", ..." if len(missing) > LISTED else "")
        looked = " and ".join(str(folder) for folder in folders)
        raise DataError(
            f"{source}: {len(missing)} of {len(images)} image files are missing: {listed}; "
            f"looked in {looked}"
        )
    return paths


def _listing(folder: Path) -> frozenset[str]:
    """The names of the files in a folder: one call instead of one for each image."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def _labelled_image(
    source: Path,
    record: Record,
    path: Path,
    annotations: Sequence[Record],
    label_of: Mapping[int, int],
    partial: bool,
    tally: dict[str, int],
) -> LabelledImage:
    what = f"image {record['id']}"
    width = _integer(source, what, record, "width", least=1)
    height = _integer(source, what, record, "height", least=1)
    boxes_xywh = np.array([each["bbox"] for each in annotations], np.float64).reshape(-1, 4)
    labels = np.array([label_of[each["category_id"]] for each in annotations], np.int64)
    areas = np.array(
        [each.get("area", each["bbox"][2] * each["bbox"][3]) for each in annotations], np.float64
    )
    crowd = np.array([bool(each.get("iscrowd", 0)) for each in annotations], np.bool_)
    corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    limit = np.array([width, height, width, height], np.float64)
    # Half a thousandth of a pixel is how far float32 files stray over the edge.
    tally["clipped"] += int(((corners < -5e-4) | (corners > limit + 5e-4)).any(axis=1).sum())
    boxes = np.clip(corners, 0, limit).astype(np.float32)
    solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    tally["empty"] += int((~solid).sum())

    known = np.full(len(label_of), not partial)
    known[labels] = True
    known[_class_list(source, what, record, "neg_category_ids", label_of)] = True
    exhaustive = known.copy()
    exhaustive[_class_list(source, what, record, "not_exhaustive_category_ids", label_of)] = False
    return LabelledImage(
        id=record["id"],
        path=path,
        width=width,
        height=height,
        boxes=boxes[solid],
        labels=labels[solid],
        areas=areas[solid],
        crowd=crowd[solid],
        known=known,
        exhaustive=exhaustive,
    )


def _class_list(
    source: Path, what: str, record: Record, key: str, label_of: Mapping[int, int]
) -> list[int]:
    ids = record.get(key, [])
    if not isinstance(ids, list):
        raise DataError(
            f"{source}: {what}: '{key}' must be a list of category ids, not {shown(ids)}"
        )
    for id_ in ids:
        if not isinstance(id_, int) or id_ not in label_of:
            raise DataError(
                f"{source}: {what}: '{key}' names the category {shown(id_)}; "
                f"known are {sorted(label_of)}"
            )
    return [label_of[id_] for id_ in ids]
