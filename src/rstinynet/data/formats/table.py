"""Boxes in a CSV table, one object a row, over images or scenes.

Columns, told by their heading: `image`, `xmin`, `ymin`, `xmax`, `ymax` (pixels), `label`, and where
they are there `category_id`, `area` and `iscrowd`. The headings of DeepForest, torchvision's
references and of this package's own results are understood too. An image without objects has a
row with nothing but its name.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from rstinynet import files
from rstinynet.data.annotations import Category, LabelledImage, LabelledSet, fingerprint_of
from rstinynet.data.formats.coco import INTEGERS
from rstinynet.data.formats.common import (
    categories_of,
    image_size,
    labelled_image,
    losses,
    place_images,
    read_text,
    unseen_classes,
)
from rstinynet.errors import DataError

HEADINGS: dict[str, tuple[str, ...]] = {
    "image": ("image", "image_path", "file_name", "filename", "source"),
    "xmin": ("xmin", "x1", "px_xmin"),
    "ymin": ("ymin", "y1", "px_ymin"),
    "xmax": ("xmax", "x2", "px_xmax"),
    "ymax": ("ymax", "y2", "px_ymax"),
    "label": ("label", "class_name", "class", "category", "name"),
    "category_id": ("category_id", "class_id"),
    "area": ("area",),
    "iscrowd": ("iscrowd", "ignore", "difficult"),
}
"""Headings by meaning, in any case; the first that a table has is taken."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_WRITTEN = ("image", *_CORNERS, "label", "category_id", "area", "iscrowd")

Row = tuple[str, tuple[float, float, float, float], bool, float | None]


def read_table(
    path: Path | str, folders: Sequence[Path], *, also: Mapping[str, int | None] | None = None
) -> LabelledSet:
    """The labelled set of a CSV file whose images lie in one of `folders`.

    `also` are classes of other splits, with their ids where they have them: a set's splits have
    the same classes. Without `category_id` classes are numbered from 1 in alphabetical order.

    Raises:
        DataError: a column is missing, a row cannot be used (with its line), an image is missing
            or its name leads out of the folders.
    """
    path = Path(path)
    text, rows, ids = _parse(path)
    kinds = {row[0] for objects in rows.values() for row in objects}
    for name, number in (also or {}).items():
        if number is not None and ids.setdefault(name, number) != number:
            raise DataError(
                f"{path}: class '{name}' has the id {ids[name]} here and {number} in another split"
            )
    categories = _categories(path, ids, kinds | set(also or ()))
    label_of = {category.name: label for label, category in enumerate(categories)}
    images = tuple(
        _image(path, number, name, objects, folders=folders, label_of=label_of)
        for number, (name, objects) in enumerate(rows.items(), 1)
    )
    return LabelledSet(
        images=images, categories=categories, fingerprint=fingerprint_of(text.encode())
    )


def classes_in(path: Path | str) -> dict[str, int | None]:
    """The classes of a table, with their ids where it has a column of them."""
    _, rows, ids = _parse(Path(path))
    return {row[0]: ids.get(row[0]) for objects in rows.values() for row in objects}


def _parse(path: Path) -> tuple[str, dict[str, list[Row]], dict[str, int]]:
    """The text, the objects of each image by its name, and the classes' ids."""
    text = read_text(path)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    column = _columns(path, _headings(path, reader))
    rows: dict[str, list[Row]] = {}
    ids: dict[str, int] = {}
    for record in _records(path, reader):
        where = f"{path}, line {reader.line_num}"
        name = _field(record, column, "image")
        if not name:
            raise DataError(f"{where}: the column '{column['image']}' is empty; name the image")
        objects = rows.setdefault(name, [])
        kind = _field(record, column, "label")
        corners = [_field(record, column, each) for each in _CORNERS]
        if not kind and not any(corners):
            continue
        objects.append(_object(where, kind, corners, record, column))
        _keep_id(where, ids, kind, _field(record, column, "category_id"))
    if not rows:
        raise DataError(f"{path}: no rows; a CSV of boxes has one object a row")
    return text, rows, ids


def _headings(path: Path, reader: csv.DictReader[str]) -> Sequence[str]:
    try:
        return reader.fieldnames or ()
    except csv.Error as error:
        raise DataError(f"{path}, line 1: not a heading of a CSV: {error}") from error


def _records(path: Path, reader: csv.DictReader[str]) -> Iterator[Mapping[str, str | None]]:
    try:
        yield from reader
    except csv.Error as error:
        line = reader.reader.line_num  # the reader's own is that of the last row that was one
        raise DataError(f"{path}, line {line}: not a row of a CSV: {error}") from error


def _columns(path: Path, headings: Sequence[str]) -> dict[str, str]:
    by_name = {heading.strip().lower(): heading for heading in headings}
    found = {
        meaning: next((by_name[name] for name in names if name in by_name), "")
        for meaning, names in HEADINGS.items()
    }
    missing = [each for each in ("image", *_CORNERS, "label") if not found[each]]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)} in its first line {list(headings)}; "
            "a table of boxes has image,xmin,ymin,xmax,ymax,label"
        )
    return found


