"""One split from any of the label formats into any other, with what the new one cannot hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.at_once import labels_at_once, refuse_others
from rstinynet.data.folder import content_of, open_split, splits_of
from rstinynet.data.formats.coco import write_coco
from rstinynet.data.formats.common import image_size, images_in, place_images, placed_paths
from rstinynet.data.formats.dota import names_in, read_dota, write_dota
from rstinynet.data.formats.table import write_table
from rstinynet.data.formats.vector_write import write_vector
from rstinynet.data.formats.voc import read_voc_folder, write_voc
from rstinynet.data.formats.yolo import label_path, write_yolo
from rstinynet.errors import DataError

Format = Literal["coco", "yolo", "voc", "dota", "csv", "geojson", "gpkg"]
CLASSES_BY_BOXES: tuple[Format, ...] = ("dota", "csv", "geojson", "gpkg")
"""Formats that have no list of the classes: without a box in any split there are none."""


def open_any(data: Path | str, split: str) -> LabelledSet:
    """A split of a data set that `open_split` opens, of a VOC or of a DOTA folder, by its layout.

    DOTA keeps each split in a folder of its own: `DATA/{split}/` or DATA itself.

    Raises:
        DataError: none of these layouts, or labels that cannot be used.
    """
    data = Path(data)
    if (data / "Annotations").is_dir() and (data / "ImageSets" / "Main").is_dir():
        return read_voc_folder(data, split)
    if (data / split / "labelTxt").is_dir():
        # A split need not show every class of the set.
        every = [data / each for each in ("train", "val", "test")]
        names = set[str]().union(*(names_in(each) for each in every))
        return read_dota(data / split, names=sorted(names) or None)
    if (data / "labelTxt").is_dir():
        return read_dota(data)
    return open_split(data, split)


def splits_of_any(data: Path | str) -> list[str]:
    """Those of "train", "val" and "test" that `open_any` opens."""
    data = Path(data)
    known = ("train", "val", "test")
    lists = data / "ImageSets" / "Main"
    if lists.is_dir():
        return [name for name in known if (lists / f"{name}.txt").is_file()]
    found = [name for name in known if (data / name / "labelTxt").is_dir()]
    if not found and (data / "labelTxt").is_dir():
        return ["train"]
    return found or splits_of(data)


def splits_needed(data: Path | str) -> list[str]:
    """As `splits_of_any`.

    Raises:
        DataError: there is none; the message says what there is instead.
    """
    data = Path(data)
    found = splits_of_any(data)
    if found:
        return found
    if not data.exists():
        raise DataError(f"data not found: {data}; give a folder with train.json, or a data.yaml")
    if not data.is_dir():
        raise DataError(f"{data}: no train, val or test; give a data folder or a data.yaml")
    raise DataError(
        f"{data}: no train, val or test: looked for train.json, annotations/train.json, the same "
        "with .csv, .gpkg and .geojson, data.yaml, and the layouts of VOC and DOTA; found "
        f"{content_of(data)}"
    )


def write_as(
    labelled: LabelledSet,
    out: Path | str,
    *,
    kind: Format,
    split: str,
    link: bool = False,
    labels: Path | None = None,
) -> list[str]:
    """Write images and labels of one split under `out`; returns what the format cannot hold.

    Splits written into one folder one after another make one data set. With `labels` the labels
    are written under that folder instead, as they are to lie in `out`.

    Raises:
        DataError: `out` holds another set's images or classes, the format cannot hold the set, or
            an image is not as large as its labels say.
    """
    out = Path(out)
    labels = out if labels is None else labels
    if not labelled.images and kind != "voc":  # VOC has a list of images, which may be empty
        raise DataError(f"split '{split}' has no images to write")
    _require_names(labelled, kind)
    _require_sizes(labelled, kind)
    if kind == "yolo":
        return write_yolo(labelled, out, split=split, link=link, labels=labels)
    if kind == "voc":
        return write_voc(labelled, out, split=split, link=link, labels=labels)
    if kind == "dota":
        return write_dota(labelled, out / split, link=link, labels=labels / split)
    if kind == "csv":
        return write_table(labelled, out, split=split, link=link, labels=labels)
    if kind == "geojson" or kind == "gpkg":
        suffix = f".{kind}"
        return write_vector(labelled, out, split=split, suffix=suffix, link=link, labels=labels)
    placed = place_images(labelled, out / "images" / split, link=link)
    write_coco(placed, labels / f"{split}.json", images_dir=out / "images")
    return []


def write_all(
    sets: Mapping[str, LabelledSet], out: Path | str, *, kind: Format, link: bool = False
) -> dict[str, list[str]]:
    """Write splits as one data set in `out`; returns what the format cannot hold, by split.

    The labels appear under their names when all of them are written. Those of an earlier run with
    the same images are replaced.

    Raises:
        UsageError: `out` holds labels, or images that would count as labelled, of another set.
        DataError: `out` holds other images of the same names, or the format cannot hold the set.
    """
    out = Path(os.path.abspath(out))
    _require_boxes(sets, kind)
    written = [path for name, each in sets.items() for path in _label_files(each, out, kind, name)]
    refuse_others(out, written, images=_others_images(sets, out, kind))
    with labels_at_once(out) as staged:
        return {
            name: write_as(each, out, kind=kind, split=name, link=link, labels=staged)
            for name, each in sets.items()
        }


def _require_boxes(sets: Mapping[str, LabelledSet], kind: Format) -> None:
    """One at least, where the classes are those of the boxes, or the set could not be read."""
    images = [image for each in sets.values() for image in each.images]
    if kind in CLASSES_BY_BOXES and images and not any(len(image.boxes) for image in images):
        raise DataError(
            f"{', '.join(sets)}: not one box, and {kind} has its classes by its boxes alone; write "
            "coco or yolo, or convert together with a split that has objects"
        )


def _require_names(labelled: LabelledSet, kind: Format) -> None:
    """Files in UTF-8 cannot name every file; COCO escapes it, YOLO and DOTA name none inside."""
    if kind in ("coco", "yolo", "dota"):
        return
    for image in labelled.images:
        try:
            image.path.name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{str(image.path)!a}: the name is not UTF-8, as {kind} needs it; rename the "
                "image, or write coco, yolo or dota"
            ) from None


def _require_sizes(labelled: LabelledSet, kind: Format) -> None:
    """In formats without the images' sizes nobody would see again that they are wrong."""
    if kind in ("coco", "voc"):
        return
    for image in labelled.images:
        width, height = image_size(image.path)
        if (width, height) != (image.width, image.height):
            raise DataError(
                f"{image.path} is {width} x {height} pixels, but its labels say {image.width} x "
                f"{image.height}, and {kind} has no sizes to see it by; correct one of them"
            )


