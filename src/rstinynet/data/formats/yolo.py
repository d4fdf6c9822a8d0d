"""YOLO label files and data.yaml, in and out.

Layout (https://docs.ultralytics.com/datasets/detect/): `data.yaml` has `path`, `names` and for
each split a folder of images, a text file that lists images, or a list of these. The labels of
`.../images/a/b.png` are `.../labels/a/b.txt`, one object a line: class, then centre x and y,
width and height as shares of the image. More coordinates are a polygon, of which the upright box
is taken. An image without a label file has no objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from rstinynet import files
from rstinynet.data.annotations import Category, LabelledImage, LabelledSet
from rstinynet.data.formats.common import (
    fingerprint_of_files,
    image_size,
    images_in,
    labelled_image,
    losses,
    place_images,
    read_text,
)
from rstinynet.errors import DataError

Row = tuple[int, tuple[float, float, float, float], bool]
TOLERANCE = 0.01
"""How far a share may stray outside 0 to 1 before it is taken for pixels."""


def read_yolo(data_yaml: Path | str, split: str) -> LabelledSet:
    """One split of a YOLO data set; class number n has the category id n + 1.

    Raises:
        DataError: the YAML, an image or a label line cannot be used; the message has file and line.
    """
    source = Path(data_yaml)
    content = read_data_yaml(source)
    categories = _categories(source, content.get("names"))
    label_of = {category.id - 1: label for label, category in enumerate(categories)}
    root = source.parent / str(content.get("path") or ".")
    entry = content.get(split)
    if not entry:
        given = sorted(set(content) & {"train", "val", "test"})
        raise DataError(f"{source}: has no entry '{split}'; it has {given or 'no split at all'}")
    images = list(_images(source, root, entry if isinstance(entry, list) else [entry]))
    if not images:
        raise DataError(f"{source}: '{split}' {entry!r} has no images; looked in {root}")
    label_files = [label_path(path) for path in images]
    return LabelledSet(
        images=tuple(
            _image(number, path, label_file, label_of)
            for number, (path, label_file) in enumerate(zip(images, label_files, strict=True), 1)
        ),
        categories=categories,
        fingerprint=fingerprint_of_files([source, *label_files]),
    )


def read_data_yaml(source: Path) -> dict[Any, Any]:
    """The mapping in a data.yaml.

    Raises:
        DataError: it is not a mapping, or no YAML at all.
    """
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{source}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{source}: must be a mapping with path, train, val, test and names")
    return content


def label_path(image: Path) -> Path:
    """Where the labels of an image lie: the last folder `images` exchanged for `labels`."""
    parts = list(image.parts)
    folders = [at for at, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def write_yolo(
    labelled: LabelledSet,
    folder: Path | str,
    *,
    split: str = "train",
    link: bool = False,
    labels: Path | None = None,
) -> list[str]:
    """Write images, labels and data.yaml under `folder`; returns what YOLO's format cannot hold.

    With `labels` all but the images is written under that folder instead.

    Splits written into one folder share its data.yaml and must have the same classes.

    Raises:
        DataError: the data.yaml there names other classes.
    """
    folder = Path(folder)
    labels = folder if labels is None else labels
    path = labels / "data.yaml"
    content: dict[str, Any] = {"path": ".", "names": dict(enumerate(labelled.names))}
    if path.is_file():
        there = read_data_yaml(path)
        if there.get("names") != content["names"]:
            raise DataError(
                f"{path}: has the classes {there.get('names')}, the new split has "
                f"{content['names']}; write it into a folder of its own"
            )
        content = {**there, **content}
    placed = place_images(labelled, folder / "images" / split, link=link)
    for image in placed.images:
        lines = [
            f"{label} {_shares(box, image)}\n"
            for label, box, crowd in zip(
                image.labels.tolist(), image.boxes.tolist(), image.crowd.tolist(), strict=True
            )
            if not crowd
        ]
        target = labels / label_path(image.path).relative_to(os.path.abspath(folder))
        files.write_bytes(target, "".join(lines).encode())
    content[split] = f"images/{split}"
    files.write_bytes(path, yaml.safe_dump(content, sort_keys=False).encode())
    return losses(labelled)


def _shares(box: list[float], image: LabelledImage) -> str:
    left, top, right, bottom = box
    values = (
        (left + right) / 2 / image.width,
        (top + bottom) / 2 / image.height,
        (right - left) / image.width,
        (bottom - top) / image.height,
    )
    # Ten decimals give back float32 pixels of scenes up to 100,000 pixels wide.
    return " ".join(f"{value:.10f}" for value in values)


def _categories(source: Path, names: object) -> tuple[Category, ...]:
    pairs = list(enumerate(names)) if isinstance(names, list) else names
    if isinstance(pairs, dict):
        pairs = sorted(pairs.items(), key=lambda pair: str(pair[0]).zfill(9))
    if not isinstance(pairs, list) or not pairs:
        raise DataError(f"{source}: 'names' must list the classes, not {names!r}")
    for number, name in pairs:
        if not isinstance(number, int) or number < 0 or not isinstance(name, str | int):
            raise DataError(f"{source}: 'names' must map numbers from 0 to texts, not {names!r}")
    texts = [str(name) for _, name in pairs]
    if not all(texts) or len(set(texts)) < len(texts):
        raise DataError(f"{source}: 'names' must differ, and none be empty: {names!r}")
    return tuple(Category(id=number + 1, name=str(name)) for number, name in pairs)


def _images(source: Path, root: Path, entries: Iterable[object]) -> Iterable[Path]:
    for entry in entries:
        if not isinstance(entry, str):
            raise DataError(f"{source}: a split is a path or a list of paths, not {entry!r}")
        path = root / entry
        if path.is_dir():
            yield from images_in(path)
        elif path.suffix.lower() == ".txt":
            lines = (line.strip() for line in read_text(path).splitlines())
            for line in filter(None, lines):
                # Lists written by other tools start with ./ and mean their own folder.
                yield ((path.parent if line.startswith("./") else root) / line).absolute()
        else:
            raise DataError(
                f"{source}: neither a folder of images nor a .txt list of them: {path}; "
                "correct the path"
            )


def _image(number: int, path: Path, label_file: Path, label_of: dict[int, int]) -> LabelledImage:
    size = image_size(path)
    text = read_text(label_file) if label_file.is_file() else ""
    rows = [
        _row(line.split(), size, label_of, f"{label_file}, line {at}")
        for at, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    return labelled_image(path, number, size, rows, classes=len(label_of), where=label_file)


def _row(fields: list[str], size: tuple[int, int], label_of: dict[int, int], where: str) -> Row:
    try:
        number, shares = float(fields[0]), [float(field) for field in fields[1:]]
    except ValueError:
        raise DataError(
            f"{where}: must be numbers (class x y w h), not {' '.join(fields)}"
        ) from None
    if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
        raise DataError(
            f"{where}: {len(fields)} numbers; a line has a class and 4 numbers of a box, or at "
            "least 3 points of a polygon"
        )
    if number not in label_of:
        raise DataError(f"{where}: class {fields[0]} is not in 'names' ({sorted(label_of)})")
    if not all(-TOLERANCE <= share <= 1 + TOLERANCE for share in shares):
        raise DataError(
            f"{where}: {' '.join(fields[1:])} are not shares of the image (0 to 1); divide pixels "
            "by width and height"
        )
    if len(shares) == 4:
        x, y, across, down = shares
        shares = [x - across / 2, y - down / 2, x + across / 2, y + down / 2]
    xs, ys = shares[0::2], shares[1::2]
    width, height = size
    box = (min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height)
    return label_of[int(number)], box, False
