"""Images and scenes of any size, type and number of bands, read window by window as 8-bit RGB.

Scaling to 8 bit is settled once a scene, so that tiles agree at their seams. A scene can be read
at another resolution than its own; positions go back to its pixels exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import rasterio

from rstinynet.detections import Detections, Float32Array
from rstinynet.errors import DataError, UsageError
from rstinynet.model.metadata import Scaling
from rstinynet.scenes import georef
from rstinynet.scenes.array import ArraySource
from rstinynet.scenes.raster import (
    CACHE_BYTES,
    Mask,
    RasterSource,
    Sampled,
    Source,
    UInt8Image,
)
from rstinynet.scenes.views import MOST_SCALE
from rstinynet.scenes.windows import Window

__all__ = [
    "FILL",
    "Fill",
    "Mask",
    "Scene",
    "Source",
    "Tile",
    "UInt8Image",
    "check_place",
    "ground_px",
    "is_placed",
]

FILL = 114
"""Grey level given to pixels without data, as to the border that pads an image."""
MOSTLY = 0.5
"""A box with less than this share of valid pixels is dropped."""
Fill = Literal["grey", "black", "mean", "nearest"]
"""What pixels without data look like to the model: `FILL`, 0, the tile's mean colour, or the
nearest pixel that has data."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Pixels of one window, ready for the detector."""

    image: UInt8Image
    """(H, W, 3) RGB."""
    valid: Mask | None
    """(H, W) true where there are data; None where that is everywhere."""

    @property
    def empty(self) -> bool:
        """Whether there are no data at all."""
        return self.valid is not None and not self.valid.any()

    def on_data(self, boxes: Float32Array) -> npt.NDArray[np.bool_]:
        """(N,) which (N, 4) boxes, in pixels of the tile, lie mostly on data."""
        valid = self.valid
        if valid is None or not len(boxes):
            return np.ones(len(boxes), bool)
        height, width = valid.shape
        sums = cv2.integral(valid.astype(np.uint8))
        x0, y0 = (
            np.floor(boxes[:, i]).clip(0, n - 1).astype(int) for i, n in ((0, width), (1, height))
        )
        x1 = np.maximum(np.ceil(boxes[:, 2]).clip(0, width).astype(int), x0 + 1)
        y1 = np.maximum(np.ceil(boxes[:, 3]).clip(0, height).astype(int), y0 + 1)
        inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
        return np.asarray(inside >= MOSTLY * (x1 - x0) * (y1 - y0))


