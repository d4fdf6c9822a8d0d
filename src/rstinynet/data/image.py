"""Reading an image file as the 8-bit RGB that the detector sees."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from rstinynet.errors import DataError

_FILTERING = threading.Lock()
"""Images are read in threads, and changing the warnings' filters is not safe there."""

RgbArray = npt.NDArray[np.uint8]
"""(H, W, 3) red, green, blue."""
Mask = npt.NDArray[np.bool_]
"""(H, W) true where there are data."""

PAD = 114
"""Grey level of pixels outside of the image and of those without data, as in inference."""

TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF files of either byte order."""

PERCENTILES = (1.0, 99.0)
"""Of each band's finite values, where an image is not 8-bit: these become 0 and 255. Weights
record them, and inference scales scenes alike."""


def read_rgb(path: Path | str) -> RgbArray:
    """The image at `path` as (H, W, 3) uint8 RGB.

    Grey images are repeated to three channels. Values of fewer bits than 8 are spread over 0 to
    255; anything of more is stretched band by band between two percentiles of its values. Pixels
    without data (nodata value, mask or alpha; NaN) count for no percentile and become `PAD`. An
    EXIF orientation is not applied, since annotations count the pixels as they are stored.

    Raises:
        DataError: the file is missing, empty, cut short or not an image.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"image not found: {path}; check the path and the images folder") from None
    except OSError as error:
        raise DataError(f"image cannot be read: {path}: {error.strerror}") from error
    if not content:
        raise DataError(f"image is empty (0 bytes): {path}; copy or download it again")
    if _is_cut_short(content):
        raise DataError(
            f"image is cut short: {path} ({len(content)} bytes, its end marker is missing); "
            "copy or download it again"
        )
    if content[:4] in TIFF_HEADS:
        stored = _tiff_bands(path)
        if stored is not None:
            return to_rgb8(*stored)
    try:
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        decoded = None
    if decoded is None:
        raise DataError(
            f"not a readable image: {path} ({len(content)} bytes); "
            "JPEG, PNG and TIFF with 1, 3 or 4 bands can be read"
        )
    return to_rgb8(*_rgb_order(np.asarray(decoded)))


def _tiff_bands(path: Path) -> tuple[npt.NDArray[np.generic], Mask | None] | None:
    """A TIFF's red, green and blue (H, W, 3) or its one band (H, W), by `colour_bands`, or its
    palette's; and where these have data, as `with_data` gives it.

    OpenCV would give one band of what is not tagged as RGB, and warn of each georeference. None
    for what GDAL cannot read.
    """
    try:
        with _FILTERING, warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as raster:
                table = palette(raster)
                wanted = colour_bands(raster)
                bands = raster.read(list(wanted))
                valid = with_data(raster, wanted)
                bits = [depths(raster)[band - 1] for band in wanted]
    except (RasterioError, UnicodeError):  # of names too, which GDAL opens in UTF-8 only
        return None
    if table is not None:
        return np.asarray(table[bands[0]]), valid
    if bands.dtype == np.uint8 and min(bits) < 8:
        bands = spread(bands, bits)
    return np.asarray(np.moveaxis(bands, 0, 2) if len(bands) == 3 else bands[0]), valid


def colour_bands(raster: Any) -> tuple[int, ...]:
    """Bands of an open rasterio file, from 1, that training and inference see: three or one.

    Red, green and blue where the file names them, else the first three that are no alpha, else
    the first. A palette's indices are one band.
    """
    kinds = list(raster.colorinterp)
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(colour in kinds for colour in colours):
        return tuple(kinds.index(colour) + 1 for colour in colours)
    plain = [band for band, kind in enumerate(kinds, 1) if kind is not ColorInterp.alpha]
    return tuple(plain[:3]) if len(plain) >= 3 else tuple(plain[:1] or [1])


def palette(raster: Any) -> RgbArray | None:
    """(256, 3) colours of an open rasterio file that stores indices into a table; else None."""
    if raster.count != 1 or raster.colorinterp[0] != ColorInterp.palette:
        return None
    table = np.zeros((256, 3), np.uint8)
    for index, colour in raster.colormap(1).items():
        if 0 <= index < 256:
            table[index] = colour[:3]
    return table


def depths(raster: Any) -> tuple[int, ...]:
    """Bits that the values of each band of an open rasterio file use; 0 for other than integers.

    Fewer than the type has where the file says so (GDAL's NBITS): a grey PNG of 1, 2 or 4 bits is
    read as bytes from 0 to 1, 3 or 15. A palette's are indices, and have no such depth.
    """
    found = []
    for band, dtype in enumerate(raster.dtypes, 1):
        whole = int(dtype.rpartition("int")[2]) if dtype.startswith(("int", "uint")) else 0
        said = raster.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", "")
        found.append(min(int(said), whole) if said.isdecimal() and int(said) else whole)
    return tuple(found)


