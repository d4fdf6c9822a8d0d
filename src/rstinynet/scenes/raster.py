"""Where pixels come from: files through GDAL (rasterio); `rstinynet.scenes.array` has arrays.

GDAL reads JPEG, PNG, GeoTIFF and VRT alike, also over the network and out of archives (`/vsi...`
paths), and holds only the blocks that a window needs.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from pyproj import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window as RasterWindow

from rstinynet.data.image import colour_bands, depths, palette, with_data
from rstinynet.errors import DataError
from rstinynet.scenes import georef
from rstinynet.scenes.windows import Window

CACHE_BYTES = 64 * 2**20
"""What GDAL's block cache holds where that spares no decoding twice."""
STRIPED_CACHE_BYTES = 256 * 2**20
"""Most that it holds of a file in strips, of which a tile needs whole rows."""
_DATASET = re.compile(r"[A-Z][A-Z0-9_]+:.")
"""How names of datasets in a file begin; a Windows drive has one letter."""
_SAMPLE_SIDE = 1024
_WHOLE = 16_000_000

UInt8Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Sampled = npt.NDArray[Any]
Box = tuple[float, float, float, float]


class Source(Protocol):
    """Where pixels come from: a file or an array."""

    name: str
    """As it is told."""
    address: str
    """What opens it again."""
    width: int
    height: int
    count: int
    dtypes: tuple[np.dtype[Any], ...]
    """Of each band: a VRT's may differ."""
    depths: tuple[int, ...]
    """Bits that the values of each band use, if they are integers."""
    crs: CRS | None
    transform: Affine | None
    stated: tuple[str, ...]
    """What a file says of each band: its colour and its value for no data."""
    notes: tuple[str, ...]

    def default_bands(self) -> tuple[int, ...]: ...
    def read(self, window: Window, bands: Sequence[int]) -> tuple[Sampled, Mask | None]: ...
    def sample(self, bands: Sequence[int]) -> tuple[Sampled, Mask | None]: ...
    def overview(self, bands: Sequence[int], width: int, height: int) -> Sampled: ...
    def resampled(
        self, box: Box, size: tuple[int, int], bands: Sequence[int]
    ) -> tuple[Sampled, Mask | None]: ...
    def files(self) -> tuple[str, ...]: ...
    def cache_bytes(self, rows: int) -> int: ...
    def close(self) -> None: ...


