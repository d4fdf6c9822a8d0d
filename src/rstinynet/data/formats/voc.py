"""Pascal VOC XML, in and out, as DIOR has it too.

Layout (VOC development kit): `Annotations/NAME.xml`, `JPEGImages/NAME.jpg` and the lists
`ImageSets/Main/{split}.txt`. Corners are pixels counted from 1 with both ends inside, so that the
box 1, 1, 10, 10 has the edges 0 and 10. XML is read by defusedxml: entities and external
references are refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import defusedxml.ElementTree as SafeTree  # type: ignore[import-untyped]
from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]

from rstinynet import files
from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.data.formats.common import (
    IMAGE_SUFFIXES,
    categories_of,
    fingerprint_of_files,
    image_size,
    labelled_image,
    losses,
    place_images,
    unseen_classes,
)
from rstinynet.errors import DataError

Object = tuple[str, tuple[float, float, float, float], bool]
FLAG = re.compile(r"\s+-?[01]$")
"""What the lists of one class have behind a name: whether the image shows it."""


def read_voc(
    annotations: Sequence[Path],
    images: Sequence[Path],
    *,
    names: Sequence[str] | None = None,
    first_pixel: int = 1,
) -> LabelledSet:
    """The labelled set of XML files and the image of each, in the same order.

    Args:
        annotations: XML files.
        images: the image that belongs to each.
        names: classes in order, matched without regard to case; default: those found, sorted.
        first_pixel: 1 as in VOC, 0 where corners are plain coordinates from 0.

    `difficult` objects become regions to ignore, which is how VOC's evaluation treats them.

    Raises:
        DataError: a file is missing, no VOC XML, unsafe, or has a box or class that cannot be used.
    """
    parsed = [parse_xml(path, first_pixel=first_pixel) for path in annotations]
    if names is None:
        names = _names(parsed)
        if not names:
            raise DataError(f"no objects in {len(parsed)} VOC files; name the classes")
    label_of = {name.lower(): label for label, name in enumerate(names)}
    pictures = []
    for number, (source, path, objects) in enumerate(
        zip(annotations, images, parsed, strict=True), 1
    ):
        unknown = sorted({name for name, _, _ in objects if name.lower() not in label_of})
        if unknown:
            raise DataError(f"{source}: unknown classes {unknown}; known are {list(names)}")
        rows = [(label_of[name.lower()], box, difficult) for name, box, difficult in objects]
        size = _size_in(source) or image_size(path)
        pictures.append(
            labelled_image(path.absolute(), number, size, rows, classes=len(label_of), where=source)
        )
    return LabelledSet(
        images=tuple(pictures),
        categories=categories_of(names),
        fingerprint=fingerprint_of_files(annotations),
    )


def read_voc_folder(root: Path | str, split: str) -> LabelledSet:
    """One split of a folder in VOC's layout; classes are those of all its annotations.

    Raises:
        DataError: the list of the split, an image or an annotation is missing or unusable.
    """
    root = Path(root)
    annotations = root / "Annotations"
    images = {
        path.stem: path
        for path in sorted((root / "JPEGImages").glob("*.*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    }
    listed = read_list(root / "ImageSets" / "Main" / f"{split}.txt", images=images)
    missing = [name for name in listed if name not in images]
    if missing:
        raise DataError(
            f"{root / 'JPEGImages'}: {len(missing)} of {len(listed)} images of '{split}' are "
            f"missing: {', '.join(missing[:5])}"
        )
    every = sorted(annotations.glob("*.xml"))
    names = _names([parse_xml(path) for path in every])
    chosen = [annotations / f"{name}.xml" for name in listed]
    return read_voc(chosen, [images[name] for name in listed], names=names)


def _names(parsed: Sequence[Sequence[Object]]) -> list[str]:
    """The classes found, sorted; of spellings that differ in case only the first one."""
    spelled: dict[str, str] = {}
    for name in sorted({name for objects in parsed for name, _, _ in objects}):
        spelled.setdefault(name.lower(), name)
    return sorted(spelled.values())


def read_list(path: Path, *, images: Container[str] = ()) -> list[str]:
    """The image names in a VOC list, without what stands behind them (as -1 or 1).

    A line that is the name of one of `images` is taken whole: names may have blanks, and end in 1.

    Raises:
        DataError: the list is missing, or a name leads out of its folder.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list of images cannot be read: {path}: {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    names = [line if line in images else FLAG.sub("", line) for line in lines]
    for name in names:
        if "/" in name or "\\" in name or name.startswith("."):
            raise DataError(f"{path}: '{name}' is not the plain name of an image")
    return names


def parse_xml(path: Path, *, first_pixel: int = 1) -> list[Object]:
    """(class, XYXY pixels, difficult) of every object in one file.

    Raises:
        DataError: the file is missing, damaged, unsafe or lacks a class or corner.
    """
    try:
        root = SafeTree.fromstring(path.read_bytes(), forbid_dtd=True)
    except FileNotFoundError:
        raise DataError(
            f"annotation file not found: {path}; check the Annotations folder"
        ) from None
    except DefusedXmlException as error:
        raise DataError(
            f"{path}: unsafe XML refused ({type(error).__name__}); remove its DTD"
        ) from None
    except (OSError, SafeTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: not readable as XML: {error}") from error
    objects: list[Object] = []
    for number, each in enumerate(root.findall("object"), 1):
        where = f"{path}, object {number}"
        name = (each.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{where}: has no 'name'; give its class")
        left, top, right, bottom = (
            _corner(each, key, where) for key in ("xmin", "ymin", "xmax", "ymax")
        )
        if right < left or bottom < top:
            raise DataError(f"{where}: corners {left, top, right, bottom} are turned inside out")
        difficult = (each.findtext("difficult") or "0").strip() == "1"
        objects.append((name, (left - first_pixel, top - first_pixel, right, bottom), difficult))
    return objects


def _size_in(path: Path) -> tuple[int, int] | None:
    """(width, height) that the labels say, which the image is held against; None without."""
    root = SafeTree.fromstring(path.read_bytes(), forbid_dtd=True)
    try:
        width, height = (int(float(root.findtext(f"size/{key}"))) for key in ("width", "height"))
    except (TypeError, ValueError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _corner(each: Element, key: str, where: str) -> float:
    text = each.findtext(f"bndbox/{key}")
    try:
        return float(text or "")
    except ValueError:
        raise DataError(f"{where}: '{key}' must be a number, not {text!r}") from None


def write_voc(
    labelled: LabelledSet,
    folder: Path | str,
    *,
    split: str = "train",
    link: bool = False,
    labels: Path | None = None,
) -> list[str]:
    """Write images, XML and the split's list under `folder`; returns what VOC cannot hold.

    With `labels` all but the images is written under that folder instead.

    Crowd regions are written as difficult objects, which the reader gives back as regions.

    Raises:
        DataError: another split there has images of the same names, or names of classes differ in
            case alone, which readers of VOC do not tell apart.
    """
    folder = Path(folder)
    spelled = Counter(name.lower() for name in labelled.names)
    alike = [name for name in labelled.names if spelled[name.lower()] > 1]
    if alike:
        raise DataError(
            f"VOC's classes are told without regard to case; rename or merge {', '.join(alike)}"
        )
    labels = folder if labels is None else labels
    lists = labels / "ImageSets" / "Main"
    placed = place_images(labelled, folder / "JPEGImages", link=link)
    stems = {image.path.stem for image in placed.images}
    mine = {stem.casefold() for stem in stems}
    for other in sorted(lists.glob("*.txt")):
        both = sorted(mine & {name.casefold() for name in read_list(other, images=stems)})
        if other.stem != split and both:
            raise DataError(
                f"{folder / 'Annotations'}: '{split}' and '{other.stem}' both have images named "
                f"{', '.join(both[:5])}, and VOC keeps the labels of all splits by that name in "
                "one folder; name the images apart, or write each split into a folder of its own"
            )
    for image in placed.images:
        target = labels / "Annotations" / f"{image.path.stem}.xml"
        files.write_bytes(target, _xml(image, labelled.names))
    listed = "".join(f"{image.path.stem}\n" for image in placed.images)
    files.write_bytes(lists / f"{split}.txt", listed.encode())
    lost = losses(labelled, crowd=False) + unseen_classes(labelled)
    if list(labelled.names) != sorted(labelled.names):
        lost.append("the order of the classes: the format has no list of them")
    parts = sum(int((image.boxes % 1 != 0).any(axis=1).sum()) for image in labelled.images)
    if parts:
        lost.append(f"fractions of a pixel in {parts} boxes, for tools that read whole numbers")
    regions = sum(int(image.crowd.sum()) for image in labelled.images)
    if regions:
        lost.append(f"what {regions} crowd regions are: they become difficult objects")
    return lost


def _xml(image: LabelledImage, names: Sequence[str]) -> bytes:
    root = Element("annotation")
    SubElement(root, "filename").text = image.path.name
    size = SubElement(root, "size")
    for key, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        SubElement(size, key).text = str(value)
    rows = zip(image.labels.tolist(), image.boxes.tolist(), image.crowd.tolist(), strict=True)
    for label, (left, top, right, bottom), crowd in rows:
        each = SubElement(root, "object")
        SubElement(each, "name").text = names[label]
        SubElement(each, "difficult").text = str(int(crowd))
        box = SubElement(each, "bndbox")
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        for key, value in corners.items():
            SubElement(box, key).text = f"{value:.10g}"
    indent(root)
    return bytes(tostring(root, encoding="utf-8"))
