"""The same ground in two splits: near-duplicate pictures, and overlapping georeferences."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from rstinynet.data.image import RgbArray

HASH_SIDE = 16
"""The hash compares neighbours on a grid of this side: 256 bits across and 256 down."""
NEAR_BITS = 20
"""Hashes of 512 bits that differ in fewer belong to one picture, saved or brightened anew."""
FLAT = 1.5
"""Deviation of grey values on the grid below which a picture tells nothing: open sea, black."""
SHARED = 1e-3
"""Share of an image's ground that another must show for the two to overlap."""
_CHUNK = 512
_EDGE_POINTS = 20

HashArray = npt.NDArray[np.uint64]


def picture_hash(pixels: RgbArray) -> HashArray | None:
    """(8,) difference hash of an image, or None where it is too flat to tell from others.

    As Krawetz's dHash (hackerfactor.com, "Kind of Like That", 2013), in both directions.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    side = HASH_SIDE + 1
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).astype(np.int16)
    if small.std() < FLAT:
        return None
    across = small[:-1, 1:] > small[:-1, :-1]
    down = small[1:, :-1] > small[:-1, :-1]
    bits = np.packbits(np.concatenate([across.ravel(), down.ravel()]))
    return np.ascontiguousarray(bits).view(np.uint64)


def near_pairs(
    first: Sequence[HashArray | None], second: Sequence[HashArray | None]
) -> list[tuple[int, int, int]]:
    """(index into first, index into second, differing bits) of near-duplicates, nearest first."""
    rows = [at for at, each in enumerate(first) if each is not None]
    columns = [at for at, each in enumerate(second) if each is not None]
    if not rows or not columns:
        return []
    left = np.stack([each for each in first if each is not None])
    right = np.stack([each for each in second if each is not None])
    found: list[tuple[int, int, int]] = []
    for start in range(0, len(rows), _CHUNK):
        part = left[start : start + _CHUNK]
        bits = np.zeros((len(part), len(right)), np.uint16)
        for word in range(left.shape[1]):
            bits += np.bitwise_count(part[:, word, None] ^ right[None, :, word])
        for row, column in np.argwhere(bits < NEAR_BITS).tolist():
            found.append((rows[start + row], columns[column], int(bits[row, column])))
    return sorted(found, key=lambda each: each[2])


def footprint(path: Path) -> Any | None:
    """The ground of a georeferenced TIFF, a shapely polygon in degrees; None for anything else."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as raster:
                if raster.crs is None:
                    return None
                frame = shapely.box(0, 0, raster.width, raster.height)
                # Its edges are straight in its own system, and bent in degrees.
                edge = shapely.segmentize(frame, max(raster.width, raster.height) / _EDGE_POINTS)
                x, y = shapely.get_coordinates(edge).T
                t = raster.transform
                lon, lat = Transformer.from_crs(
                    CRS.from_wkt(raster.crs.to_wkt()), 4326, always_xy=True
                ).transform(t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f)
    except (RasterioError, ProjError, UnicodeError):  # of names too, which GDAL opens in UTF-8 only
        return None
    if not np.isfinite([lon, lat]).all():
        return None
    return shapely.Polygon(np.stack([lon, lat], axis=1))


def overlapping(
    first: Sequence[Any | None],
    second: Sequence[Any | None],
) -> list[tuple[int, int]]:
    """Pairs of footprints that share ground, not only an edge: a thousandth of the first."""
    rows = [at for at, each in enumerate(first) if each is not None]
    columns = [at for at, each in enumerate(second) if each is not None]
    if not rows or not columns:
        return []
    tree = shapely.STRtree([each for each in second if each is not None])
    shapes = [each for each in first if each is not None]
    found = []
    for at, other in zip(*tree.query(shapes, predicate="intersects").tolist(), strict=True):
        shared = shapes[at].intersection(tree.geometries[other]).area
        if shared > SHARED * shapes[at].area:
            found.append((rows[at], columns[other]))
    return sorted(found)