class RasterSource:
    """A file that GDAL can read. Each thread that reads has a handle of its own."""

    def __init__(self, path: str | Path) -> None:
        """Open a path, a URL or a GDAL path such as `/vsizip/a.zip/b.tif`.

        Raises DataError where there is none that can be read.
        """
        self.name = without_query(str(path))
        self.address = str(path)
        self._own = threading.local()
        self._lock = threading.Lock()
        self._opened: list[Any] = []
        self._file = file = self._handle()
        if not file.count:
            inner = ", ".join(file.subdatasets[:3]) or "none"
            raise DataError(f"{path}: has no bands of its own; name one that it holds: {inner}")
        self.width, self.height, self.count = file.width, file.height, file.count
        self.crs = None if file.crs is None else CRS.from_wkt(file.crs.to_wkt())
        located = self.crs is not None and file.transform != Affine.identity()
        self.transform: Affine | None = file.transform if located else None
        self.crs = self.crs if located else None
        if located and not georef.spans_a_plane(file.transform):
            raise DataError(
                f"{path}: its geotransform, {tuple(file.transform)[:6]}, puts all pixels on one "
                "line or nowhere; give the right one with `gdal_edit.py -a_ullr`, or take it away "
                "with `gdal_edit.py -unsetgt`"
            )
        self._palette = palette(file)
        if self._palette is not None:
            self.count = 3
        self.depths = depths(file) if self._palette is None else (8, 8, 8)
        # numpy has no complex integers; real or not is all that matters here.
        plain = (name.replace("complex_int16", "complex64") for name in file.dtypes)
        stored: tuple[np.dtype[Any], ...] = tuple(map(np.dtype, plain))
        self._pixel_bytes = sum(kind.itemsize for kind in stored)
        self.dtypes = stored if self._palette is None else (np.dtype(np.uint8),) * 3
        self.stated = tuple(
            f"{kind.name}, nodata {nodata}"
            for kind, nodata in zip(file.colorinterp, file.nodatavals, strict=True)
        )
        self.notes = self._striped() + self._holds_more() + self._half_located()

    def default_bands(self) -> tuple[int, ...]:
        """Those of `colour_bands`; of a palette its colours."""
        return (1, 2, 3) if self._palette is not None else colour_bands(self._file)

    def read(self, window: Window, bands: Sequence[int]) -> tuple[Sampled, Mask | None]:
        """Values (C, h, w) and where they are valid (h, w)."""
        part = RasterWindow(window.x, window.y, window.width, window.height)
        return self._read(bands, window=part)

    def resampled(
        self, box: Box, size: tuple[int, int], bands: Sequence[int]
    ) -> tuple[Sampled, Mask | None]:
        """The part `box` (XYXY, pixels, not whole ones) as (C, h, w), from an overview if it can.

        Averaged where that is coarser, interpolated where it is finer.
        """
        x0, y0, x1, y1 = box
        coarser = size[0] < y1 - y0 or size[1] < x1 - x0
        return self._read(
            bands,
            window=RasterWindow(x0, y0, x1 - x0, y1 - y0),
            size=size,
            resampling=Resampling.average if coarser else Resampling.bilinear,
        )

    def sample(self, bands: Sequence[int]) -> tuple[Sampled, Mask | None]:
        """Values that stand for the scene: decimated, or spread blocks where that is dear.

        Where the blocks together have less data than one of them, decimated all the same.
        """
        if self.width * self.height <= _WHOLE or self._file.overviews(1):
            height, width = decimated(self.height, self.width)
            return self._read(bands, size=(height, width))
        side_y, side_x, rows, columns = min(256, self.height), min(256, self.width), 8, 8
        values, valid = [], []
        for y in np.linspace(0, self.height - side_y, rows).astype(int):
            for x in np.linspace(0, self.width - side_x, columns).astype(int):
                block, known = self._read(bands, window=RasterWindow(x, y, side_x, side_y))
                values.append(block.reshape(len(bands), -1))
                whole = np.ones(side_x * side_y, bool)
                valid.append(whole if known is None else known.reshape(-1))
        every, known = np.concatenate(values, axis=1), np.concatenate(valid)
        if (known & np.isfinite(every).all(axis=0)).sum() < side_x * side_y:
            # Between the blocks, where a little of a large scene has data, there is more.
            return self._read(bands, size=decimated(self.height, self.width))
        return every[:, None], known[None]

    def overview(self, bands: Sequence[int], width: int, height: int) -> Sampled:
        """The whole scene at another size, (C, height, width)."""
        return self._read(bands, size=(height, width))[0]

    def files(self) -> tuple[str, ...]:
        """Every file that pixels come from: a VRT's sources and masks beside the file too."""
        return tuple(self._file.files)

    def cache_bytes(self, rows: int) -> int:
        """Block cache that spares decoding twice, for windows of `rows` rows."""
        if not self._in_strips():
            return CACHE_BYTES
        needed = 2 * rows * self.width * self._pixel_bytes
        return int(max(min(needed, STRIPED_CACHE_BYTES), 16 * 2**20))

    def close(self) -> None:
        for file in self._opened:
            file.close()

    def _handle(self) -> Any:
        """This thread's handle: GDAL's may not be shared."""
        file = getattr(self._own, "file", None)
        if file is None:
            file = self._own.file = _open(self.address)
            with self._lock:
                self._opened.append(file)
        return file

    def _read(
        self,
        bands: Sequence[int],
        *,
        window: RasterWindow | None = None,
        size: tuple[int, int] | None = None,
        resampling: Resampling = Resampling.nearest,
    ) -> tuple[Sampled, Mask | None]:
        wanted = [1] if self._palette is not None else list(bands)
        how = resampling if self._palette is None else Resampling.nearest
        alike = len({self.dtypes[band - 1] for band in wanted}) == 1
        try:
            file = self._handle()
            # rasterio reads bands of different types one by one only.
            parts = [
                file.read(
                    some,
                    window=window,
                    out_shape=None if size is None else (len(some), *size),
                    resampling=how,
                )
                for some in ([wanted] if alike else [[band] for band in wanted])
            ]
            values = parts[0] if alike else np.concatenate(parts)
            mask = with_data(file, wanted, window=window, size=size)
        except (RasterioError, RasterioIOError, MemoryError) as error:
            place = "" if window is None else f" at x {window.col_off:.0f}, y {window.row_off:.0f}"
            raise DataError(
                f"{self.name}: pixels{place} cannot be read ({_reason(error, self.address)}): the "
                "file is truncated or damaged; copy or download it again"
            ) from error
        if self._palette is not None:
            values = self._palette[values[0]].transpose(2, 0, 1)[[band - 1 for band in bands]]
        return values, mask

    def _in_strips(self) -> bool:
        return bool(self._file.block_shapes[0][1] >= self.width > 1024)

    def _striped(self) -> tuple[str, ...]:
        """A note where every tile makes GDAL decode whole rows again and again."""
        row_bytes = 1024 * self.width * self._pixel_bytes
        if self._in_strips() and row_bytes > STRIPED_CACHE_BYTES:
            return (
                f"{self.name} is stored in strips, which makes reading tiles slow; "
                "`gdal_translate -co TILED=YES -co COMPRESS=DEFLATE` makes a tiled copy",
            )
        return ()

    def _half_located(self) -> tuple[str, ...]:
        """A note where the file says something of its place that is not enough."""
        points, _ = self._file.gcps
        if self.crs is None and points:
            return (f"{self.name} is located by control points only: `gdalwarp` gives it a grid",)
        if self.crs is None and self._file.rpcs:
            return (f"{self.name} is located by an RPC only: `gdalwarp -rpc` gives it a grid",)
        if self.crs is None and self._file.transform != Affine.identity():
            return (
                f"{self.name} has a place but does not say in which coordinate system; "
                "`gdal_translate -a_srs EPSG:...` makes a copy that does",
            )
        if self.crs is None and self._file.crs is not None:
            return (
                f"{self.name} has a coordinate system but no geotransform, so no place in it; "
                "`gdal_translate -a_ullr LEFT TOP RIGHT BOTTOM` makes a copy that has one",
            )
        return ()

    def _holds_more(self) -> tuple[str, ...]:
        """A note where the file holds pictures that are not searched, as pages of a TIFF."""
        more = self._file.subdatasets
        # The first page is listed too, and is what is searched.
        if len(more) < 2:
            return ()
        return (
            f"{self.name} holds {len(more)} pictures, of which the first is searched; each can be "
            f"named, as {more[1]}",
        )


