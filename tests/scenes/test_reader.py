"""Reading: types, bands, scaling, masks, palettes and files that are no use."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC

from rstinynet.data.image import PERCENTILES, read_rgb
from rstinynet.errors import DataError, UsageError
from rstinynet.model.weights import Scaling
from rstinynet.scenes import sources
from rstinynet.scenes.reader import FILL, Scene
from rstinynet.scenes.windows import Window, whole

Writer = Callable[..., Path]


def pixels(source: Path | np.ndarray, **options: object) -> np.ndarray:
    with Scene(source, **options) as scene:  # type: ignore[arg-type]
        return scene.read(whole(scene.width, scene.height)).image


def gradient(dtype: type, low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 64 * 64).reshape(64, 64, 1).astype(dtype)


def test_eight_bit_rgb_is_left_as_it_is(write_tiff: Writer, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(write_tiff(tmp_path / "a.tif", array)), array)
    np.testing.assert_array_equal(pixels(array), array)
    cv2.imwrite(str(tmp_path / "a.png"), array[..., ::-1])
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), array)


def test_a_window_is_the_part_of_the_whole(write_tiff: Writer, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 4000, (90, 70, 1), dtype=np.uint16)
    path = write_tiff(tmp_path / "a.tif", array)
    with Scene(path) as scene:
        part = scene.read(Window(10, 20, 32, 48, (0, 0, 1, 1)))
    assert part.valid is None
    np.testing.assert_array_equal(part.image, pixels(path)[20:68, 10:42])


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.uint32, np.float64])
def test_percentiles_stretch_one_band_to_three_equal_channels(
    write_tiff: Writer, tmp_path: Path, dtype: type
) -> None:
    array = gradient(dtype, 200, 2200)
    image = pixels(write_tiff(tmp_path / "a.tif", array), scaling=Scaling(low=1, high=99))
    assert image.dtype == np.uint8
    assert image.shape == (64, 64, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])
    low, high = np.percentile(array, [1, 99])
    expected = np.clip((array[..., 0].astype(float) - low) / (high - low) * 255, 0, 255)
    assert np.abs(image[..., 0] - expected).max() <= 0.51


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_training_and_inference_see_the_same_pixels(tmp_path: Path, dtype: type) -> None:
    rng = np.random.default_rng(3)
    array = (rng.gamma(2, 300, (64, 64, 3)) * (1, 2, 5) + (50, 400, 0)).astype(dtype)
    if dtype is np.float32:
        array[3, 4, 1] = np.nan
    path = tmp_path / "a.tif"
    assert cv2.imwrite(str(path), array[..., ::-1])
    same = np.isfinite(array).all(axis=2)  # pixels without data are filled in scenes
    np.testing.assert_array_equal(pixels(path)[same], read_rgb(path)[same])
    assert (Scaling().low, Scaling().high) == PERCENTILES


def write_bits(
    path: Path, bits: int, *, count: int = 1, colours: np.ndarray | None = None
) -> np.ndarray:
    """Writes a file of values of so many bits, and gives them (H, W, count)."""
    dtype = "uint8" if bits <= 8 else "uint16"
    values = np.random.default_rng(bits).integers(0, 2**bits, (40, 50, count)).astype(dtype)
    kind = "PNG" if path.suffix == ".png" else "GTiff"
    size = {"width": 50, "height": 40, "count": count, "dtype": dtype, "nbits": bits}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver=kind, **size) as file:
            file.write(values.transpose(2, 0, 1))
            if colours is not None:
                file.write_colormap(1, {i: (*each, 255) for i, each in enumerate(colours.tolist())})
    return values


@pytest.mark.parametrize(
    ("name", "bits", "count"),
    [(n, b, 1) for n in ("a.png", "a.tif") for b in (1, 2, 4)] + [("a.tif", 4, 3), ("a.tif", 7, 1)],
)
def test_values_of_few_bits_become_all_of_black_to_white(
    tmp_path: Path, name: str, bits: int, count: int
) -> None:
    values = write_bits(tmp_path / name, bits, count=count)
    expected = np.broadcast_to(np.rint(values * (255 / (2**bits - 1))), (40, 50, 3))
    with Scene(tmp_path / name) as scene:
        tiles = [scene.read(Window(x, 0, 25, 40, (0, 0, 0, 0))).image for x in (0, 25)]
        small = scene.overview(25, 20)
    for image in (
        pixels(tmp_path / name),
        np.concatenate(tiles, axis=1),
        read_rgb(tmp_path / name),
    ):
        np.testing.assert_array_equal(image, expected)
    assert small.max() == 255
    # What is said of the values as they are stored still holds.
    fixed = pixels(
        tmp_path / name, scaling=Scaling(kind="fixed", low=0, high=1), stretch_bytes=True
    )
    np.testing.assert_array_equal(fixed, np.where(expected > 0, 255, 0))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_of_few_colours_is_not_spread(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "a.tif"
    colours = np.array([(10 * i, 40, 200 - i) for i in range(2**bits)], np.uint8)
    values = write_bits(path, bits, colours=colours)
    np.testing.assert_array_equal(pixels(path), colours[values[..., 0]])
    np.testing.assert_array_equal(read_rgb(path), colours[values[..., 0]])


def test_the_range_of_a_type_is_that_of_the_bits_used(tmp_path: Path) -> None:
    values = write_bits(tmp_path / "a.tif", 12)
    image = pixels(tmp_path / "a.tif", scaling=Scaling(kind="dtype"))
    np.testing.assert_array_equal(image[..., 0], np.rint(values[..., 0] * (255 / 4095)))


def test_complex_integers_are_refused(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "width": 8, "height": 8, "count": 1, "dtype": "complex_int16"}
    place = {"crs": "EPSG:32611", "transform": Affine(0.5, 0, 664000, 0, -0.5, 4e6)}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, **place):
        pass
    with pytest.raises(DataError, match="pixels of type complex64 are not supported"):
        Scene(tmp_path / "a.tif")


def test_fixed_and_dtype_scaling() -> None:
    array = np.array([[0, 1000], [2000, 65535]], np.uint16)
    fixed = pixels(array, scaling=Scaling(kind="fixed", low=0, high=2000))
    np.testing.assert_array_equal(fixed[..., 0], [[0, 128], [255, 255]])
    full = pixels(array, scaling=Scaling(kind="dtype"))
    np.testing.assert_array_equal(full[..., 1], [[0, 4], [8, 255]])
    real = pixels(np.array([[0.0, 0.5, 1.0]]), scaling=Scaling(kind="dtype"))
    np.testing.assert_array_equal(real[0, :, 0], [0, 128, 255])


def test_percentiles_of_a_large_striped_scene_come_from_blocks_spread_over_it(
    monkeypatch: pytest.MonkeyPatch, write_tiff: Writer, tmp_path: Path
) -> None:
    monkeypatch.setattr("rstinynet.scenes.raster._WHOLE", 100)
    array = np.random.default_rng(2).normal(1000, 100, (700, 900, 1)).astype(np.uint16)
    with Scene(write_tiff(tmp_path / "a.tif", array)) as scene:
        assert scene.limits is not None
        low, high = (float(limit[0]) for limit in scene.limits)
    assert np.percentile(array, 1) == pytest.approx(low, abs=5)
    assert np.percentile(array, 99) == pytest.approx(high, abs=5)


def test_nodata_is_grey_unused_by_percentiles_and_marked(
    write_tiff: Writer, tmp_path: Path
) -> None:
    array = gradient(np.uint16, 1000, 2000)
    array[:, :40] = 0
    path = write_tiff(tmp_path / "a.tif", array, nodata=0)
    with Scene(path) as scene:
        assert scene.limits is not None
        assert scene.limits[0][0] > 900
        tile = scene.read(whole(64, 64))
    assert tile.valid is not None
    np.testing.assert_array_equal(tile.valid, np.broadcast_to(np.arange(64) >= 40, (64, 64)))
    assert (tile.image[:, :40] == FILL).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_least_number_of_a_type_is_nodata_like_any(
    write_tiff: Writer, tmp_path: Path, dtype: type
) -> None:
    least = float(np.finfo(dtype).min)
    array = gradient(dtype, 0, 1)
    array[:, :8] = least
    with Scene(write_tiff(tmp_path / "a.tif", array, nodata=least)) as scene:
        tile = scene.read(whole(64, 64))
        shown = scene.overview(32, 32)
    assert tile.valid is not None
    assert not tile.valid[:, :8].any()
    assert tile.valid[:, 8:].all()
    assert (tile.image[:, 8:].min(), tile.image[:, 8:].max()) == (0, 255)
    assert not shown[:, :4].any()


@pytest.mark.parametrize("gsd", [None, 0.25, 1.6])
def test_a_masked_array_is_seen_as_its_file(
    write_tiff: Writer, tmp_path: Path, gsd: float | None
) -> None:
    array = np.concatenate([gradient(np.uint16, 1000, 2000)] * 3, axis=2)
    array[:, :40] = array[:9, :, 0] = 0
    path = write_tiff(tmp_path / "a.tif", array, nodata=0)
    with rasterio.open(path) as file:
        masked = np.moveaxis(file.read(masked=True), 0, 2)
    tiles = []
    for source in (path, masked):
        with Scene(source, gsd=gsd, source_gsd=0.5) as scene:
            tiles.append(scene.read(whole(scene.width, scene.height)))
    expected, found = tiles
    assert found.valid is not None
    assert expected.valid is not None
    # Resampled, the place of an edge may round to either side.
    assert (found.valid != expected.valid).mean() < (0.0001 if gsd is None else 0.1)
    known = found.valid & expected.valid
    assert known.sum() > 100
    np.testing.assert_allclose(found.image[known], expected.image[known], atol=3 if gsd else 0)
    assert (found.image[~found.valid] == FILL).all()


def test_nan_is_nodata() -> None:
    array = np.full((8, 8), 5.0, np.float32)
    array[0] = np.nan
    with Scene(array) as scene:
        tile = scene.read(whole(8, 8))
    assert tile.valid is not None
    assert tile.valid.sum() == 56
    with Scene(np.full((8, 8), np.nan)) as scene:
        valid = scene.read(whole(8, 8)).valid
    assert valid is not None
    assert not valid.any()


def test_bands_are_chosen_by_colour_or_by_number(write_tiff: Writer, tmp_path: Path) -> None:
    array = np.zeros((16, 16, 4), np.uint8)
    array[:] = (10, 20, 30, 40)
    path = write_tiff(tmp_path / "a.tif", array)
    assert pixels(path)[0, 0].tolist() == [10, 20, 30]
    assert pixels(path, bands=(4, 2, 1))[0, 0].tolist() == [40, 20, 10]
    assert pixels(path, bands=(4,))[0, 0].tolist() == [40, 40, 40]
    with rasterio.open(path, "r+") as file:
        blue_first = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined)
        file.colorinterp = blue_first
    assert pixels(path)[0, 0].tolist() == [30, 20, 10]
    for wrong in ((5,), (1, 2), (), (0, 1, 2)):
        with pytest.raises(UsageError, match="bands must be"):
            pixels(path, bands=wrong)


def test_bands_of_a_mosaic_may_be_of_different_types(write_tiff: Writer, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(300, 3000, (40, 40, 3), dtype=np.uint16)
    kinds = rng.integers(0, 11, (40, 40, 1), dtype=np.uint8)
    write_tiff(tmp_path / "levels.tif", levels)
    write_tiff(tmp_path / "kinds.tif", kinds)
    bands = [("Byte", "kinds", 1), *(("UInt16", "levels", band) for band in (1, 2, 3))]
    mosaic = tmp_path / "a.vrt"
    mosaic.write_text(
        '<VRTDataset rasterXSize="40" rasterYSize="40">'
        + "".join(
            f'<VRTRasterBand dataType="{dtype}" band="{at}"><SimpleSource><SourceFilename '
            f'relativeToVRT="1">{name}.tif</SourceFilename><SourceBand>{band}</SourceBand>'
            "</SimpleSource></VRTRasterBand>"
            for at, (dtype, name, band) in enumerate(bands, 1)
        )
        + "</VRTDataset>"
    )
    np.testing.assert_array_equal(pixels(mosaic, bands=[2, 3, 4]), pixels(levels))
    np.testing.assert_array_equal(pixels(mosaic, bands=[1])[..., :1], kinds)
    # Of the first three, which no type but the second holds together.
    both = np.concatenate([kinds.astype(np.uint16), levels[..., :2]], axis=2)
    np.testing.assert_array_equal(pixels(mosaic), pixels(both))


def test_alpha_is_a_mask(tmp_path: Path) -> None:
    array = np.full((16, 16, 4), 200, np.uint8)
    array[:8, :, 3] = 0
    cv2.imwrite(str(tmp_path / "a.png"), array)
    with Scene(tmp_path / "a.png") as scene:
        tile = scene.read(whole(16, 16))
    assert tile.valid is not None
    assert tile.valid.sum() == 128


@pytest.mark.parametrize("gsd", [None, 1.0])
def test_a_band_that_is_not_read_makes_no_data(
    write_tiff: Writer, tmp_path: Path, gsd: float | None
) -> None:
    array = np.repeat(gradient(np.uint16, 1000, 2000), 4, axis=2)
    array[:, :32, :3] = 0
    alone = write_tiff(tmp_path / "rgb.tif", array[..., :3], nodata=0)
    more = write_tiff(tmp_path / "rgbn.tif", array, nodata=0)
    with Scene(alone, gsd=gsd) as first, Scene(more, gsd=gsd) as second:
        np.testing.assert_array_equal(second.limits, first.limits)
        tiles = [scene.read(whole(scene.width, scene.height)) for scene in (first, second)]
    for tile in tiles:
        assert tile.valid is not None
        side = len(tile.valid)
        np.testing.assert_array_equal(tile.valid.all(axis=0), np.arange(side) >= side // 2)
    np.testing.assert_array_equal(tiles[0].image, tiles[1].image)


@pytest.mark.parametrize("nodata", [None, 0])
@pytest.mark.parametrize("count", [2, 4, 5, 7])
def test_alpha_is_a_mask_among_any_number_of_bands(
    write_tiff: Writer, tmp_path: Path, count: int, nodata: int | None
) -> None:
    array = np.full((64, 64, count), 200, np.uint8)
    array[20:30, 20:30, :-1] = 0  # black, with data
    array[:, 40:, -1] = 0
    path = write_tiff(tmp_path / "a.tif", array, nodata=nodata)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.undefined] * (count - 1) + [ColorInterp.alpha]
    with Scene(path, bands=(1,)) as scene:
        valid = scene.read(whole(64, 64)).valid
        part = scene.read(Window(0, 0, 40, 64, (0, 0, 1, 1))).valid
    assert valid is not None
    np.testing.assert_array_equal(valid, np.broadcast_to(np.arange(64) < 40, (64, 64)))
    assert part is None


def test_palette_becomes_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 4, "height": 4, "count": 1, "dtype": "uint8"}
    with rasterio.open(
        path, "w", crs="EPSG:32611", transform=rasterio.Affine(1, 0, 9, 0, -1, 9), **profile
    ) as file:
        file.write(np.ones((1, 4, 4), np.uint8))
        file.write_colormap(1, {0: (0, 0, 0, 255), 1: (200, 100, 50, 255)})
    assert pixels(path)[0, 0].tolist() == [200, 100, 50]


def test_files_of_no_use_say_so(write_tiff: Writer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        Scene(tmp_path / "none.tif")
    (tmp_path / "zero.png").touch()
    with pytest.raises(DataError, match="0 bytes"):
        Scene(tmp_path / "zero.png")
    (tmp_path / "text.jpg").write_text("this is not an image")
    with pytest.raises(DataError, match="not an image"):
        Scene(tmp_path / "text.jpg")
    array = np.random.default_rng(0).integers(0, 9999, (300, 300, 1), dtype=np.uint16)
    path = write_tiff(tmp_path / "cut.tif", array, tiled=True)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"truncated or damaged|not an image"):
        pixels(path)
    with pytest.raises(DataError, match="complex"):
        Scene(np.zeros((4, 4), np.complex64))
    with pytest.raises(UsageError, match="must be"):
        Scene(np.zeros(4))


def test_a_truncated_jpeg_is_not_searched_as_if_it_were_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    array = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    cv2.imwrite(str(path), array)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(DataError, match="truncated or damaged"):
        pixels(path)


def test_a_png_without_its_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), noise)
    with Scene(path) as scene:
        assert (scene.width, scene.height) == (120, 90)
    whole = path.read_bytes()
    for share in (0.5, 0.95):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match="cut short"):
            Scene(path)


def test_a_container_names_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "two.gpkg"
    place = {"width": 64, "height": 64, "count": 1, "dtype": "uint8", "crs": "EPSG:32632"}
    place |= {"transform": Affine(1, 0, 3e5, 0, -1, 5e6)}
    for number, more in enumerate(({}, {"APPEND_SUBDATASET": "YES"})):
        with rasterio.open(
            path, "w", driver="GPKG", RASTER_TABLE=f"t{number}", **place, **more
        ) as file:
            file.write(np.ones((1, 64, 64), np.uint8))
    with pytest.raises(DataError, match="has no bands of its own"):
        Scene(path)
    (scene,) = sources.listing([f"GPKG:{path}:t1"]).scenes
    assert sources.names([scene]) == ["two_t1"]
    with Scene(scene) as opened:
        assert (opened.width, opened.height) == (64, 64)
        assert opened.source.crs is not None


def test_a_picture_of_many_pages_says_that_the_first_is_searched(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    for level, more in ((10, {}), (20, {"APPEND_SUBDATASET": "YES"})):
        with (
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            rasterio.open(
                path, "w", driver="GTiff", width=40, height=30, count=1, dtype="uint8", **more
            ) as file,
        ):
            file.write(np.full((1, 30, 40), level, np.uint8))
    with Scene(path) as scene:
        (note,) = scene.source.notes
        assert scene.source.sample([1])[0].max() == 10
    assert note.startswith(f"{path} holds 2 pictures, of which the first is searched")
    name = note.rsplit(" ", 1)[1]
    with Scene(name) as second:
        assert second.source.sample([1])[0].min() == 20
    assert sources.names(sources.listing([name]).scenes) == ["2_pages"]


def test_a_file_with_a_colon_in_its_name_is_a_file(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert cv2.imwrite("AB:c.png", np.zeros((8, 8, 3), np.uint8))
    assert sources.listing(["AB:c.png"]).scenes == [Path("AB:c.png")]
    with Scene("AB:c.png") as scene:
        assert scene.width == 8


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_that_is_located_by_halves_says_what_is_missing(
    write_tiff: Writer, tmp_path: Path
) -> None:
    plain = np.zeros((8, 8, 1), np.uint8)
    assert cv2.imwrite(str(tmp_path / "a.png"), plain)
    (tmp_path / "a.pgw").write_text("10\n0\n0\n-10\n500000\n5000000\n")
    with Scene(tmp_path / "a.png") as scene:
        (note,) = scene.source.notes
        assert scene.source.transform is None
    assert "does not say in which coordinate system" in note
    path = write_tiff(tmp_path / "g.tif", plain, crs=None)
    points = [
        GroundControlPoint(y, x, 7 + x / 10, 50 - y / 10) for x, y in ((0, 0), (8, 0), (0, 8))
    ]
    with rasterio.open(path, "r+") as file:
        file.gcps = points, rasterio.CRS.from_epsg(4326)
    with Scene(path) as scene:
        (note,) = scene.source.notes
    assert "is located by control points only: `gdalwarp`" in note
    path = write_tiff(tmp_path / "r.tif", plain, crs=None)
    share = [0.0, *[1e-3] * 19]
    with rasterio.open(path, "r+") as file:
        file.rpcs = RPC(0, 1, 50, 0.1, share, share, 4, 4, 7, 0.1, share, share, 4, 4)
    with Scene(path) as scene:
        (note,) = scene.source.notes
    assert "is located by an RPC only: `gdalwarp -rpc`" in note
    path = write_tiff(tmp_path / "c.tif", plain, transform=Affine.identity())
    with Scene(path) as scene:
        (note,) = scene.source.notes
        assert scene.source.crs is None
    assert "has a coordinate system but no geotransform" in note
    assert "`gdal_translate -a_ullr" in note
    with Scene(write_tiff(tmp_path / "p.tif", plain, crs=None)) as scene:
        assert scene.source.notes == ()
