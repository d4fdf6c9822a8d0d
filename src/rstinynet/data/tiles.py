"""Cutting labelled scenes into tiles that training can hold in memory, with their place kept.

Windows are read one at a time, so a scene may be larger than memory. The last tile of a row or
column is shifted inward. What a tile's edge cuts is kept, shortened, where enough of it is inside,
and is a region to ignore elsewhere: never silent background.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from rstinynet import files
from rstinynet.boxes import area
from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.data.formats.common import NOT_UTF8
from rstinynet.data.image import (
    PAD,
    Mask,
    colour_bands,
    depths,
    finite,
    palette,
    percentile_limits,
    stretched,
    with_data,
)
from rstinynet.detections import Float32Array
from rstinynet.errors import DataError, UsageError

SAMPLE_PX = 2048
"""Side of the thinned-out scene from which the scaling of 16-bit and float values is found."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSettings:
    """How scenes are cut."""

    tile: int = 800
    """Side of a tile, pixels."""
    overlap: int = 200
    """Pixels that neighbours share at least."""
    min_visibility: float = 0.3
    """Share of a box's area that must be inside for it to stay an object."""
    empty_share: float = 1.0
    """Of tiles without any box, keep this share, evenly spread; tiles of nodata are never kept."""

    def __post_init__(self) -> None:
        if self.tile < 32 or not 0 <= self.overlap < self.tile:
            raise UsageError(
                "a tile has at least 32 px and an overlap from 0 to less than itself, not "
                f"tile {self.tile}, overlap {self.overlap}"
            )
        for name in ("min_visibility", "empty_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be between 0 and 1, not {getattr(self, name)}")


def cut(
    labelled: LabelledSet,
    folder: Path | str,
    *,
    settings: TileSettings | None = None,
    progress: Progress = lambda what, done, total: None,
) -> LabelledSet:
    """The set cut into tiles, GeoTIFFs named SCENE__left_top.tif in `folder`, 8-bit.

    Other dtypes are stretched by percentiles of the whole scene, as prediction does. A tile that
    is there already is kept where it shows the same, so that an interrupted cut goes on.

    Raises:
        DataError: a scene cannot be read, or two scenes have one name.
    """
    settings = settings or TileSettings()
    folder = Path(os.path.abspath(folder))
    stems = [image.path.stem for image in labelled.images]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise DataError(f"scenes of one name: {', '.join(twice[:5])}; tiles are named by the scene")
    tiles: list[LabelledImage] = []
    quota = _Quota(settings.empty_share)
    for done, image in enumerate(labelled.images):
        progress("scenes", done, len(labelled))
        tiles += _cut_scene(image, folder, settings, quota)
    progress("scenes", len(labelled), len(labelled))
    numbered = tuple(replace(tile, id=number) for number, tile in enumerate(tiles, 1))
    return replace(labelled, images=numbered)


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along one side; the last tile ends at the scene's edge."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


