"""What can be read as RGB, and what is said about files that cannot."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from rstinynet.data.image import PAD, read_rgb
from rstinynet.errors import DataError
from rstinynet.scenes.reader import Scene
from rstinynet.scenes.windows import whole


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (23, 31, 3), dtype=np.uint8)


def write(path, array):
    assert cv2.imwrite(str(path), array)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colour_is_rgb(tmp_path, pixels, suffix):
    path = write(tmp_path / f"a{suffix}", pixels[..., ::-1])
    np.testing.assert_array_equal(read_rgb(path), pixels)


def test_jpeg_is_near(tmp_path):
    flat = np.full((32, 32, 3), (200, 30, 60), np.uint8)
    image = read_rgb(write(tmp_path / "a.jpg", flat[..., ::-1]))
    assert np.abs(image.astype(int) - flat).max() <= 4


def test_grey_is_repeated_and_alpha_dropped(tmp_path, pixels):
    grey = read_rgb(write(tmp_path / "grey.png", pixels[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(pixels[..., :1], 3, axis=2))
    alpha = np.dstack([pixels[..., ::-1], np.maximum(pixels[..., 0], 1)])
    np.testing.assert_array_equal(read_rgb(write(tmp_path / "alpha.png", alpha)), pixels)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_depths_are_stretched_between_percentiles(tmp_path, dtype):
    ramp = np.linspace(100, 900, 64 * 64).reshape(64, 64).astype(dtype)
    ramp[0, 0] = 60000
    image = read_rgb(write(tmp_path / "a.tif", ramp))
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert (image[0, 0] == 255).all()
    assert image.min() == 0
    assert (np.diff(image[1:, :, 0].ravel().astype(int)) >= 0).all()
    assert abs(float(image.mean()) - 127.5) < 2


def test_constant_images_are_black_and_those_of_nan_are_padding(tmp_path):
    flat = np.full((8, 8), np.nan, np.float32)
    assert (read_rgb(write(tmp_path / "nan.tif", flat)) == PAD).all()
    assert (read_rgb(write(tmp_path / "flat.tif", np.full((8, 8), 700, np.uint16))) == 0).all()


def test_missing_empty_and_foreign_files(tmp_path):
    with pytest.raises(DataError, match=r"not found: .*none\.png"):
        read_rgb(tmp_path / "none.png")
    (tmp_path / "zero.png").touch()
    with pytest.raises(DataError, match=r"empty \(0 bytes\)"):
        read_rgb(tmp_path / "zero.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="not a readable image"):
        read_rgb(tmp_path / "text.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_rgb(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_an_error_not_a_half_grey_image(tmp_path, suffix, share, pixels):
    path = write(tmp_path / f"a{suffix}", np.tile(pixels, (5, 5, 1)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=f"a{suffix}"):
        read_rgb(path)


def test_the_first_three_of_many_bands_are_the_colours(tmp_path):
    bands = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    path = tmp_path / "rgbn.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=6, height=5, count=4, dtype="uint8",
        photometric="MINISBLACK", crs="EPSG:32632", transform=Affine(1, 0, 5, 0, -1, 5),
    ) as raster:  # fmt: skip
        raster.write(bands)
    np.testing.assert_array_equal(read_rgb(path), np.moveaxis(bands[:3], 0, 2))


def raster(path, bands, *, mask=None, kinds=(), colours=None, **profile):
    """Writes (C, h, w) values as a GeoTIFF."""
    count, height, width = bands.shape
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", width=width, height=height, count=count, dtype=bands.dtype,
            crs="EPSG:32632", transform=Affine(1, 0, 5, 0, -1, 5), **profile,
        ) as file,
    ):  # fmt: skip
        if kinds:
            file.colorinterp = [ColorInterp[kind] for kind in kinds]
        file.write(bands)
        if mask is not None:
            file.write_mask(mask)
        if colours is not None:
            file.write_colormap(1, colours)
    return path


MISSING = np.zeros((40, 40), bool)
MISSING[:, :15] = True


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        *product((np.uint8, np.uint16, np.int16, np.float32), ("nodata", "mask", "alpha")),
        (np.float32, "nan"),
        (np.float32, "least"),
        (np.float64, "least"),
    ],
)
def test_training_and_prediction_agree_on_pixels_without_data(tmp_path, dtype, count, said):
    rng = np.random.default_rng(5)
    high = 250 if dtype == np.uint8 else 4000
    bands = rng.integers(100, high, (count, 40, 40)).astype(dtype)
    options = {"photometric": "MINISBLACK"}
    if said == "nodata":
        bands[:, MISSING] = options["nodata"] = 0 if np.dtype(dtype).kind == "u" else -999
    elif said == "least":
        bands[:, MISSING] = options["nodata"] = float(np.finfo(dtype).min)
    elif said == "mask":
        bands[:, MISSING] = 7
        options["mask"] = ~MISSING
    elif said == "alpha":
        bands[:, MISSING] = 9
        bands = np.concatenate([bands, np.where(MISSING, 0, high)[None].astype(dtype)])
        options["kinds"] = ["gray", *["undefined"] * (count - 1), "alpha"]
    else:
        bands[0, MISSING] = np.nan
    path = raster(tmp_path / "a.tif", bands, **options)
    image = read_rgb(path)
    with Scene(path) as scene:
        tile = scene.read(whole(40, 40))
    np.testing.assert_array_equal(tile.valid, ~MISSING)
    np.testing.assert_array_equal(image, tile.image)
    assert (image[MISSING] == PAD).all()
    # What is there is spread as if it were all.
    alone = read_rgb(raster(tmp_path / "b.tif", bands[:count, :, 15:], photometric="MINISBLACK"))
    np.testing.assert_array_equal(image[:, 15:], alone)


def test_files_without_any_data_are_padding(tmp_path):
    path = raster(tmp_path / "a.tif", np.zeros((3, 9, 9), np.uint16), nodata=0)
    assert (read_rgb(path) == PAD).all()
    colours = {0: (10, 20, 30, 255), 1: (200, 100, 50, 255)}
    indices = np.array([[[0, 1]]], np.uint8)
    path = raster(tmp_path / "p.tif", indices, colours=colours, nodata=0, photometric="PALETTE")
    assert read_rgb(path)[0].tolist() == [[PAD] * 3, [200, 100, 50]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 1])
def test_transparent_pixels_of_a_png_are_padding(tmp_path, dtype, channels):
    high = np.iinfo(dtype).max
    colours = np.random.default_rng(5).integers(0, high, (40, 40, channels), dtype)
    solid = write(tmp_path / "solid.png", np.ascontiguousarray(colours[:, 15:]))
    alpha = np.where(MISSING, 0, high).astype(dtype)
    path = write(tmp_path / "a.png", np.dstack([*[colours] * (3 // channels), alpha]))
    image = read_rgb(path)
    assert (image[MISSING] == PAD).all()
    np.testing.assert_array_equal(image[:, 15:], read_rgb(solid))
    with Scene(path) as scene:
        np.testing.assert_array_equal(scene.read(whole(40, 40)).image, image)


@pytest.mark.parametrize("kinds", ["BGRN", "NRGB", "ARGB", "ANNN", "GA", "NNA"])
def test_training_reads_the_bands_that_prediction_reads(tmp_path, kinds):
    named = {"R": "red", "G": "green", "B": "blue", "A": "alpha", "N": "undefined"}
    bands = np.random.default_rng(1).integers(1, 256, (len(kinds), 9, 7), np.uint8)
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=7, height=9, count=len(kinds), dtype="uint8",
        photometric="MINISBLACK", crs="EPSG:32632", transform=Affine(1, 0, 5, 0, -1, 5),
    ) as raster:  # fmt: skip
        raster.colorinterp = [ColorInterp[named[kind]] for kind in kinds]
        raster.write(bands)
    wanted = {"BGRN": (2, 1, 0), "NRGB": (1, 2, 3), "ARGB": (1, 2, 3), "ANNN": (1, 2, 3)}
    expected = np.moveaxis(bands[list(wanted.get(kinds, (0, 0, 0)))], 0, 2)
    np.testing.assert_array_equal(read_rgb(path), expected)
    with Scene(path) as scene:
        np.testing.assert_array_equal(scene.read(whole(7, 9)).image, expected)


def test_a_palette_gives_its_colours(tmp_path):
    path = tmp_path / "palette.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=2, height=1, count=1, dtype="uint8",
        photometric="PALETTE", crs="EPSG:32632", transform=Affine(1, 0, 5, 0, -1, 5),
    ) as raster:  # fmt: skip
        raster.write(np.array([[[0, 1]]], np.uint8))
        raster.write_colormap(1, {0: (10, 20, 30, 255), 1: (200, 100, 50, 255)})
    np.testing.assert_array_equal(read_rgb(path), [[[10, 20, 30], [200, 100, 50]]])
