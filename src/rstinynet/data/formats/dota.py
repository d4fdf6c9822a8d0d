"""DOTA's oriented boxes, read and written as upright ones.

Layout (https://captain-whu.github.io/DOTA/dataset.html): `images/NAME.png` and
`labelTxt/NAME.txt`, two lines of head (`imagesource:`, `gsd:`), then one object a line: four
corners x y in pixels, class, difficult. The box is the upright one around the four corners.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rstinynet import files
from rstinynet.data.annotations import LabelledSet
from rstinynet.data.formats.common import (
    categories_of,
    fingerprint_of_files,
    image_size,
    images_in,
    labelled_image,
    losses,
    place_images,
    read_text,
    unseen_classes,
)
from rstinynet.errors import DataError

Object = tuple[str, tuple[float, float, float, float], bool]


def read_dota(folder: Path | str, *, names: Sequence[str] | None = None) -> LabelledSet:
    """The labelled set of a folder with `images/` and `labelTxt/`.

    `names` gives the classes in order; by default those found, sorted. `difficult` objects become
    regions to ignore. Images without a label file have no objects.

    Raises:
        DataError: no images, or a label line that cannot be used; the message has file and line.
    """
    folder = Path(folder)
    images = images_in(folder / "images")
    if not images:
        raise DataError(f"{folder / 'images'}: no images; DOTA's layout is images/ and labelTxt/")
    sources = [folder / "labelTxt" / f"{path.stem}.txt" for path in images]
    parsed = [_parse(source) if source.is_file() else [] for source in sources]
    if names is None:
        names = sorted({name for objects in parsed for name, _, _ in objects})
        if not names:
            raise DataError(f"{folder / 'labelTxt'}: no objects at all; check the label files")
    label_of = {name: label for label, name in enumerate(names)}
    pictures = []
    for number, (path, source, objects) in enumerate(zip(images, sources, parsed, strict=True), 1):
        unknown = sorted({name for name, _, _ in objects} - label_of.keys())
        if unknown:
            raise DataError(f"{source}: unknown classes {unknown}; known are {list(names)}")
        rows = [(label_of[name], box, difficult) for name, box, difficult in objects]
        size = image_size(path)
        pictures.append(
            labelled_image(path, number, size, rows, classes=len(label_of), where=source)
        )
    return LabelledSet(
        images=tuple(pictures),
        categories=categories_of(names),
        fingerprint=fingerprint_of_files(sources),
    )


def names_in(folder: Path | str) -> set[str]:
    """The classes of a DOTA folder's labels."""
    sources = sorted((Path(folder) / "labelTxt").glob("*.txt"))
    return {name for source in sources for name, _, _ in _parse(source)}


def _parse(source: Path) -> list[Object]:
    objects: list[Object] = []
    for at, line in enumerate(read_text(source).splitlines(), 1):
        fields = line.split()
        if not fields or line.lower().startswith(("imagesource", "gsd")):
            continue
        where = f"{source}, line {at}"
        if len(fields) not in (9, 10):
            raise DataError(f"{where}: 8 coordinates, a class and 'difficult' expected: {line!r}")
        try:
            values = [float(field) for field in fields[:8]]
        except ValueError:
            raise DataError(f"{where}: coordinates must be numbers: {line!r}") from None
        if not all(map(math.isfinite, values)):  # min and max would pass over a NaN
            raise DataError(f"{where}: coordinates must be finite: {line!r}")
        if len(fields) == 10 and fields[9] not in ("0", "1", "2"):
            raise DataError(f"{where}: 'difficult' must be 0, 1 or 2: {line!r}")
        xs, ys = values[0::2], values[1::2]
        # Flag 2 of the later versions also marks objects that are hard to see.
        difficult = len(fields) == 10 and fields[9] != "0"
        objects.append((fields[8], (min(xs), min(ys), max(xs), max(ys)), difficult))
    return objects


def write_dota(
    labelled: LabelledSet, folder: Path | str, *, link: bool = False, labels: Path | None = None
) -> list[str]:
    """Write `images/` and `labelTxt/` under `folder`; returns what DOTA's format cannot hold.

    With `labels` all but the images is written under that folder instead.

    Boxes are written as upright quadrilaterals, crowd regions as difficult objects.
    """
    folder = Path(folder)
    spaced = [name for name in labelled.names if len(name.split()) != 1]
    if spaced:
        raise DataError(f"DOTA's class names have no blanks; rename {spaced}")
    labels = folder if labels is None else labels
    placed = place_images(labelled, folder / "images", link=link)
    for image in placed.images:
        lines = []
        rows = zip(image.labels.tolist(), image.boxes.tolist(), image.crowd.tolist(), strict=True)
        for label, (left, top, right, bottom), crowd in rows:
            corners = (left, top, right, top, right, bottom, left, bottom)
            numbers = " ".join(f"{value:.10g}" for value in corners)
            lines.append(f"{numbers} {labelled.names[label]} {int(crowd)}\n")
        target = labels / "labelTxt" / f"{image.path.stem}.txt"
        files.write_bytes(target, "".join(lines).encode())
    lost = losses(labelled, crowd=False) + unseen_classes(labelled)
    if list(labelled.names) != sorted(labelled.names):
        lost.append("the order of the classes: the format has no list of them")
    regions = sum(int(image.crowd.sum()) for image in labelled.images)
    if regions:
        lost.append(f"what {regions} crowd regions are: they become difficult objects")
    return lost
