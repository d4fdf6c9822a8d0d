"""Images and scenes of any size, type and number of bands, read window by window as 8-bit RGB.

Files go through GDAL (rasterio), which reads JPEG, PNG and TIFF alike and holds only the blocks
that a window needs. Scaling to 8 bit is settled once a scene, so that tiles agree at their seams.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from pyproj import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window as RasterWindow

from rstinynet.errors import DataError, UsageError
from rstinynet.model.weights import Scaling
from rstinynet.scenes.windows import Window

CACHE_BYTES = 256 * 2**20
"""Most memory that GDAL's block cache may hold."""
FILL = 114
"""Grey level given to pixels without data."""
_SAMPLE_SIDE = 1024
_WHOLE = 16_000_000

UInt8Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Sampled = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tile:
    """Pixels of one window, ready for the detector."""

    image: UInt8Image
    """(H, W, 3) RGB."""
    valid: Mask | None
    """(H, W) true where there are data; None where that is everywhere."""


class Source(Protocol):
    """Where pixels come from: a file or an array."""

    name: str
    width: int
    height: int
    count: int
    dtype: np.dtype[Any]
    crs: CRS | None
    transform: Affine | None
    notes: tuple[str, ...]

    def default_bands(self) -> tuple[int, ...]: ...
    def read(self, window: Window, bands: Sequence[int]) -> tuple[Sampled, Mask | None]: ...
    def sample(self, bands: Sequence[int]) -> tuple[Sampled, Mask | None]: ...
    def overview(self, bands: Sequence[int], width: int, height: int) -> Sampled: ...
    def files(self) -> tuple[str, ...]: ...
    def close(self) -> None: ...


class RasterSource:
    """A file that GDAL can read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        self._file = _open(self.path)
        file = self._file
        self.width, self.height, self.count = file.width, file.height, file.count
        self.crs = None if file.crs is None else CRS.from_wkt(file.crs.to_wkt())
        located = self.crs is not None and file.transform != Affine.identity()
        self.transform: Affine | None = file.transform if located else None
        self.crs = self.crs if located else None
        self._palette = _palette(file)
        if self._palette is not None:
            self.count = 3
        self.dtype = np.dtype(np.uint8 if self._palette is not None else file.dtypes[0])
        self._masked = any(MaskFlags.all_valid not in flags for flags in file.mask_flag_enums)
        self.notes = self._striped()

    def default_bands(self) -> tuple[int, ...]:
        """Red, green and blue where the file names them, else the first three, else the first."""
        if self._palette is not None:
            return (1, 2, 3)
        kinds = list(self._file.colorinterp)
        colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        if all(colour in kinds for colour in colours):
            return tuple(kinds.index(colour) + 1 for colour in colours)
        plain = [i + 1 for i, kind in enumerate(kinds) if kind is not ColorInterp.alpha]
        return tuple(plain[:3]) if len(plain) >= 3 else tuple(plain[:1] or [1])

    def read(self, window: Window, bands: Sequence[int]) -> tuple[Sampled, Mask | None]:
        """Values (C, h, w) and where they are valid (h, w)."""
        part = RasterWindow(window.x, window.y, window.width, window.height)
        return self._read(bands, window=part)

    def sample(self, bands: Sequence[int]) -> tuple[Sampled, Mask | None]:
        """Values that stand for the scene: decimated, or spread blocks where that is dear."""
        if self.width * self.height <= _WHOLE or self._file.overviews(1):
            height, width = _decimated(self.height, self.width)
            return self._read(bands, size=(height, width))
        side_y, side_x, rows, columns = min(256, self.height), min(256, self.width), 8, 8
        values, valid = [], []
        for y in np.linspace(0, self.height - side_y, rows).astype(int):
            for x in np.linspace(0, self.width - side_x, columns).astype(int):
                block, known = self._read(bands, window=RasterWindow(x, y, side_x, side_y))
                values.append(block.reshape(len(bands), -1))
                whole = np.ones(side_x * side_y, bool)
                valid.append(whole if known is None else known.reshape(-1))
        return np.concatenate(values, axis=1)[:, None], np.concatenate(valid)[None]

    def overview(self, bands: Sequence[int], width: int, height: int) -> Sampled:
        """The whole scene at another size, (C, height, width)."""
        return self._read(bands, size=(height, width))[0]

    def files(self) -> tuple[str, ...]:
        """Every file that pixels come from: a VRT's sources and masks beside the file too."""
        return tuple(self._file.files)

    def close(self) -> None:
        self._file.close()

    def _read(
        self,
        bands: Sequence[int],
        *,
        window: RasterWindow | None = None,
        size: tuple[int, int] | None = None,
    ) -> tuple[Sampled, Mask | None]:
        wanted = [1] if self._palette is not None else list(bands)
        shape = None if size is None else (len(wanted), *size)
        try:
            with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
                values = self._file.read(wanted, window=window, out_shape=shape)
                mask = None
                if self._masked:
                    mask = self._file.dataset_mask(window=window, out_shape=size) > 0
        except (RasterioError, RasterioIOError, MemoryError) as error:
            raise DataError(
                f"{self.name}: pixels cannot be read ({_reason(error)}): the file is truncated or "
                "damaged; copy or download it again"
            ) from error
        if self._palette is not None:
            values = self._palette[values[0]].transpose(2, 0, 1)[[band - 1 for band in bands]]
        return values, mask

    def _striped(self) -> tuple[str, ...]:
        """A note where every tile makes GDAL decode whole rows again and again."""
        rows, columns = self._file.block_shapes[0]
        row_bytes = 1024 * self.width * self.count * self.dtype.itemsize
        if columns >= self.width > 4096 and row_bytes > CACHE_BYTES and rows > 0:
            return (
                f"{self.name} is stored in strips, which makes reading tiles slow; "
                "`gdal_translate -co TILED=YES -co COMPRESS=DEFLATE` makes a tiled copy",
            )
        return ()


