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
    """An array in memory, (H, W) or (H, W, bands).

    Where one of numpy's masked arrays is masked in every band that is read, it has no data, as in a
    file.
    """

    def __init__(self, array: npt.NDArray[Any], name: str = "array") -> None:
        if array.ndim not in (2, 3) or not array.size:
            raise UsageError(f"an image array must be (H, W) or (H, W, bands), not {array.shape}")
        array = array if array.ndim == 3 else array[..., None]
        self._valid = ~np.ma.getmaskarray(array) if np.ma.is_masked(array) else None
        self._array = np.ma.getdata(array)
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
        rows = slice(window.y, window.y + window.height)
        part = rows, slice(window.x, window.x + window.width)
        chosen = [band - 1 for band in bands]
        return self._array[part][..., chosen].transpose(2, 0, 1), self._known(part, bands)

    def sample(self, bands: Sequence[int]) -> tuple[Sampled, Mask | None]:
        height, width = decimated(self.height, self.width)
        known = self._known(self._spread(width, height), bands)
        return self.overview(bands, width, height), known

    def overview(self, bands: Sequence[int], width: int, height: int) -> Sampled:
        picked = self._array[self._spread(width, height)]
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
        part = slice(top, bottom), slice(left, right)
        chosen = [band - 1 for band in bands]
        source = self._array[part][..., chosen].transpose(2, 0, 1)
        source = np.ascontiguousarray(source, warped)

        def resample(planes: Sampled) -> Sampled:
            made = np.zeros((len(planes), *size), warped)
            reproject(
                planes,
                made,
                src_transform=Affine.translation(left, top),
                dst_transform=Affine.translation(x0, y0) @ Affine.scale(across, down),
                src_crs=_PLANE,
                dst_crs=_PLANE,
                resampling=Resampling.average if max(across, down) > 1 else Resampling.bilinear,
            )
            return made

        if self._valid is None:
            values, valid = resample(source), None
        else:
            # In each band the mean of what has data alone.
            known = self._valid[part][..., chosen].transpose(2, 0, 1)
            share = resample(np.ascontiguousarray(known, warped))
            values = resample(np.where(known, source, 0)) / np.maximum(share, 1e-6)
            valid = np.asarray((share >= 0.5).any(axis=0))
        return (np.rint(values) if whole else values).astype(dtype), valid

    def _known(self, part: Any, bands: Sequence[int]) -> Mask | None:
        """Where this part of the array has data in any of the bands; None: everywhere."""
        if self._valid is None:
            return None
        return np.asarray(self._valid[part][..., [band - 1 for band in bands]].any(axis=2))

    def _spread(self, width: int, height: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Rows and columns of so many places, spread over the array."""
        rows = (np.arange(height) + 0.5) * self.height / height
        columns = (np.arange(width) + 0.5) * self.width / width
        return rows.astype(int)[:, None], columns.astype(int)[None]

    def files(self) -> tuple[str, ...]:
        return ()

    def cache_bytes(self, rows: int) -> int:
        return CACHE_BYTES

    def close(self) -> None:
        """Nothing to release."""