def _field(record: Mapping[str, str | None], column: Mapping[str, str], meaning: str) -> str:
    return (record.get(column[meaning]) or "").strip() if column[meaning] else ""


def _object(
    where: str,
    kind: str,
    corners: Sequence[str],
    record: Mapping[str, str | None],
    column: Mapping[str, str],
) -> Row:
    if not kind:
        raise DataError(f"{where}: a box without a label; name its class")
    left, top, right, bottom = (_number(where, text) for text in corners)
    if right < left or bottom < top:
        raise DataError(
            f"{where}: box {left, top, right, bottom} has a negative side; "
            "the columns are the left, top, right and bottom edges in pixels"
        )
    flag = _field(record, column, "iscrowd").lower()
    if flag not in ("", "0", "1", "0.0", "1.0", "true", "false"):
        raise DataError(f"{where}: '{column['iscrowd']}' must be 0 or 1, not {flag!r}")
    own = _field(record, column, "area")
    area = _number(where, own) if own else None
    if area is not None and area < 0:
        raise DataError(f"{where}: 'area' must be 0 or more square pixels, not {area}")
    return kind, (left, top, right, bottom), flag in ("1", "1.0", "true"), area


def _number(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{where}: a number is needed where {text!r} stands") from None
    if not math.isfinite(value):
        raise DataError(f"{where}: a finite number is needed where {text!r} stands")
    return value


def _keep_id(where: str, ids: dict[str, int], kind: str, text: str) -> None:
    if not text:
        return
    value = _number(where, text)
    if value != int(value) or not 0 <= value < INTEGERS:
        raise DataError(f"{where}: 'category_id' must be a whole number below 2^63, not {text!r}")
    if ids.setdefault(kind, int(value)) != int(value):
        raise DataError(
            f"{where}: class '{kind}' has the ids {ids[kind]} and {int(value)}; it can have one"
        )


def _categories(path: Path, ids: Mapping[str, int], names: set[str]) -> tuple[Category, ...]:
    if not names:
        raise DataError(f"{path}: not one box; a table of boxes needs at least one")
    if not ids:
        return categories_of(sorted(names))
    if names - ids.keys() or len(set(ids.values())) != len(ids):
        raise DataError(f"{path}: 'category_id' must name each class by an id of its own: {ids}")
    return tuple(Category(id=ids[name], name=name) for name in sorted(names, key=ids.__getitem__))


def _image(
    path: Path,
    number: int,
    name: str,
    objects: Sequence[Row],
    *,
    folders: Sequence[Path],
    label_of: Mapping[str, int],
) -> LabelledImage:
    where = find_image(name, folders, source=path)
    size = image_size(where)
    rows = [(label_of[kind], box, crowd) for kind, box, crowd, _ in objects]
    own = [math.nan if area is None else area for _, _, _, area in objects]
    return labelled_image(where, number, size, rows, classes=len(label_of), where=path, areas=own)


def find_image(name: str, folders: Sequence[Path], *, source: Path) -> Path:
    """The image that an annotation names, in the first of the folders that has it.

    Raises:
        DataError: it is in none, or its name leads out of them.
    """
    relative = PurePosixPath(name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or "\0" in name or ":" in name[:2]:
        raise DataError(
            f"{source}: image name {name!r} leads out of the images folder; it must be a relative "
            "path without '..'"
        )
    for folder in folders:
        path = Path(os.path.abspath(folder)) / relative
        if os.path.isfile(path):  # False, too, for a name that no disk can hold
            return path
    looked = " and ".join(str(folder) for folder in folders)
    raise DataError(f"{source}: image {name!r} is missing; looked in {looked}")


def write_table(
    labelled: LabelledSet,
    out: Path | str,
    *,
    split: str,
    link: bool = False,
    labels: Path | None = None,
) -> list[str]:
    """Write `{split}.csv` and `images/{split}/`; returns what the table cannot hold.

    With `labels` the table is written into that folder instead of `out`.
    """
    out = Path(out)
    folder = out / "images" / split
    placed = place_images(labelled, folder, link=link)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_WRITTEN)
    for image in placed.images:
        name = image.path.relative_to(os.path.abspath(folder)).as_posix()
        if not len(image.boxes):
            writer.writerow([name, *[""] * (len(_WRITTEN) - 1)])
        for at, box in enumerate(image.boxes.tolist()):
            category = labelled.categories[int(image.labels[at])]
            corners = [f"{value:.9g}" for value in box]  # 9 digits hold any float32
            own = repr(float(image.areas[at]))
            crowd = int(image.crowd[at])
            writer.writerow([name, *corners, category.name, category.id, own, crowd])
    files.write_bytes((labels or out) / f"{split}.csv", text.getvalue().encode())
    return losses(labelled, ids=False, crowd=False, areas=False) + unseen_classes(labelled)