def is_dataset_name(text: str) -> bool:
    """Whether GDAL is to read it as a driver and what to open, such as `GPKG:a.gpkg:table`."""
    return _DATASET.match(text) is not None and not os.path.exists(text)


def without_query(path: str) -> str:
    """A URL without what follows its question mark, where signatures are, and no two alike."""
    head, scheme, rest = path.partition("://")
    return head + scheme + rest.split("?", 1)[0] if scheme and "?" not in head else path


def is_remote(path: str) -> bool:
    """Whether only GDAL can say if there is such a path: a URL, or `/vsi...`."""
    return "://" in path or path.startswith("/vsi")


def is_path(text: str) -> bool:
    """Whether it is a path of the file system, and not for GDAL alone to open."""
    return not is_remote(text) and not is_dataset_name(text)


def _open(name: str) -> Any:
    path: str | Path = name
    if is_path(name):
        path = Path(name)
        if not path.exists():
            raise DataError(f"{path}: there is no such file; check the path")
        if path.is_file() and path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty (0 bytes); copy or download it again")
        if path.is_file() and _lacks_its_end(path):
            raise DataError(
                f"{path}: the picture is cut short (its end marker is missing); copy or download "
                "it again"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except UnicodeError as error:
        raise DataError(
            f"{path}: GDAL opens names in UTF-8 only, which this one is not; rename the file"
        ) from error
    except RasterioError as error:
        raise DataError(
            f"{without_query(name)}: not an image that can be read (JPEG, PNG, TIFF, JPEG 2000 and "
            f"what GDAL reads): {_reason(error, name)}"
        ) from error


def _lacks_its_end(path: Path) -> bool:
    """Whether it is a PNG without its end, of which GDAL gives what happens to be in memory."""
    with path.open("rb") as file:
        if not file.read(8).startswith(b"\x89PNG"):
            return False
        file.seek(max(0, path.stat().st_size - 4096))
        return b"IEND" not in file.read()


def decimated(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a sample of a scene of this size."""
    factor = max(1.0, max(height, width) / _SAMPLE_SIDE)
    return max(1, round(height / factor)), max(1, round(width / factor))


def _reason(error: BaseException, path: str) -> str:
    """GDAL's own words, which rasterio often hides behind 'Read failed. See previous ...'."""
    cause = error.__cause__ or error
    return " ".join(str(cause).replace(path, without_query(path)).split())