def _label_files(labelled: LabelledSet, out: Path, kind: Format, split: str) -> list[Path]:
    """What `write_as` writes but for the images."""
    if kind not in ("yolo", "voc", "dota"):
        return [out / f"{split}.{'json' if kind == 'coco' else kind}"]
    images = placed_paths(labelled, _images_in(out, kind, split))
    if kind == "yolo":
        return [out / "data.yaml", *map(label_path, images)]
    if kind == "dota":
        return [out / split / "labelTxt" / f"{image.stem}.txt" for image in images]
    lists = out / "ImageSets" / "Main" / f"{split}.txt"
    return [lists, *(out / "Annotations" / f"{image.stem}.xml" for image in images)]


def _others_images(sets: Mapping[str, LabelledSet], out: Path, kind: Format) -> set[Path]:
    """Images that are there and not the sets', in formats of which all in a folder are a split."""
    if kind in ("coco", "voc", "csv"):
        return set()
    others: set[Path] = set()
    for name, each in sets.items():
        folder = _images_in(out, kind, name)
        others |= set(images_in(folder)) - set(placed_paths(each, folder))
    return others


def _images_in(out: Path, kind: Format, split: str) -> Path:
    if kind == "voc":
        return out / "JPEGImages"
    return out / split / "images" if kind == "dota" else out / "images" / split