class ArraySource:
    """An array in memory, (H, W) or (H, W, bands)."""

    def __init__(self, array: npt.NDArray[Any], name: str = "array") -> None:
        if array.ndim not in (2, 3) or not array.size:
            raise UsageError(f"an image array must be (H, W) or (H, W, bands), not {array.shape}")
        self._array = array if array.ndim == 3 else array[..., None]
        self.name = name
        self.height, self.width, self.count = self._array.shape
        self.dtype = array.dtype
        self.crs: CRS | None = None
        self.transform: Affine | None = None
        self.notes: tuple[str, ...] = ()

    def default_bands(self) -> tuple[int, ...]:
        return (1, 2, 3) if self.count >= 3 else (1,)

    def read(self, window: Window, bands: Sequence[int]) -> tuple[Sampled, Mask | None]:
        part = self._array[window.y : window.y + window.height, window.x : window.x + window.width]
        return part[..., [band - 1 for band in bands]].transpose(2, 0, 1), None

    def sample(self, bands: Sequence[int]) -> tuple[Sampled, Mask | None]:
        height, width = _decimated(self.height, self.width)
        return self.overview(bands, width, height), None

    def overview(self, bands: Sequence[int], width: int, height: int) -> Sampled:
        rows = (np.arange(height) + 0.5) * self.height / height
        columns = (np.arange(width) + 0.5) * self.width / width
        picked = self._array[rows.astype(int)[:, None], columns.astype(int)[None]]
        return np.asarray(picked[..., [band - 1 for band in bands]].transpose(2, 0, 1))

    def files(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        """Nothing to release."""


class Scene:
    """A source with its bands and its scaling to 8 bit settled. Use it as a context manager."""

    def __init__(
        self,
        source: str | Path | npt.NDArray[Any],
        *,
        bands: Sequence[int] | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        """Open `source`; `bands` count from 1: three, or one that is repeated.

        Raises DataError where it cannot be read, UsageError for bands that it does not have.
        """
        self.source: Source = (
            ArraySource(source) if isinstance(source, np.ndarray) else RasterSource(source)
        )
        self.width, self.height = self.source.width, self.source.height
        if self.source.dtype.kind not in "uifb":
            raise DataError(
                f"{self.source.name}: pixels of type {self.source.dtype} are not supported; "
                "convert to an integer or real type"
            )
        self.bands = self._checked(bands)
        self.limits = self._limits(scaling or Scaling())

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.source.close()

    def read(self, window: Window) -> Tile:
        """The window as 8-bit RGB; pixels without data are grey."""
        values, valid = self.source.read(window, self.bands)
        if values.dtype.kind == "f":
            finite = np.asarray(np.isfinite(values).all(axis=0))
            if not finite.all():
                valid = finite if valid is None else valid & finite
        image = self._to_rgb(values)
        if valid is not None:
            if valid.all():
                valid = None
            else:
                image[~valid] = FILL
        return Tile(image, valid)

    def overview(self, width: int, height: int) -> UInt8Image:
        """The whole scene at this size, as 8-bit RGB."""
        return self._to_rgb(self.source.overview(self.bands, width, height))

    def _to_rgb(self, values: Sampled) -> UInt8Image:
        if self.limits is None:
            scaled = values.astype(np.uint8, copy=False)
        else:
            low, high = (limit[:, None, None] for limit in self.limits)
            stretched = (values.astype(np.float32) - low) * (255 / (high - low))
            scaled = np.clip(np.nan_to_num(stretched, nan=0.0) + 0.5, 0, 255).astype(np.uint8)
        if len(scaled) == 1:
            scaled = np.repeat(scaled, 3, axis=0)
        return np.ascontiguousarray(scaled.transpose(1, 2, 0))

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
        self, scaling: Scaling
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
        """Values that become 0 and 255, a band each (C,); None for 8-bit, which stays as it is."""
        dtype, count = self.source.dtype, len(self.bands)
        if dtype == np.uint8:
            return None
        if scaling.kind == "percentile":
            low, high = self._percentiles(scaling)
        elif scaling.kind == "fixed":
            low, high = np.full(count, scaling.low), np.full(count, scaling.high)
        elif dtype.kind in "ui":
            span = np.iinfo(dtype)
            low, high = np.full(count, max(span.min, 0)), np.full(count, span.max)
        else:
            low, high = np.zeros(count), np.ones(count)
        flat = high <= low
        high = np.where(flat, low + 1, high)
        return np.asarray(low, np.float32), np.asarray(high, np.float32)

    def _percentiles(self, scaling: Scaling) -> tuple[Sampled, Sampled]:
        values, valid = self.source.sample(self.bands)
        flat = values.reshape(len(values), -1).astype(np.float32)
        known = np.isfinite(flat).all(axis=0)
        if valid is not None:
            known &= valid.reshape(-1)
        if not known.any():
            return np.zeros(len(flat)), np.ones(len(flat))
        low, high = np.percentile(flat[:, known], [scaling.low, scaling.high], axis=1)
        return low, high


def _open(path: Path) -> Any:
    if not path.exists():
        raise DataError(f"{path}: there is no such file; check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes); copy or download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except RasterioError as error:
        raise DataError(
            f"{path}: not an image that can be read (JPEG, PNG, TIFF, JPEG 2000 and what GDAL "
            f"reads): {_reason(error)}"
        ) from error


def _palette(file: Any) -> UInt8Image | None:
    """(256, 3) colours of a file that stores indices into a table."""
    if file.count != 1 or file.colorinterp[0] is not ColorInterp.palette:
        return None
    table = np.zeros((256, 3), np.uint8)
    for index, colour in file.colormap(1).items():
        if 0 <= index < 256:
            table[index] = colour[:3]
    return table


def _decimated(height: int, width: int) -> tuple[int, int]:
    factor = max(1.0, max(height, width) / _SAMPLE_SIDE)
    return max(1, round(height / factor)), max(1, round(width / factor))


def _reason(error: BaseException) -> str:
    """GDAL's own words, which rasterio often hides behind 'Read failed. See previous ...'."""
    cause = error.__cause__ or error
    return " ".join(str(cause).split())
