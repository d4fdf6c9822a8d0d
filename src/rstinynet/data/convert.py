"""One split from any of the label formats into any other, with what the new one cannot hold."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.folder import open_split, splits_of
from rstinynet.data.formats.coco import write_coco
from rstinynet.data.formats.common import place_images
from rstinynet.data.formats.dota import names_in, read_dota, write_dota
from rstinynet.data.formats.table import write_table
from rstinynet.data.formats.vector_write import write_vector
from rstinynet.data.formats.voc import read_voc_folder, write_voc
from rstinynet.data.formats.yolo import write_yolo
from rstinynet.errors import DataError

Format = Literal["coco", "yolo", "voc", "dota", "csv", "geojson", "gpkg"]


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


def write_as(
    labelled: LabelledSet, out: Path | str, *, kind: Format, split: str, link: bool = False
) -> list[str]:
    """Write images and labels of one split under `out`; returns what the format cannot hold.

    Splits written into one folder one after another make one data set.

    Raises:
        DataError: `out` holds another set's images or classes.
    """
    out = Path(out)
    if kind == "yolo":
        return write_yolo(labelled, out, split=split, link=link)
    if kind == "voc":
        return write_voc(labelled, out, split=split, link=link)
    if kind == "dota":
        return write_dota(labelled, out / split, link=link)
    if kind == "csv":
        return write_table(labelled, out, split=split, link=link)
    if kind == "geojson" or kind == "gpkg":
        return write_vector(labelled, out, split=split, suffix=f".{kind}", link=link)
    if not labelled.images:
        raise DataError(f"split '{split}' has no images to write")
    placed = place_images(labelled, out / "images" / split, link=link)
    write_coco(placed, out / f"{split}.json", images_dir=out / "images")
    return []
