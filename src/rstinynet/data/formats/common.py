"""What the label formats share: finding images, placing them, and saying what a format loses."""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import struct
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from pyproj import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from rstinynet import files
from rstinynet.boxes import area
from rstinynet.data.annotations import BoolArray, Category, LabelledImage, LabelledSet
from rstinynet.data.image import TIFF_HEADS, read_rgb
from rstinynet.detections import Float32Array
from rstinynet.errors import DataError

NOT_UTF8 = "GDAL opens names in UTF-8 only, which this one is not; rename the file"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels: from the header of a PNG, JPEG or TIFF, else by decoding.

    Raises:
        DataError: the file is missing or not an image.
    """
    try:
        with path.open("rb") as file:
            head = file.read(24)
            if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) == 24:
                width, height = struct.unpack(">II", head[16:24])
                return width, height
            if head.startswith(b"\xff\xd8"):
                file.seek(2)
                found = _jpeg_size(file.read(1 << 20))
                if found is not None:
                    return found
    except FileNotFoundError:
        raise DataError(f"image not found: {path}; check the path and the images folder") from None
    except OSError as error:
        raise DataError(f"image cannot be read: {path}: {error.strerror}") from error
    if head[:4] in TIFF_HEADS:
        raster = georeference(path)
        return raster.width, raster.height
    height, width = read_rgb(path).shape[:2]
    return width, height


@dataclass(frozen=True, slots=True)
class Georeference:
    """Where a raster lies; read without decoding it."""

    width: int
    height: int
    transform: Affine
    """From pixels, counted from the first one's outer corner, to the CRS."""
    crs: CRS | None


def georeference(path: Path) -> Georeference:
    """Size and place of a raster.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as raster:
                crs = None if raster.crs is None else CRS.from_wkt(raster.crs.to_wkt())
                return Georeference(raster.width, raster.height, raster.transform, crs)
    except UnicodeError as error:
        raise DataError(f"{path}: {NOT_UTF8}") from error
    except RasterioError as error:
        raise DataError(f"not a readable image: {path}: {error}") from error


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """From the frame header (SOF0 to SOF15 but not DHT, JPG and DAC) after the first marker."""
    at = 0
    while at + 9 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", content[at + 5 : at + 9])
            return (width, height) if height else None
        at += 2 + int(struct.unpack(">H", content[at + 2 : at + 4])[0])
    return None


def images_in(folder: Path) -> list[Path]:
    """Image files under a folder, absolute, sorted by path."""
    paths = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    found = (path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(Path(os.path.abspath(path)) for path in found if not path.name.startswith("."))


def read_text(path: Path) -> str:
    """A label file's text.

    Raises:
        DataError: it is missing or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"label file not found: {path}; check the path") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"label file cannot be read: {path}: {utf8_fault(path, error)}; save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"label file cannot be read: {path}: {error}") from error


def utf8_fault(path: Path, error: UnicodeDecodeError) -> str:
    """Where a label file stops being UTF-8: its line, or in a database the text."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as whole:
        if b"\0" not in whole.object:
            error, line = whole, whole.object.count(b"\n", 0, whole.start) + 1
            return f"line {line} is not UTF-8 (byte 0x{error.object[error.start]:02x})"
    except OSError:
        pass  # said by the error that was
    text = error.object[:40].decode(errors="replace")
    return f"the text {text!r} is not UTF-8"


def labelled_image(
    path: Path,
    id_: int,
    size: tuple[int, int],
    rows: Sequence[tuple[int, tuple[float, float, float, float], bool]],
    *,
    classes: int,
    where: Path,
    areas: npt.ArrayLike | None = None,
) -> LabelledImage:
    """A fully labelled image from rows of (label, XYXY pixels, ignore); boxes are cut to it.

    Boxes without area are left out, as in `read_coco`. `areas` are the rows' own, square pixels;
    where there is none, or NaN, it is that of the box.

    Raises:
        DataError: a box is not finite or lies wholly outside the image.
    """
    width, height = size
    corners = np.array([box for _, box, _ in rows], np.float64).reshape(-1, 4)
    for left, top, right, bottom in corners[~np.isfinite(corners).all(axis=1)].tolist():
        raise DataError(f"{where}: box {left, top, right, bottom} is not finite; correct it")
    outside = (corners[:, :2] >= (width, height)).any(axis=1) | (corners[:, 2:] < 0).any(axis=1)
    if outside.any():
        raise DataError(
            f"{where}: box {corners[outside][0].tolist()} (XYXY pixels) lies wholly outside the "
            f"image ({width} x {height}); remove it, or check that label and image belong together"
        )
    boxes = np.clip(corners, 0, (width, height, width, height)).astype(np.float32)
    solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes = boxes[solid]
    own = np.full(len(rows), np.nan) if areas is None else np.asarray(areas, np.float64)
    own = own[solid]
    return LabelledImage(
        id=id_,
        path=path,
        width=width,
        height=height,
        boxes=boxes,
        labels=np.array([label for label, _, _ in rows], np.int64)[solid],
        areas=np.where(np.isnan(own), area(boxes), own),
        crowd=np.array([ignore for _, _, ignore in rows], np.bool_)[solid],
        known=np.ones(classes, np.bool_),
        exhaustive=np.ones(classes, np.bool_),
    )


def categories_of(names: Iterable[str]) -> tuple[Category, ...]:
    """Classes with the ids 1, 2, ... in the order of their names' list."""
    return tuple(Category(id=number, name=name) for number, name in enumerate(names, 1))