class _Quota:
    """Takes one empty tile in so many, without a draw, over all scenes of a set."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._due = 0.0

    def next(self) -> bool:
        """Whether this empty tile is one to keep; `took` says that it was."""
        # What nodata could not use up is one tile at most.
        self._due = min(1.0, self._due) + self._share
        return self._due > 1 - 1e-9

    def took(self) -> None:
        self._due -= 1


def _cut_scene(
    image: LabelledImage, folder: Path, settings: TileSettings, quota: _Quota
) -> list[LabelledImage]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(image.path) as scene:
                if (scene.width, scene.height) != (image.width, image.height):
                    raise DataError(
                        f"{image.path}: is {scene.width} x {scene.height} pixels, but its labels "
                        f"say {image.width} x {image.height}; correct one of them"
                    )
                bands = colour_bands(scene)
                limits = _limits(scene, bands)
                return _tiles(image, scene, folder, settings, quota, bands=bands, limits=limits)
    except UnicodeError as error:
        raise DataError(f"{image.path}: {NOT_UTF8}") from error
    except RasterioError as error:
        raise DataError(f"{image.path}: cannot be read: {error}; copy it again") from error


def _tiles(
    image: LabelledImage,
    scene: DatasetReader,
    folder: Path,
    settings: TileSettings,
    quota: _Quota,
    *,
    bands: Sequence[int],
    limits: Float32Array | None,
) -> list[LabelledImage]:
    made: list[LabelledImage] = []
    for top in starts(scene.height, settings.tile, settings.overlap):
        for left in starts(scene.width, settings.tile, settings.overlap):
            across = min(settings.tile, scene.width - left)
            down = min(settings.tile, scene.height - top)
            tile = _labels(image, left, top, (across, down), settings.min_visibility)
            empty = not len(tile.boxes)
            if empty and not quota.next():
                continue
            target = folder / f"{image.path.stem}__{left}_{top}.tif"
            window = Window(left, top, across, down)
            pixels, valid = _shown(scene, window, bands=bands, limits=limits)
            if valid is not None and not valid.any():
                continue  # nothing but nodata
            if not _is_there(scene, window, target, pixels=pixels, valid=valid):
                _write(scene, window, target, pixels=pixels, valid=valid)
            if empty:
                quota.took()
            made.append(replace(tile, path=target))
    return made


def _is_there(
    scene: DatasetReader,
    window: Window,
    target: Path,
    *,
    pixels: npt.NDArray[np.uint8],
    valid: Mask | None,
) -> bool:
    """Whether a tile is written already: the scene may be another one now, of the same name."""
    if not target.is_file():
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(target) as tile:
                down, across, count = pixels.shape
                if (tile.width, tile.height) != (across, down):
                    raise DataError(
                        f"{target}: is there with {tile.width} x {tile.height} pixels, not "
                        f"{across} x {down}; cut other sizes into a folder of their own"
                    )
                if (tile.count, tile.crs) != (count, scene.crs):
                    return False
                if scene.crs is not None and tile.transform != _place(scene, window):
                    return False
                shown = np.ones((down, across), np.bool_) if valid is None else valid
                same = np.array_equal(np.moveaxis(tile.read(), 0, 2), pixels)
                return same and np.array_equal(tile.dataset_mask() > 0, shown)
    except RasterioError:
        return False  # damaged: cut again


def _labels(
    image: LabelledImage, left: int, top: int, size: tuple[int, int], least: float
) -> LabelledImage:
    across, down = size
    moved = image.boxes - np.array([left, top, left, top], np.float32)
    inside = np.clip(moved, 0, (across, down, across, down)).astype(np.float32)
    touching = (inside[:, 2:] > inside[:, :2]).all(axis=1)
    inside, whole = inside[touching], image.boxes[touching]
    share = area(inside) / area(whole)
    return replace(
        image,
        width=across,
        height=down,
        boxes=inside,
        labels=image.labels[touching],
        areas=image.areas[touching] * share,
        crowd=image.crowd[touching] | (share < least),
    )


def _limits(scene: DatasetReader, bands: Sequence[int]) -> Float32Array | None:
    """(2, bands) values that become 0 and 255; None for 8-bit, which is left as it is."""
    if scene.dtypes[0] == "uint8":
        most = [2 ** depths(scene)[band - 1] - 1 for band in bands]
        if palette(scene) is not None or min(most) == 255:
            return None
        return np.array([[0] * len(most), most], np.float32)
    thin = max(1.0, max(scene.width, scene.height) / SAMPLE_PX)
    size = (max(1, round(scene.height / thin)), max(1, round(scene.width / thin)))
    values = np.moveaxis(scene.read(list(bands), out_shape=(len(bands), *size)), 0, 2)
    valid = finite(values, with_data(scene, bands, size=size))
    return percentile_limits(values.reshape(-1, len(bands)) if valid is None else values[valid])


def _shown(
    scene: DatasetReader,
    window: Window,
    *,
    bands: Sequence[int],
    limits: Float32Array | None,
) -> tuple[npt.NDArray[np.uint8], Mask | None]:
    """(h, w, 1 or 3) 8-bit pixels, and where they have data; elsewhere they are `PAD`."""
    values = np.moveaxis(scene.read(list(bands), window=window), 0, 2)
    valid = finite(values, with_data(scene, bands, window=window))
    table = palette(scene)
    if table is not None:
        values = table[values[..., 0]]
    pixels = values if limits is None else stretched(values, limits)
    return pixels if valid is None else np.where(valid[..., None], pixels, np.uint8(PAD)), valid


def _write(
    scene: DatasetReader,
    window: Window,
    target: Path,
    *,
    pixels: npt.NDArray[np.uint8],
    valid: Mask | None,
) -> None:
    """Write a tile, with a mask in it where it lacks data: no value of 8 bits is free for that."""
    profile = {
        "driver": "GTiff",
        "width": int(window.width),
        "height": int(window.height),
        "count": pixels.shape[2],
        "dtype": "uint8",
        "compress": "deflate",
        "photometric": "RGB" if pixels.shape[2] == 3 else "MINISBLACK",
    }
    if scene.crs is not None:
        profile["crs"] = scene.crs
        profile["transform"] = _place(scene, window)
    with (
        files.replacing(target) as beside,
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(beside, "w", **profile) as tile,
    ):
        tile.write(np.moveaxis(pixels, 2, 0))
        if valid is not None:
            tile.write_mask(valid)


def _place(scene: DatasetReader, window: Window) -> Affine:
    """From a window's pixels to the scene's CRS."""
    t, left, top = scene.transform, window.col_off, window.row_off
    x, y = t.a * left + t.b * top + t.c, t.d * left + t.e * top + t.f
    return Affine(t.a, t.b, x, t.d, t.e, y)
