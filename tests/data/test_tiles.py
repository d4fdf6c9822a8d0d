"""Scenes cut into tiles: every pixel in its place, no object silently gone."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from typer.testing import CliRunner

from rstinynet.cli.data import data as cli
from rstinynet.data.annotations import Category, LabelledSet
from rstinynet.data.convert import write_as
from rstinynet.data.folder import open_split
from rstinynet.data.formats.common import image_size, labelled_image
from rstinynet.data.image import PAD, read_rgb
from rstinynet.data.overlap import footprint
from rstinynet.data.tiles import TileSettings, cut, starts
from rstinynet.errors import DataError, UsageError
from rstinynet.model.weights import Scaling
from rstinynet.scenes.reader import Scene
from rstinynet.scenes.windows import Window

HERE = Affine(0.5, 0, 300000, 0, -0.5, 4000000)


def make_set(folder, pixels, boxes, *, nodata=None, **profile):
    bands, height, width = pixels.shape
    path = folder / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=bands,
        dtype=pixels.dtype, alpha="NO", crs=CRS.from_epsg(32632), transform=HERE, nodata=nodata,
        **profile,
    ) as raster:  # fmt: skip
        raster.write(pixels)
    rows = [(0, box, False) for box in boxes]
    image = labelled_image(path, 1, (width, height), rows, classes=1, where=path)
    return LabelledSet(images=(image,), categories=(Category(1, "car"),), fingerprint="")


@given(st.integers(1, 3000), st.integers(32, 900), st.data())
def test_tiles_cover_a_side(length, tile, data):
    overlap = data.draw(st.integers(0, tile - 1).filter(lambda each: tile - each > 8))
    found = starts(length, tile, overlap)
    assert found[0] == 0
    assert max(found) + min(tile, length) == length
    steps = np.diff(found)
    assert ((steps > 0) & (steps <= tile - overlap)).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_tiles_of_few_bits_are_as_bright_as_the_scene(tmp_path, bits):
    pixels = np.random.default_rng(2).integers(0, 2**bits, (1, 80, 80), np.uint8)
    labelled = make_set(tmp_path, pixels, [(10, 10, 20, 20)], nbits=bits)
    (tile,) = cut(labelled, tmp_path / "tiles", settings=TileSettings(tile=80, overlap=0)).images
    np.testing.assert_array_equal(read_rgb(tile.path), read_rgb(labelled.images[0].path))
    assert read_rgb(tile.path).max() == 255


def test_every_tile_is_its_window_at_its_place(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 255, (4, 100, 130), np.uint8)
    labelled = make_set(tmp_path, pixels, [(50, 60, 58, 66), (90, 20, 110, 40)])
    tiles = cut(labelled, tmp_path / "tiles", settings=TileSettings(tile=64, overlap=16))
    assert len(tiles) == 6
    for tile in tiles.images:
        left, top = map(int, tile.path.stem.removeprefix("scene__").split("_"))
        window = np.moveaxis(pixels[:3, top : top + 64, left : left + 64], 0, 2)
        np.testing.assert_array_equal(read_rgb(tile.path), window)
        with rasterio.open(tile.path) as raster:
            assert raster.transform.c == HERE.c + 0.5 * left
            assert raster.transform.f == HERE.f - 0.5 * top
            assert raster.crs == CRS.from_epsg(32632)
        for box, area in zip(tile.boxes, tile.areas, strict=True):
            across, down = box[2:] - box[:2]
            assert area == pytest.approx(across * down)


def test_tiles_have_the_bands_that_the_scene_calls_red_green_and_blue(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 255, (4, 64, 64), np.uint8)
    labelled = make_set(tmp_path, pixels, [(5, 6, 15, 16)])
    with rasterio.open(tmp_path / "scene.tif", "r+") as raster:
        colours = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined)
        raster.colorinterp = colours
    (tile,) = cut(labelled, tmp_path / "tiles", settings=TileSettings(tile=64, overlap=0)).images
    np.testing.assert_array_equal(read_rgb(tile.path), np.moveaxis(pixels[2::-1], 0, 2))
    np.testing.assert_array_equal(read_rgb(tile.path), read_rgb(tmp_path / "scene.tif"))


def test_cut_boxes_are_shortened_or_ignored(tmp_path):
    pixels = np.ones((3, 64, 120), np.uint8)
    # Tiles at 0 and 56: one box has 8 of its 20 columns in the first, one 2 of 20.
    labelled = make_set(tmp_path, pixels, [(56, 10, 76, 20), (62, 30, 82, 40)])
    first, second = cut(
        labelled, tmp_path / "tiles", settings=TileSettings(tile=64, overlap=0)
    ).images
    np.testing.assert_array_equal(first.boxes, [[56, 10, 64, 20], [62, 30, 64, 40]])
    np.testing.assert_array_equal(first.crowd, [False, True])
    np.testing.assert_allclose(first.areas, [80, 20], rtol=1e-6)
    np.testing.assert_array_equal(second.boxes, [[0, 10, 20, 20], [6, 30, 26, 40]])
    assert not second.crowd.any()


def test_sixteen_bits_are_stretched_by_the_whole_scene(tmp_path):
    pixels = np.tile(np.linspace(100, 4000, 128).astype(np.uint16), (1, 64, 1))
    labelled = make_set(tmp_path, pixels, [(1, 1, 5, 5)])
    dark, bright = cut(
        labelled, tmp_path / "tiles", settings=TileSettings(tile=64, overlap=0)
    ).images
    assert read_rgb(dark.path).max() < 140
    assert read_rgb(bright.path).min() > 115


def test_nodata_and_empty_tiles(tmp_path):
    pixels = np.full((3, 64, 64 * 6), 9, np.uint8)
    pixels[..., :64] = 0
    labelled = make_set(tmp_path, pixels, [(70, 5, 80, 15)], nodata=0)
    settings = TileSettings(tile=64, overlap=0, empty_share=0.5)
    names = [tile.path.name for tile in cut(labelled, tmp_path / "tiles", settings=settings).images]
    assert names == ["scene__64_0.tif", "scene__128_0.tif", "scene__256_0.tif"]
    assert sorted(path.name for path in (tmp_path / "tiles").iterdir()) == sorted(names)


@pytest.mark.parametrize("kind", ["16 bits", "8 bits", "NaN", "palette"])
def test_pixels_without_data_look_as_in_prediction_and_stay_marked(tmp_path, kind):
    rng = np.random.default_rng(4)
    pixels = rng.integers(100, 250, (3, 64, 192)).astype(np.uint16)
    nodata, options = 0, {}
    if kind == "8 bits":
        pixels = pixels.astype(np.uint8)
    elif kind == "NaN":
        pixels, nodata = pixels.astype(np.float32), None
    elif kind == "palette":
        pixels, options = pixels[:1].astype(np.uint8), {"photometric": "PALETTE"}
    pixels[..., 40:128] = np.nan if nodata is None else nodata
    labelled = make_set(tmp_path, pixels, [(5, 5, 15, 15)], nodata=nodata, **options)
    if kind == "palette":
        with rasterio.open(tmp_path / "scene.tif", "r+") as raster:
            raster.write_colormap(1, {at: (at, 9, 255 - at, 255) for at in range(256)})
    tiles = cut(labelled, tmp_path / "tiles", settings=TileSettings(tile=64, overlap=0)).images
    assert [tile.path.name for tile in tiles] == ["scene__0_0.tif", "scene__128_0.tif"]
    with Scene(tmp_path / "scene.tif", scaling=Scaling()) as scene:
        for tile, left in zip(tiles, (0, 128), strict=True):
            expected = scene.read(Window(left, 0, 64, 64, (0, 0, 0, 0))).image
            np.testing.assert_array_equal(read_rgb(tile.path), expected)
    half, full = (tile.path for tile in tiles)
    assert (read_rgb(half)[:, 40:] == PAD).all()
    assert not (read_rgb(half)[:, :40] == PAD).all(axis=2).all(axis=0).any()
    with rasterio.open(half) as tile:
        np.testing.assert_array_equal(tile.dataset_mask()[5] > 0, np.arange(64) < 40)
        assert (tile.read()[:, :, 40:] == PAD).all()
    with rasterio.open(full) as tile:
        assert tile.mask_flag_enums[0] == [MaskFlags.all_valid]
    assert {path.name for path in (tmp_path / "tiles").iterdir()} == {half.name, full.name}


@pytest.mark.parametrize("fourth", ["near infrared", "near infrared and alpha"])
def test_data_are_missing_where_the_bands_read_have_none(tmp_path, fourth):
    pixels = np.random.default_rng(4).integers(100, 900, (5, 64, 128)).astype(np.uint16)
    if fourth == "near infrared":
        pixels = pixels[:4]
        pixels[:3, :, 64:] = 0
        nodata = 0
    else:
        pixels[4] = 65535
        pixels[4, :, 64:] = 0
        nodata = None
    labelled = make_set(tmp_path, pixels, [(5, 5, 15, 15)], nodata=nodata, photometric="RGB")
    if nodata is None:
        with rasterio.open(tmp_path / "scene.tif", "r+") as raster:
            kinds = list(raster.colorinterp)
            raster.colorinterp = [*kinds[:4], ColorInterp.alpha]
    settings = TileSettings(tile=64, overlap=0, empty_share=1.0)
    tiles = cut(labelled, tmp_path / "tiles", settings=settings)
    assert [tile.path.name for tile in tiles.images] == ["scene__0_0.tif"]


def test_an_interrupted_cut_goes_on(tmp_path):
    labelled = make_set(tmp_path, np.ones((3, 64, 128), np.uint8), [(1, 1, 9, 9)])
    settings = TileSettings(tile=64, overlap=0)
    first, second = cut(labelled, tmp_path / "tiles", settings=settings).images
    before = first.path.stat().st_mtime_ns
    second.path.unlink()
    cut(labelled, tmp_path / "tiles", settings=settings)
    assert first.path.stat().st_mtime_ns == before
    assert second.path.is_file()
    second.path.write_bytes(b"cut short")
    cut(labelled, tmp_path / "tiles", settings=settings)
    assert read_rgb(second.path).shape == (64, 64, 3)
    with pytest.raises(DataError, match="is there with 64 x 64"):
        cut(labelled, tmp_path / "tiles", settings=TileSettings(tile=48, overlap=0))


def test_tiles_of_a_scene_that_was_replaced_are_cut_anew(tmp_path):
    settings = TileSettings(tile=64, overlap=0)
    pixels = np.full((3, 64, 64), 9, np.uint8)
    pixels[:, :, 40:] = 0
    labelled = make_set(tmp_path, pixels, [(1, 1, 9, 9)], nodata=0)
    (tile,) = cut(labelled, tmp_path / "tiles", settings=settings).images
    before = tile.path.stat().st_mtime_ns
    cut(labelled, tmp_path / "tiles", settings=settings)
    assert tile.path.stat().st_mtime_ns == before
    for other, nodata in ((pixels + 1, 1), (pixels + 1, 10), (pixels, None)):
        labelled = make_set(tmp_path, other, [(1, 1, 9, 9)], nodata=nodata)
        cut(labelled, tmp_path / "tiles", settings=settings)
        np.testing.assert_array_equal(read_rgb(tile.path), read_rgb(labelled.images[0].path))


def test_bad_settings_are_refused():
    for wrong in ({"tile": 8}, {"overlap": 900}, {"min_visibility": 1.5}, {"empty_share": -1}):
        with pytest.raises(UsageError, match="not"):
            TileSettings(**wrong)


def test_the_verb_makes_a_set_that_opens(tmp_path):
    labelled = make_set(tmp_path, np.ones((3, 100, 130), np.uint8), [(50, 60, 58, 66)])
    write_as(labelled, tmp_path / "scenes", kind="gpkg", split="train")
    arguments = ["tile", str(tmp_path / "scenes"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, [*arguments, "--tile", "64", "--overlap", "16", "--json"])
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)["splits"]["train"]
    found = open_split(tmp_path / "out", "train")
    assert len(found) == made["tiles"] == 6
    assert sum(len(image.boxes) for image in found.images) >= made["boxes"] >= 1


def test_a_small_share_of_empty_tiles_is_taken_over_all_scenes(tmp_path):
    images = []
    for number in range(1, 11):
        # Two tiles: one has the object, the other is empty; that of the third is nodata.
        pixels = np.full((1, 64, 128), 0 if number == 3 else 90, np.uint8)
        pixels[:, :, :64] = 90
        folder = tmp_path / f"{number}"
        folder.mkdir()
        (image,) = make_set(folder, pixels, [(5, 5, 20, 20)], nodata=0).images
        moved = image.path.rename(image.path.with_name(f"scene{number}.tif"))
        images.append(replace(image, id=number, path=moved))
    labelled = LabelledSet(images=tuple(images), categories=(Category(1, "car"),), fingerprint="")
    for share, empty in ((0.1, 1), (0.2, 2), (0.3, 3), (0.7, 6), (1.0, 9), (0.0, 0)):
        settings = TileSettings(tile=64, overlap=0, empty_share=share)
        tiles = cut(labelled, tmp_path / f"tiles{share}", settings=settings)
        assert sum(not len(tile.boxes) for tile in tiles.images) == empty
    # That of nodata does not use up what is due.
    kept = {tile.path.name for tile in cut(labelled, tmp_path / "t", settings=TileSettings(
        tile=64, overlap=0, empty_share=1 / 3)).images if not len(tile.boxes)}  # fmt: skip
    assert kept == {"scene4__64_0.tif", "scene6__64_0.tif", "scene9__64_0.tif"}


def test_colours_by_palette_stay_colours(tmp_path):
    path = tmp_path / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=1, dtype="uint8",
        crs=CRS.from_epsg(32632), transform=HERE,
    ) as raster:  # fmt: skip
        raster.write(np.tile(np.arange(64, dtype=np.uint8) % 2, (1, 64, 1)))
        raster.write_colormap(1, {0: (10, 200, 30), 1: (250, 20, 20)})
    image = labelled_image(path, 1, (64, 64), [(0, (1, 1, 9, 9), False)], classes=1, where=path)
    labelled = LabelledSet(images=(image,), categories=(Category(1, "car"),), fingerprint="")
    (tile,) = cut(labelled, tmp_path / "tiles", settings=TileSettings(tile=64, overlap=0)).images
    np.testing.assert_array_equal(read_rgb(tile.path), read_rgb(path))
    assert read_rgb(tile.path)[0, :2].tolist() == [[10, 200, 30], [250, 20, 20]]


def test_labels_of_another_size_are_refused(tmp_path):
    labelled = make_set(tmp_path, np.zeros((1, 64, 80), np.uint8), [(5, 5, 20, 20)])
    wrong = replace(labelled, images=(replace(labelled.images[0], width=40, height=32),))
    with pytest.raises(DataError, match="is 80 x 64 pixels, but its labels say 40 x 32"):
        cut(wrong, tmp_path / "tiles")


def test_scenes_whose_names_gdal_cannot_open_are_named(tmp_path):
    labelled = make_set(tmp_path, np.zeros((1, 64, 80), np.uint8), [(5, 5, 20, 20)])
    path = labelled.images[0].path
    moved = path.rename(tmp_path / os.fsdecode(b"caf\xe9.tif"))
    other = replace(labelled, images=(replace(labelled.images[0], path=moved),))
    with pytest.raises(DataError, match="in UTF-8 only"):
        cut(other, tmp_path / "tiles")
    with pytest.raises(DataError, match="in UTF-8 only"):
        image_size(moved)
    assert footprint(moved) is None