def with_data(
    raster: Any,
    bands: Sequence[int],
    *,
    window: Window | None = None,
    size: tuple[int, int] | None = None,
) -> Mask | None:
    """(h, w) where any of `bands` of an open rasterio file has data; None where all of them have.

    rasterio's `dataset_mask` asks all bands, of which one that is not read may have data where
    these have none, and GDAL knows an alpha band only among two or four.
    """
    flags = {flag for band in bands for flag in raster.mask_flag_enums[band - 1]}
    of_all = MaskFlags.per_dataset in flags
    if ColorInterp.alpha in raster.colorinterp and not of_all:
        alpha = raster.colorinterp.index(ColorInterp.alpha) + 1
        return np.asarray(raster.read(alpha, window=window, out_shape=size) > 0)
    if flags == {MaskFlags.all_valid}:
        return None
    asked = list(bands[:1]) if of_all else list(dict.fromkeys(bands))
    shape = None if size is None else (len(asked), *size)
    return np.asarray(raster.read_masks(asked, window=window, out_shape=shape).any(axis=0))


def spread(bands: npt.NDArray[np.uint8], bits: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Bands (C, H, W), each of values of so many `bits`, spread over 0 to 255."""
    most = np.array([2**each - 1 for each in bits], np.float32)[:, None, None]
    return np.asarray(np.minimum(bands * (255 / most) + 0.5, 255).astype(np.uint8))


def to_rgb8(pixels: npt.NDArray[np.generic], valid: Mask | None = None) -> RgbArray:
    """(H, W), (H, W, 1) or (H, W, 3) of any real dtype, as (H, W, 3) uint8.

    Pixels that are not `valid` (H, W) or not finite have no data: they become `PAD`.
    """
    bands = pixels if pixels.ndim == 3 else pixels[..., None]
    valid = finite(bands, valid)
    shown = bands
    if bands.dtype != np.uint8:
        known = bands.reshape(-1, bands.shape[2]) if valid is None else bands[valid]
        shown = stretched(bands, percentile_limits(known))
    if shown.shape[2] == 1:
        shown = np.repeat(shown, 3, axis=2)
    image = np.ascontiguousarray(shown, dtype=np.uint8)
    if valid is None:
        return image
    return np.where(valid[..., None], image, np.uint8(PAD))


def finite(bands: npt.NDArray[np.generic], valid: Mask | None) -> Mask | None:
    """Where (H, W, C) pixels have data: where they are `valid` and finite in all bands.

    None where that is everywhere.
    """
    if bands.dtype.kind == "f":
        known = np.asarray(np.isfinite(bands).all(axis=2))
        valid = known if valid is None else valid & known
    return None if valid is None or valid.all() else valid


def percentile_limits(known: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """(2, C) values that become 0 and 255, by the percentiles of (N, C) values that have data."""
    with np.errstate(over="ignore"):
        values = known.astype(np.float32)
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        return np.repeat(np.array([[0], [1]], np.float32), known.shape[1], axis=1)
    low, high = np.asarray(np.percentile(values, PERCENTILES, 0), np.float32)
    return np.stack([low, np.where(high <= low, low + 1, high)])


def stretched(
    bands: npt.NDArray[np.generic], limits: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """(..., C) values, those between the `limits` (2, C) spread over 0 to 255."""
    low, high = limits
    # What has no data may be the least number that the type holds.
    with np.errstate(over="ignore"):
        scaled = (bands.astype(np.float32) - low) * (255 / (high - low))
    return np.asarray(np.clip(np.nan_to_num(scaled, nan=0.0) + 0.5, 0, 255).astype(np.uint8))


def _rgb_order(
    decoded: npt.NDArray[np.generic],
) -> tuple[npt.NDArray[np.generic], Mask | None]:
    """OpenCV's blue, green, red as red, green, blue; and where its alpha, if any, is not 0.

    A second grey band is alpha.
    """
    if decoded.ndim == 2:
        return decoded, None
    valid = np.asarray(decoded[..., -1] != 0) if decoded.shape[2] in (2, 4) else None
    return decoded[..., :1] if decoded.shape[2] < 3 else decoded[..., 2::-1], valid


def _is_cut_short(content: bytes) -> bool:
    """Whether the end marker is missing, which decoders answer with a half-grey image."""
    if content.startswith(b"\xff\xd8"):
        # Within the coded data 0xFF is followed by 0x00, so the last marker found is a real one.
        return content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda") or b"\xff\xd9" not in content
    if content.startswith(b"\x89PNG"):
        return b"IEND" not in content[-4096:]
    return False
