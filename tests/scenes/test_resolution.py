"""Scenes read at another resolution, with other scaling, and with holes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling

from rstinynet.errors import DataError, UsageError
from rstinynet.model.weights import Scaling
from rstinynet.scenes import georef
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.features import columns
from rstinynet.scenes.options import PredictOptions, parse_gsd, parse_scaling, parse_sizes
from rstinynet.scenes.reader import FILL, Scene, ground_px
from rstinynet.scenes.stream import predict
from rstinynet.scenes.windows import Window, whole

Writer = Callable[..., Path]
Paint = Callable[..., np.ndarray]
BLOBS = [(24, 36, 48, 60), (120, 84, 144, 108), (204, 180, 240, 204), (276, 36, 300, 72)]
DEGREES = Affine(4.5e-6, 0, 8.0, 0, -4.5e-6, 50.0)
"""About .32 m by .50 m a pixel at 50 degrees north."""


def by_place(boxes: np.ndarray) -> np.ndarray:
    return boxes[np.lexsort(boxes.T)]


@pytest.mark.parametrize("factor", [2.0, 3.0, 0.5])
def test_boxes_of_a_resampled_scene_are_in_pixels_of_the_source(
    detector: Detector, paint: Paint, write_tiff: Writer, tmp_path: Path, factor: float
) -> None:
    path = write_tiff(tmp_path / "a.tif", paint(240, 336, BLOBS), tiled=True)  # 0.5 m a pixel
    with Scene(path) as scene:
        own = ground_px(scene.source)  # 0.5 on the map, a little more on the ground
    assert own == pytest.approx((0.5, 0.5), rel=1e-3)
    result = detector.predict(path, gsd=own[0] * factor, tile=64, overlap=32)
    assert result.size == (336, 240)
    found = by_place(result.boxes.xyxy)
    # A box is as sharp as half a pixel that was read, and none is lost or doubled.
    np.testing.assert_allclose(found, by_place(np.array(BLOBS)), atol=max(0.51 * factor, 0.51))


def test_pixels_of_unequal_sides_become_square(
    detector: Detector, paint: Paint, write_tiff: Writer, tmp_path: Path
) -> None:
    path = write_tiff(
        tmp_path / "a.tif", paint(240, 336, BLOBS), crs="EPSG:4326", transform=DEGREES
    )
    with Scene(path, gsd=1.0) as scene:
        across, down = ground_px(scene.source)
        assert (across, down) == (pytest.approx(0.3226, abs=2e-3), pytest.approx(0.5006, abs=2e-3))
        assert (scene.width, scene.height) == (round(336 * across), round(240 * down))
    result = detector.predict(path, gsd=1.0, tile=64, overlap=32)
    found = by_place(result.boxes.xyxy)
    np.testing.assert_allclose(found[:, ::2], by_place(np.array(BLOBS))[:, ::2], atol=1.6)
    np.testing.assert_allclose(found[:, 1::2], by_place(np.array(BLOBS))[:, 1::2], atol=1.1)


def test_a_window_is_the_part_of_the_whole_at_any_resolution(
    write_tiff: Writer, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    path = write_tiff(tmp_path / "a.tif", image)
    with Scene(path) as scene:
        own = ground_px(scene.source)[0]
    with Scene(path, gsd=own * 2.5) as scene:
        everything = scene.read(whole(scene.width, scene.height)).image
        part = scene.read(Window(32, 20, 64, 48, (0, 0, 1, 1))).image
    assert everything.shape == (96, 128, 3)
    np.testing.assert_allclose(part.astype(int), everything[20:68, 32:96].astype(int), atol=1)


def test_overviews_are_used_where_coarser(write_tiff: Writer, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", np.full((512, 512, 1), 50, np.uint8), tiled=True)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([4], Resampling.nearest)
        file.write(np.full((1, 512, 512), 200, np.uint8))  # now they tell which was read
    with rasterio.open(path) as file:
        assert file.overviews(1) == [4]
    with Scene(path) as scene:
        own = ground_px(scene.source)[0]
        assert scene.read(Window(0, 0, 64, 64, (0, 0, 1, 1))).image.max() == 200
    with Scene(path, gsd=own * 4) as scene:
        assert scene.read(Window(0, 0, 64, 64, (0, 0, 1, 1))).image.max() == 50


def test_the_weights_range_moves_only_what_lies_outside(
    detector: Detector, write_tiff: Writer, tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "a.tif", np.zeros((100, 100, 1), np.uint8))
    options = PredictOptions(gsd="weights")
    with pytest.raises(UsageError, match="do not say"):
        predict(detector, path, options)
    for span, side in (((0.3, 0.8), 100), ((1.0, 2.0), 50), ((0.1, 0.25), 200)):
        detector.metadata = detector.metadata.model_copy(update={"gsd_m": span})
        with Scene(path, gsd=options.used_gsd(detector)) as scene:
            assert scene.width == pytest.approx(side, abs=1)


def test_a_resolution_needs_a_place_on_the_ground(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), np.zeros((50, 50), np.uint8))
    with pytest.raises(UsageError, match=r"no coordinate system.*--scale"):
        detector.predict(path, gsd=1.0)
    with pytest.raises(UsageError, match="gsd must be over 0"):
        detector.predict(path, gsd=-1.0)
    with pytest.raises(UsageError, match="metres a pixel"):
        parse_gsd("fine")


def test_a_resolution_that_enlarges_absurdly_is_refused(
    detector: Detector, write_tiff: Writer, tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "a.tif", np.zeros((100, 100, 1), np.uint8))
    with pytest.raises(UsageError, match=r"a\.tif: has 0\.5.* metres a pixel") as refused:
        detector.predict(path, gsd=0.001)
    words = str(refused.value)
    assert re.search(r"at 0\.001 would enlarge it (499|500|501).* times, and the most is 16", words)
    least = float(words.split("give --gsd ")[1].split()[0])
    with Scene(path, gsd=least) as scene:
        assert 100 * 14 < scene.width <= 100 * 16
    with pytest.raises(UsageError, match="would enlarge it"):
        Scene(path, gsd=(0.001, 0.01))
    picture = tmp_path / "a.png"
    assert cv2.imwrite(str(picture), np.zeros((50, 50), np.uint8))
    with pytest.raises(UsageError, match=r"has 1e\+06 metres a pixel"):
        Scene(picture, gsd=1.0, source_gsd=1e6)


@pytest.mark.parametrize(
    ("fill", "colour"), [("grey", FILL), ("black", 0), ("mean", 75), ("nearest", 100)]
)
def test_nodata_is_filled_by_policy(
    write_tiff: Writer, tmp_path: Path, fill: str, colour: int
) -> None:
    image = np.full((40, 60, 3), 50, np.uint8)
    image[:, 20:40] = 100
    image[:, 40:] = 0
    path = write_tiff(tmp_path / "a.tif", image, nodata=0)
    with Scene(path, fill=fill) as scene:  # type: ignore[arg-type]
        tile = scene.read(whole(60, 40))
    assert tile.valid is not None
    assert (tile.valid == (np.arange(60) < 40)).all()
    assert (tile.image[:, 40:] == colour).all()
    assert (tile.image[:, :40] == image[:, :40]).all()


def test_an_unknown_fill_is_refused() -> None:
    with pytest.raises(UsageError, match="nodata_fill must be of grey, black, mean, nearest"):
        PredictOptions(nodata_fill="pink")  # type: ignore[arg-type]


def test_scaling_is_read_and_applies_to_bytes_too(
    detector: Detector, paint: Paint, write_tiff: Writer, tmp_path: Path
) -> None:
    assert parse_scaling("dtype").kind == "dtype"
    assert parse_scaling("percentile") == Scaling()
    assert parse_scaling("percentile:2:98") == Scaling(kind="percentile", low=2, high=98)
    assert parse_scaling("fixed:-5:1e4") == Scaling(kind="fixed", low=-5, high=10000)
    for wrong in ("", "fixed", "fixed:5:1", "percentile:0:101", "dtype:0:1", "fixed:a:b", "max"):
        with pytest.raises(UsageError, match=r"scaling must be dtype.*LOW:HIGH"):
            parse_scaling(wrong)
    dim = (paint(100, 100, [(20, 20, 30, 30)]) // 5).astype(np.uint8)
    path = write_tiff(tmp_path / "a.tif", dim)
    assert len(detector.predict(path)) == 0
    assert len(detector.predict(path, scaling=parse_scaling("fixed:0:50"))) == 1


def test_a_vrt_and_an_archive_are_read_as_what_they_hold(
    detector: Detector, paint: Paint, write_tiff: Writer, tmp_path: Path
) -> None:
    import zipfile

    path = write_tiff(tmp_path / "a.tif", paint(100, 140, [(20, 20, 30, 30)]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "inner.tif")
    vrt = tmp_path / "b.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="100" rasterYSize="100">'
        + "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource>'
            '<SourceFilename relativeToVRT="1">a.tif</SourceFilename>'
            f'<SourceBand>{band}</SourceBand><SrcRect xOff="10" yOff="0" xSize="100" ySize="100"/>'
            '<DstRect xOff="0" yOff="0" xSize="100" ySize="100"/></SimpleSource></VRTRasterBand>'
            for band in (1, 2, 3)
        )
        + "</VRTDataset>"
    )
    inside = predict(detector, f"/vsizip/{tmp_path}/a.zip/inner.tif")
    np.testing.assert_allclose(inside.boxes.xyxy, [[20, 20, 30, 30]], atol=1e-3)
    np.testing.assert_allclose(predict(detector, vrt).boxes.xyxy, [[10, 20, 20, 30]], atol=1e-3)
    with Scene(vrt) as scene:
        assert {Path(name).name for name in scene.source.files()} == {"a.tif", "b.vrt"}


def test_each_thread_has_a_handle_of_its_own(write_tiff: Writer, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    image = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    path = write_tiff(tmp_path / "a.tif", image, tiled=True, compress="deflate")
    windows = [Window(x, y, 100, 100, (0, 0, 1, 1)) for y in range(500) for x in (0, 250, 500)][::7]
    with Scene(path) as scene, ThreadPoolExecutor(4) as pool:
        tiles = list(pool.map(scene.read, windows))
    for window, tile in zip(windows, tiles, strict=True):
        x, y = window.x, window.y
        np.testing.assert_array_equal(tile.image, image[y : y + 100, x : x + 100])


def test_objects_of_sizes_that_their_class_cannot_have_are_dropped(
    detector: Detector, paint: Paint, write_tiff: Writer, tmp_path: Path
) -> None:
    # About 12, 12, 18 and 18 m long; the second and the last are cars.
    path = write_tiff(tmp_path / "a.tif", paint(240, 336, BLOBS))

    def kept(**sizes: tuple[float, float]) -> list[int]:
        found = detector.predict(path, sizes=sizes, tile=64, overlap=48).boxes.xyxy
        return [at for at, blob in enumerate(BLOBS) if np.abs(found - blob).max(1).min() < 0.6]

    assert kept() == [0, 1, 2, 3]
    assert kept(car=(15, np.inf)) == [0, 2, 3]
    assert kept(car=(0, 15)) == [0, 1, 2]
    assert kept(ship=(15, 20), car=(11, 15)) == [1, 2]
    assert kept(ship=(20, 30)) == [1, 3]


def test_sizes_are_metres_whatever_the_pixels(
    detector: Detector, paint: Paint, write_tiff: Writer, tmp_path: Path
) -> None:
    path = write_tiff(
        tmp_path / "a.tif", paint(240, 336, BLOBS[:3:2]), crs="EPSG:4326", transform=DEGREES
    )
    # 24 pixels are 7.7 m across and 12 down, 36 by 24 pixels 11.6 by 12.
    for least, count in ((11.5, 2), (12.5, 0)):
        sizes = {"ship": (least, np.inf), "car": (least, np.inf)}
        for how in ({}, {"gsd": 0.4}):
            assert len(detector.predict(path, sizes=sizes, **how)) == count


def test_sizes_need_a_place_on_the_ground_and_a_class(
    detector: Detector, write_tiff: Writer, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), np.zeros((50, 50), np.uint8))
    with pytest.raises(UsageError, match=r"no coordinate system.*--size"):
        detector.predict(path, sizes={"car": (1, 2)})
    moon = write_tiff(tmp_path / "moon.tif", np.zeros((50, 50, 1), np.uint8), crs="IAU_2015:30100")
    with pytest.raises(UsageError, match=r"no coordinate system that leads to metres"):
        detector.predict(moon, sizes={"car": (1, 2)})
    with pytest.raises(UsageError, match=r"no coordinate system that leads to metres.*--scale"):
        detector.predict(moon, gsd=1.0)
    with Scene(moon) as scene:
        box = np.array([[0, 0, 9, 9]], np.float32)
        sizes = georef.sizes_m(box, scene.source.transform, scene.source.crs)
    assert np.isnan(sizes).all()
    with pytest.raises(UsageError, match="no class 'cars': did you mean 'car'"):
        detector.predict(path, sizes={"cars": (1, 2)})
    wrongs: list[Any] = [(2.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (np.inf, np.inf)]
    wrongs += [(1, 2, 3), 3, None, ("a", "b")]
    for wrong in wrongs:
        with pytest.raises(UsageError, match="sizes of 'car' must be"):
            PredictOptions(sizes={"car": wrong})


def test_metres_a_pixel_can_be_given_to_a_picture(
    detector: Detector, paint: Paint, write_tiff: Writer, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), paint(240, 336, BLOBS))
    how: dict[str, Any] = {"tile": 64, "overlap": 48, "source_gsd": 0.5}
    longest = {"ship": (17, np.inf), "car": (17, np.inf)}  # 36 pixels are 18 m, 24 are 12
    result = detector.predict(path, sizes=longest, **how)
    assert len(result) == 2
    table = columns(result.detections, result.header())
    np.testing.assert_allclose(np.maximum(table["width_m"], table["height_m"]), [18, 18], atol=0.3)
    with Scene(path, gsd=0.25, source_gsd=0.5) as scene:
        assert (scene.width, scene.height) == (672, 480)
    assert len(detector.predict(path, gsd=0.25, sizes=longest, **how)) == 2
    # A scene that says its own keeps them.
    placed = write_tiff(tmp_path / "a.tif", paint(240, 336, BLOBS), tiled=True)
    assert len(detector.predict(placed, sizes=longest, **how | {"source_gsd": 50.0})) == 2
    for wrong in (0.0, -1.0, float("nan"), np.inf):
        with pytest.raises(UsageError, match="source_gsd must be over 0"):
            PredictOptions(source_gsd=wrong)


def test_an_array_is_read_at_another_resolution(detector: Detector, paint: Paint) -> None:
    image = paint(240, 336, BLOBS)
    how: dict[str, Any] = {"tile": 64, "overlap": 48, "source_gsd": 0.5}
    for gsd, off in ((0.25, 0.3), (1.0, 0.6)):
        found = by_place(detector.predict(image, gsd=gsd, **how).boxes.xyxy)
        np.testing.assert_allclose(found, by_place(np.array(BLOBS)), atol=off)
    noise = np.random.default_rng(0).integers(0, 60000, (240, 320, 4), dtype=np.uint16)
    for gsd, size in ((1.25, (96, 128)), (0.2, (600, 800))):
        with Scene(noise, gsd=gsd, source_gsd=0.5, bands=(4, 2, 1)) as scene:
            everything = scene.read(whole(scene.width, scene.height)).image
            part = scene.read(Window(32, 20, 64, 48, (0, 0, 1, 1))).image
        assert everything.shape == (*size, 3)
        difference = np.abs(part.astype(int) - everything[20:68, 32:96].astype(int))
        assert difference.max() <= 1
    flat = np.full((50, 40), 7.5, np.float32)
    with Scene(flat, gsd=0.3, source_gsd=0.5) as scene:
        values, _ = scene.source.resampled((3.2, 4.1, 30.7, 44.6), (61, 33), (1,))
    np.testing.assert_array_equal(values, np.full((1, 61, 33), 7.5, np.float32))


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">u2", "f2", "f8", np.longdouble])
def test_an_array_of_any_kind_is_read_at_another_resolution(dtype: Any) -> None:
    values = np.random.default_rng(0).integers(0, 2000, (48, 64)).astype(np.float32)
    images = []
    for array in (values, values.astype(dtype)):
        with Scene(array, gsd=0.4, source_gsd=0.3) as scene:
            images.append(scene.read(whole(scene.width, scene.height)).image)
    np.testing.assert_allclose(images[1], images[0], atol=1)


def test_metres_of_the_wrong_system_are_named(
    detector: Detector, paint: Paint, write_tiff: Writer, tmp_path: Path
) -> None:
    # Metres of UTM, said to be degrees.
    path = write_tiff(
        tmp_path / "a.tif",
        paint(240, 336, BLOBS),
        crs="EPSG:4326",
        transform=Affine(0.5, 0, 664000, 0, -0.5, 4e6),
    )
    for how in ({"gsd": 0.5}, {"sizes": {"car": (1, np.inf)}}):
        with pytest.raises(DataError, match=r"no place in its coordinate system WGS 84"):
            detector.predict(path, **how)
    assert len(detector.predict(path)) == 4


def test_sizes_are_read_from_text() -> None:
    assert parse_sizes("car=3.5:20, ship = 8:") == {"car": (3.5, 20), "ship": (8, np.inf)}
    assert parse_sizes("a=b=:4") == {"a=b": (0, 4)}
    for wrong in ("", "car", "car=3", "=1:2", "car=a:2", "car=1:2,car=2:3", "car=1:2,", "1:2"):
        with pytest.raises(UsageError, match="size is CLASS=LEAST:MOST"):
            parse_sizes(wrong)
