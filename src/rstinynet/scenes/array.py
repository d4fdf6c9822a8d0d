"""Arrays in memory as a source of pixels, read as a file is (`rstinynet.scenes.raster`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from pyproj import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject

from rstinynet.errors import UsageError
from rstinynet.scenes.raster import CACHE_BYTES, Box, Mask, Sampled, decimated
from rstinynet.scenes.windows import Window

_PLANE = "EPSG:3857"
"""Only pixels are resampled."""


class ArraySource:
    """An array in memory, (H, W) or (H, W, bands)."""

    def __init__(self, array: npt.NDArray[Any], name: str = "array") -> None:
        if array.ndim not in (2, 3) or not array.size:
            raise UsageError(f"an image array must be (H, W) or (H, W, bands), not {array.shape}")
        self._array = array if array.ndim == 3 else array[..., None]
        self.name = self.address = name
        self.height, self.width, self.count = self._array.shape
        self.dtypes = (array.dtype,) * self.count
        self.depths = (8 * array.dtype.itemsize,) * self.count
        self.crs: CRS | None = None
        self.transform: Affine | None = None
        self.stated: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()

    def default_bands(self) -> tuple[int, ...]:
        return (1, 2, 3) if self.count >= 3 else (1,)

    def read(self, window: Window, bands: Sequence[int]) -> tuple[Sampled, Mask | None]:
        part = self._array[window.y : window.y + window.height, window.x : window.x + window.width]
        return part[..., [band - 1 for band in bands]].transpose(2, 0, 1), None

    def sample(self, bands: Sequence[int]) -> tuple[Sampled, Mask | None]:
        height, width = decimated(self.height, self.width)
        return self.overview(bands, width, height), None

    def overview(self, bands: Sequence[int], width: int, height: int) -> Sampled:
        rows = (np.arange(height) + 0.5) * self.height / height
        columns = (np.arange(width) + 0.5) * self.width / width
        picked = self._array[rows.astype(int)[:, None], columns.astype(int)[None]]
        return np.asarray(picked[..., [band - 1 for band in bands]].transpose(2, 0, 1))

    def resampled(
        self, box: Box, size: tuple[int, int], bands: Sequence[int]
    ) -> tuple[Sampled, Mask | None]:
        """The part `box` (XYXY, pixels, not whole ones) as (C, h, w).

        Averaged where that is coarser, interpolated where it is finer, with the pixels around the
        part as neighbours.
        """
        x0, y0, x1, y1 = box
        across, down = (x1 - x0) / size[1], (y1 - y0) / size[0]
        left, top = max(0, math.floor(x0 - across) - 1), max(0, math.floor(y0 - down) - 1)
        right, bottom = math.ceil(x1 + across) + 1, math.ceil(y1 + down) + 1
        # What GDAL warps: floats of 32 and 64 bits in the machine's byte order.
        dtype = self._array.dtype
        whole = dtype.kind in "uib"
        warped = np.float64 if whole or dtype.itemsize > 4 else np.float32
        part = self._array[top:bottom, left:right, [band - 1 for band in bands]]
        source = np.ascontiguousarray(part.transpose(2, 0, 1), warped)
        values = np.zeros((len(bands), *size), source.dtype)
        reproject(
            source,
            values,
            src_transform=Affine.translation(left, top),
            dst_transform=Affine.translation(x0, y0) @ Affine.scale(across, down),
            src_crs=_PLANE,
            dst_crs=_PLANE,
            resampling=Resampling.average if max(across, down) > 1 else Resampling.bilinear,
        )
        return (np.rint(values) if whole else values).astype(dtype), None

    def files(self) -> tuple[str, ...]:
        return ()

    def cache_bytes(self, rows: int) -> int:
        return CACHE_BYTES

    def close(self) -> None:
        """Nothing to release."""