class Scene:
    """A source with its bands and its scaling to 8 bit settled. Use it as a context manager."""

    def __init__(
        self,
        source: str | Path | npt.NDArray[Any],
        *,
        bands: Sequence[int] | None = None,
        scaling: Scaling | None = None,
        stretch_bytes: bool = False,
        gsd: float | tuple[float, float] | None = None,
        source_gsd: float | None = None,
        fill: Fill = "grey",
    ) -> None:
        """Open `source`; `bands` count from 1: three, or one that is repeated.

        `scaling` leaves 8-bit values alone unless `stretch_bytes`, and spreads those of 1 to 7
        bits evenly. With `gsd` the scene is read at
        so many metres a pixel; with two values, only where its own are outside of them. Its own
        are `source_gsd` where it does not say them. Raises DataError where it cannot be read,
        UsageError for bands that it does not have, and for a `gsd` that would enlarge it more
        than `MOST_SCALE` times.
        """
        self.source: Source = (
            ArraySource(source) if isinstance(source, np.ndarray) else RasterSource(source)
        )
        self.bands = self._checked(bands)
        self.dtype = np.result_type(*(self.source.dtypes[band - 1] for band in self.bands))
        """One that holds the values of all bands that are read."""
        if self.dtype.kind not in "uifb":
            raise DataError(
                f"{self.source.name}: pixels of type {self.dtype} are not supported; "
                "convert to an integer or real type"
            )
        self.full_size = (self.source.width, self.source.height)
        """Width and height in the source's own pixels."""
        self.source_gsd = source_gsd
        """Metres a pixel of a source that does not say its own."""
        self.width, self.height = self._size(gsd)
        self._fill = fill
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
            self.limits = self._limits(scaling or Scaling(), stretch_bytes)

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.source.close()

    @property
    def zoom(self) -> tuple[float, float]:
        """Pixels that are read for one of the source's, along x and y."""
        return self.width / self.full_size[0], self.height / self.full_size[1]

    def to_source(self, found: Detections) -> Detections:
        """Detections in pixels that are read, in pixels of the source."""
        x, y = self.zoom
        if x == y == 1:
            return found
        boxes = found.boxes / np.array([x, y, x, y])
        return Detections(boxes.astype(np.float32), found.scores, found.labels)

    def read(self, window: Window) -> Tile:
        """The window as 8-bit RGB; pixels without data are filled. Threads may read at once."""
        values, valid = self._values(window)
        if values.dtype.kind == "f":
            finite = np.asarray(np.isfinite(values).all(axis=0))
            if not finite.all():
                valid = finite if valid is None else valid & finite
        if valid is not None:
            if valid.all():
                valid = None
            elif not valid.any():
                return Tile(np.full((*valid.shape, 3), FILL, np.uint8), valid)
        image = self._to_rgb(values)
        if valid is not None:
            _fill_missing(image, valid, self._fill)
        return Tile(image, valid)

    def blank(self, windows: Iterable[Window]) -> bool:
        """Whether none of the windows has any data; they are read until one has."""
        return all(self.read(window).empty for window in windows)

    def overview(self, width: int, height: int) -> UInt8Image:
        """The whole scene at this size, as 8-bit RGB."""
        return self._to_rgb(self.source.overview(self.bands, width, height))

    def _size(self, gsd: float | tuple[float, float] | None) -> tuple[int, int]:
        """Width and height to read at."""
        width, height = self.full_size
        if gsd is None:
            return width, height
        own = ground_px(self.source, self.source_gsd)
        low, high = gsd if isinstance(gsd, tuple) else (gsd, gsd)
        read_at = [min(max(at, low), high) for at in own]
        factors = [at / to for at, to in zip(own, read_at, strict=True)]
        if max(factors) > MOST_SCALE:
            worst = factors.index(max(factors))
            least = own[worst] / (MOST_SCALE - 1)  # Rounded it is still enough.
            raise UsageError(
                f"{self.source.name}: has {own[worst]:g} metres a pixel; reading it at "
                f"{read_at[worst]:g} would enlarge it {max(factors):.4g} times, and the most is "
                f"{MOST_SCALE}: give --gsd {least:.2g} or more, or leave it out"
            )
        return max(1, round(width * factors[0])), max(1, round(height * factors[1]))

    def _values(self, window: Window) -> tuple[Sampled, Mask | None]:
        x, y = self.zoom
        if x == y == 1:
            return self.source.read(window, self.bands)
        right, bottom = window.x + window.width, window.y + window.height
        box = (window.x / x, window.y / y, right / x, bottom / y)
        return self.source.resampled(box, (window.height, window.width), self.bands)

    def _to_rgb(self, values: Sampled) -> UInt8Image:
        if self.limits is None:
            scaled = values.astype(np.uint8, copy=False)
        else:
            low, high = (limit[:, None, None] for limit in self.limits)
            # What has no data may be the least number that the type holds.
            with np.errstate(over="ignore"):
                stretched = (values.astype(np.float32) - low) * (255 / (high - low))
            scaled = np.clip(np.nan_to_num(stretched, nan=0.0) + 0.5, 0, 255).astype(np.uint8)
        # Twice as fast as transposing, and the most of what reading costs beside decoding.
        return np.asarray(
            cv2.merge([scaled[0]] * 3 if len(scaled) == 1 else list(scaled)), np.uint8
        )

    def _checked(self, bands: Sequence[int] | None) -> tuple[int, ...]:
        if bands is None:
            return self.source.default_bands()
        chosen = tuple(bands)
        if len(chosen) not in (1, 3) or not all(1 <= b <= self.source.count for b in chosen):
            raise UsageError(
                f"bands must be one or three numbers from 1 to {self.source.count} for "
                f"{self.source.name}, not {','.join(map(str, chosen)) or 'none'}"
            )
        return chosen

    def _limits(
        self, scaling: Scaling, stretch_bytes: bool
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
        """Values that become 0 and 255, a band each (C,); None for 8-bit left as it is.

        Values of fewer bits than their type has, as the file says, are spread over 0 to 255.
        """
        dtype, count = self.dtype, len(self.bands)
        most = np.array([2.0 ** self.source.depths[band - 1] - 1 for band in self.bands])
        if dtype == np.uint8 and not stretch_bytes:
            if (most == 255).all():
                return None
            low, high = np.zeros(count), most
        elif scaling.kind == "percentile":
            low, high = self._percentiles(scaling)
        elif scaling.kind == "fixed":
            low, high = np.full(count, scaling.low), np.full(count, scaling.high)
        elif dtype.kind in "ui":
            low = np.zeros(count)
            high = most if dtype.kind == "u" else np.full(count, np.iinfo(dtype).max)
        else:
            low, high = np.zeros(count), np.ones(count)
        flat = high <= low
        high = np.where(flat, low + 1, high)
        return np.asarray(low, np.float32), np.asarray(high, np.float32)

    def _percentiles(self, scaling: Scaling) -> tuple[Sampled, Sampled]:
        values, valid = self.source.sample(self.bands)
        with np.errstate(over="ignore"):
            flat = values.reshape(len(values), -1).astype(np.float32)
        known = np.isfinite(flat).all(axis=0)
        if valid is not None:
            known &= valid.reshape(-1)
        if not known.any():
            return np.zeros(len(flat)), np.ones(len(flat))
        low, high = np.percentile(flat[:, known], [scaling.low, scaling.high], axis=1)
        return low, high


def ground_px(source: Source, source_gsd: float | None = None) -> tuple[float, float]:
    """Ground sampling distance along x and y at the middle of the scene, metres, by geodesic.

    `source_gsd` is that of a source without a coordinate system that leads to metres; UsageError
    where it is None there. DataError where the scene lies outside of its own system.
    """
    if not georef.has_metres(source.transform, source.crs):
        if source_gsd is not None:
            return source_gsd, source_gsd
        raise UsageError(
            f"{source.name} has no coordinate system that leads to metres, so its ground sampling "
            "distance is not known: give it by --source-gsd, or use --scale instead of --gsd"
        )
    span = 16.0
    x, y = source.width / 2, source.height / 2
    middle = np.array([[x - span, y - span, x + span, y + span]], np.float32)
    width, height = georef.sizes_m(middle, source.transform, source.crs)
    across, down = float(width[0]) / (2 * span), float(height[0]) / (2 * span)
    if not (0 < across < math.inf and 0 < down < math.inf):
        raise _misplaced(source)
    return across, down


def is_placed(source: Source) -> bool:
    """Whether the middle of a scene lies in its own system; true of one without any."""
    if source.transform is None or source.crs is None:
        return True
    middle = np.array([source.width / 2, source.height / 2])
    return georef.is_place(georef.to_ground(middle, source.transform), source.crs)


def check_place(source: Source) -> None:
    """DataError for a scene that does not lie in its own system (see `is_placed`)."""
    if not is_placed(source):
        raise _misplaced(source)


def _misplaced(source: Source) -> DataError:
    assert source.transform is not None
    assert source.crs is not None
    middle = np.array([source.width / 2, source.height / 2])
    at = georef.to_ground(middle, source.transform).tolist()
    return DataError(
        f"{source.name}: its middle, {at[0]:g}, {at[1]:g}, is no place in its coordinate "
        f"system {source.crs.name}, which may be the wrong one; assign the right one with "
        "`gdal_edit.py -a_srs EPSG:...`"
    )


def _fill_missing(image: UInt8Image, valid: Mask, fill: Fill) -> None:
    """Give the pixels of `image` (H, W, 3) that are not `valid` (H, W) their colour, in place."""
    if fill == "nearest":
        _, nearest = cv2.distanceTransformWithLabels(
            (~valid).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
        )
        colours = np.zeros((int(nearest.max()) + 1, 3), np.uint8)
        colours[nearest[valid]] = image[valid]
        image[~valid] = colours[nearest[~valid]]
        return
    levels = {"grey": FILL, "black": 0, "mean": image[valid].mean(axis=0).round()}
    image[~valid] = levels[fill]
