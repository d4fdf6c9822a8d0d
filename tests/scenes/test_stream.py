"""Tiled search: the same as one pass over the whole, once an object, in bounded memory."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rstinynet.detections import Detections
from rstinynet.errors import UsageError
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.merge import SeamMerger
from rstinynet.scenes.raster import RasterSource
from rstinynet.scenes.stream import FULL
from rstinynet.scenes.windows import Window, rows


def in_order(boxes: np.ndarray) -> np.ndarray:
    return boxes[np.lexsort(boxes.T)]


@pytest.mark.parametrize(("tile", "overlap"), [(128, 64), (128, 40), (96, 33), (256, 64)])
def test_tiled_equals_whole(
    detector: Detector,
    paint: Callable[..., np.ndarray],
    scattered: list[tuple[int, int, int, int]],
    tile: int,
    overlap: int,
) -> None:
    image = paint(400, 500, scattered)
    whole = detector.detect(image)
    tiled = detector.predict(image, tile=tile, overlap=overlap)
    assert len(whole) == len(scattered)
    np.testing.assert_allclose(in_order(whole.boxes), in_order(np.array(scattered)), atol=1e-3)
    np.testing.assert_allclose(in_order(tiled.boxes.xyxy), in_order(whole.boxes), atol=1e-3)
    np.testing.assert_array_equal(np.bincount(tiled.boxes.cls), np.bincount(whole.labels))


def test_long_object_over_a_seam_is_reported_once_and_whole(
    detector: Detector, paint: Callable[..., np.ndarray]
) -> None:
    # 60 pixels in an overlap of 64: one tile cuts it, the other sees it whole.
    image = paint(128, 192, [(70, 50, 130, 60)])
    result = detector.predict(image, tile=128, overlap=64)
    np.testing.assert_allclose(result.boxes.xyxy, [[70, 50, 130, 60]], atol=1e-3)


def test_jitter_on_the_border_of_cores_neither_loses_nor_doubles() -> None:
    left, right = next(rows(192, 128, tile=128, overlap=64))
    for shift in (-1.0, 0.0, 1.0):
        merger = SeamMerger(192, 128, margin=16)
        for window, moved in ((left, shift), (right, -shift)):
            box = np.array([[92, 40, 100, 48]], np.float32) + np.float32(moved)
            found = Detections(box, np.array([0.8], np.float32), np.zeros(1, np.int64))
            merger.add(window, found.shifted(-window.x, -window.y))
        assert len(merger.settle()) == 1


def test_neighbours_that_overlap_stay_apart_across_tiles() -> None:
    left, right = next(rows(192, 128, tile=128, overlap=64))
    boxes = np.array([[90, 40, 100, 50], [94, 40, 104, 50]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64))
    merger = SeamMerger(192, 128, margin=16)
    for window in (left, right):
        merger.add(window, found.shifted(-window.x, -window.y))
    np.testing.assert_array_equal(in_order(merger.settle().boxes), in_order(boxes))


def test_settling_holds_only_what_the_next_row_can_touch() -> None:
    window = Window(0, 0, 128, 128, (-np.inf, -np.inf, np.inf, 96))
    boxes = np.array([[5, 5, 15, 15], [5, 60, 15, 70]], np.float32)
    merger = SeamMerger(128, 256, margin=16)
    merger.add(window, Detections(boxes, np.full(2, 0.5, np.float32), np.zeros(2, np.int64)))
    np.testing.assert_array_equal(merger.settle(64).boxes, boxes[:1])
    np.testing.assert_array_equal(merger.settle().boxes, boxes[1:])


def test_scale_maps_boxes_back(detector: Detector, paint: Callable[..., np.ndarray]) -> None:
    blobs = [(20, 30, 28, 36), (80, 90, 90, 98), (150, 100, 158, 108)]
    result = detector.predict(paint(130, 200, blobs), tile=128, overlap=32, scale=2.0)
    np.testing.assert_allclose(in_order(result.boxes.xyxy), in_order(np.array(blobs)), atol=0.6)


def test_classes_are_filtered_by_name(detector: Detector, paint: Callable[..., np.ndarray]) -> None:
    image = paint(64, 64, [(5, 5, 15, 15), (30, 30, 40, 40)])
    result = detector.predict(image, classes=["car"])
    assert result.counts() == {"car": 1}
    with pytest.raises(UsageError, match="did you mean 'ship'"):
        detector.predict(image, classes=["shop"])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_scene_without_any_data_is_told_apart_from_an_empty_one(
    detector: Detector, write_tiff: Callable[..., Path], tmp_path: Path, dtype: type
) -> None:
    image = np.full((300, 300, 3), 0 if dtype is np.uint8 else np.nan, dtype)
    nodata = 0 if dtype is np.uint8 else None
    result = detector.predict(write_tiff(tmp_path / "a.tif", image, nodata=nodata))
    assert len(result) == 0
    assert "no pixel is valid" in " ".join(result.notes)
    image[290, 290] = 40  # the last tile has one pixel
    result = detector.predict(write_tiff(tmp_path / "b.tif", image, nodata=nodata))
    assert len(result) == 0
    assert result.notes == ()


def test_empty_tiles_are_skipped_and_boxes_on_nodata_dropped(
    detector: Detector,
    paint: Callable[..., np.ndarray],
    write_tiff: Callable[..., Path],
    tmp_path: Path,
) -> None:
    image = paint(128, 1024, [(20, 20, 30, 30), (121, 50, 135, 60)])
    image[:, 131:] = 0  # nodata cuts the second blob, and leaves most tiles empty
    path = write_tiff(tmp_path / "a.tif", image, nodata=0)
    result = detector.predict(path, tile=128, overlap=32)
    assert len(result) == 2
    assert detector.model.forwards == 2  # type: ignore[attr-defined]

    class Anywhere(type(detector)):  # type: ignore[misc]
        def detect_batch(self, images: list[np.ndarray], **options: object) -> list[Detections]:
            boxes = np.array([[60, 60, 70, 70], [2, 60, 40, 70]], np.float32)
            one = Detections(boxes, np.full(2, 0.9, np.float32), np.zeros(2, np.int64))
            return [one for _ in images]

    image[:, 20:] = 0
    path = write_tiff(tmp_path / "b.tif", image[:, :128], nodata=0)
    everywhere = Anywhere(detector.model, detector.metadata, device="cpu")
    assert len(everywhere.predict(path)) == 0
    image[:, :30] = 90
    path = write_tiff(tmp_path / "c.tif", image[:, :128], nodata=0)
    np.testing.assert_allclose(everywhere.predict(path).boxes.xyxy, [[2, 60, 40, 70]])


def test_memory_does_not_grow_with_the_scene(
    detector: Detector, write_tiff: Callable[..., Path], tmp_path: Path
) -> None:
    peaks = []
    for width, height in ((512, 512), (512, 4096)):
        path = write_tiff(
            tmp_path / f"{height}.tif", np.full((height, width, 1), 20, np.uint8), tiled=True
        )
        tracemalloc.start()
        assert len(detector.predict(path, tile=256, overlap=32)) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_unknown_option_is_named(detector: Detector) -> None:
    with pytest.raises(UsageError, match="tile"):
        detector.predict(np.zeros((8, 8), np.uint8), tiles=3)
    with pytest.raises(UsageError, match="overlap"):
        detector.predict(np.zeros((8, 8), np.uint8), tile=64, overlap=65)
    assert len(detector.predict(np.zeros((80, 80), np.uint8), tile=64)) == 0


def test_a_defect_halfway_ends_the_reading_thread(
    detector: Detector,
    write_tiff: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_tiff(tmp_path / "a.tif", np.full((600, 600, 1), 20, np.uint8))

    def fail(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    from rstinynet.scenes.stream import predict

    reading: list[bool] = []
    close = RasterSource.close

    def closed(source: RasterSource) -> None:
        # A handle that goes while a thread reads from it crashes the process.
        reading.append(any(thread.name.startswith("read") for thread in threading.enumerate()))
        close(source)

    monkeypatch.setattr(RasterSource, "close", closed)
    with pytest.raises(KeyboardInterrupt):
        predict(detector, path, progress=fail)
    assert reading == [False]


def test_a_tile_that_holds_as_many_objects_as_are_kept_is_noted(
    detector: Detector,
    paint: Callable[..., np.ndarray],
    scattered: list[tuple[int, int, int, int]],
) -> None:
    image = paint(400, 500, scattered)
    assert detector.predict(image, tile=128, overlap=64).notes == ()
    few = detector.predict(image, tile=512, overlap=64, max_det=len(scattered) - 1)
    assert len(few.boxes) == len(scattered) - 1
    (note,) = few.notes
    assert f"tiles with {len(scattered) - 1}, the most that are kept of one: 1;" in note


def test_objects_of_other_classes_take_no_places_of_those_asked_for(
    detector: Detector, paint: Callable[..., np.ndarray], scattered: list[tuple[int, ...]]
) -> None:
    image = paint(400, 500, scattered)
    cars = len(scattered) // 2
    found = detector.predict(image, tile=512, overlap=64, max_det=cars + 1, classes=["car"])
    assert (found.counts(), found.notes) == ({"car": cars}, ())
    best = detector.predict(image, tile=512, overlap=64, max_det=9, classes=["car"])
    np.testing.assert_array_equal(best.boxes.xyxy, found.boxes.xyxy[:9])
    assert best.notes == (FULL.format(9, 1),)