def fingerprint_of_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and bytes of several label files, hex."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path.name) + b"\0")
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def place_images(labelled: LabelledSet, folder: Path, *, link: bool = False) -> LabelledSet:
    """The set with its images copied (or hard-linked, where the disk can) into one flat folder.

    An image that is there already with the same bytes is kept, so that an interrupted
    copy goes on. Images whose names agree but for case and suffix get their ids into them.

    Raises:
        DataError: another image of the same name lies in the folder.
    """
    placed = []
    for image, target in zip(labelled.images, placed_paths(labelled, folder), strict=True):
        if target.is_file() and not filecmp.cmp(image.path, target, shallow=False):
            raise DataError(
                f"{target}: another image of this name is there already; write each split into a "
                "folder of its own, or name the images apart"
            )
        place_file(image.path, target, link=link)
        placed.append(replace(image, path=target))
    return replace(labelled, images=tuple(placed))


def placed_paths(labelled: LabelledSet, folder: Path) -> list[Path]:
    """Where `place_images` places each image in a folder."""
    # Labels are named by the stem, and some disks do not tell upper from lower case.
    counts = Counter(image.path.stem.casefold() for image in labelled.images)
    taken = {stem for stem, count in counts.items() if count == 1}
    paths = []
    for image in labelled.images:
        stem = image.path.stem
        if counts[stem.casefold()] > 1:
            stem = f"{stem}_{image.id}"
            while stem.casefold() in taken:
                stem += "_"
            taken.add(stem.casefold())
        paths.append(Path(os.path.abspath(folder)) / (stem + image.path.suffix))
    return paths


def place_file(source: Path, target: Path, *, link: bool = False) -> None:
    """Copy (or hard-link) a file, beside and renamed; an equally long one is left as it is."""
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        return
    with files.replacing(target) as beside:
        if link:
            try:
                os.link(source, beside)
                return
            except OSError:
                pass  # another disk, or one without links
        shutil.copyfile(source, beside)


def losses(
    labelled: LabelledSet, *, ids: bool = True, crowd: bool = True, areas: bool = True
) -> list[str]:
    """What a plain list of boxes and class numbers cannot hold of this set, in words.

    `ids`, `crowd` and `areas` say whether the format loses category ids, crowd regions and the
    annotations' own areas.
    """
    lost = []
    if ids and [each.id for each in labelled.categories] != list(range(1, len(labelled.names) + 1)):
        lost.append("category ids: classes are numbered anew")
    regions = sum(int(image.crowd.sum()) for image in labelled.images)
    if crowd and regions:
        lost.append(f"{regions} crowd regions: left out, what they cover becomes background")
    partly = sum(not image.known.all() for image in labelled.images)
    if partly:
        lost.append(f"partial labels of {partly} images: unknown classes become background")
    loose = sum(bool((image.known & ~image.exhaustive).any()) for image in labelled.images)
    if loose:
        lost.append(f"the mark of {loose} images that not every object of a class is labelled")
    own = sum(int((~_same_area(image)).sum()) for image in labelled.images)
    if areas and own:
        lost.append(f"the own area of {own} annotations: sizes go by the box")
    return lost


def unseen_classes(labelled: LabelledSet) -> list[str]:
    """That classes without an object are lost, where a format lists no classes."""
    seen = {int(label) for image in labelled.images for label in image.labels}
    absent = [name for label, name in enumerate(labelled.names) if label not in seen]
    return [f"the classes without an object: {', '.join(absent)}"] if absent else []


def _same_area(image: LabelledImage) -> BoolArray:
    boxes: Float32Array = image.boxes
    return np.asarray(np.isclose(area(boxes), image.areas, rtol=1e-3, atol=0.5), np.bool_)
