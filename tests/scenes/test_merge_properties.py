"""What merging must give whatever the tiles, their order, the classes and the threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rstinynet.detections import Detections
from rstinynet.scenes import memory
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.merge import SeamMerger
from rstinynet.scenes.spill import best_first
from rstinynet.scenes.stream import PredictOptions, predict
from rstinynet.scenes.windows import Window, rows

CELL = 44
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def scene(seed: int, width: int, height: int, share: float) -> Detections:
    """Objects of 4 to 30 pixels, at most one a cell, none touching another; two classes."""
    rng = np.random.default_rng(seed)
    cells = [(x, y) for y in range(0, height - CELL, CELL) for x in range(0, width - CELL, CELL)]
    low = np.array([cell for cell in cells if rng.random() < share], float).reshape(-1, 2)
    sides = rng.integers(4, 31, low.shape)
    low += rng.integers(0, CELL - 31, low.shape)
    boxes = np.concatenate([low, low + sides], axis=1).astype(np.float32)
    scores = rng.permutation(np.linspace(0.3, 0.9, len(boxes))).astype(np.float32)
    return Detections(boxes, scores, rng.integers(0, 2, len(boxes)))


def seen(window: Window, truth: Detections) -> Detections:
    """What a tile reports: the parts of objects that it sees at least a third of."""
    limits = np.array([window.x, window.y] * 2, np.float32)
    limits[2:] += (window.width, window.height)
    low = np.maximum(truth.boxes[:, :2], limits[:2])
    high = np.minimum(truth.boxes[:, 2:], limits[2:])
    whole = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(axis=1)
    visible = (high > low).all(axis=1) & ((high - low).clip(0).prod(axis=1) >= whole / 3)
    boxes = np.concatenate([low, high], axis=1)[visible]
    found = Detections(boxes.astype(np.float32), truth.scores[visible], truth.labels[visible])
    return found.shifted(-window.x, -window.y)


def merged(
    truth: Detections, size: tuple[int, int], tile: int, overlap: int, order: int = 0
) -> Detections:
    """The scene through tiles, those of a row in an order of their own."""
    merger = SeamMerger(*size, margin=overlap / 4)
    parts = []
    for number, row in enumerate(rows(*size, tile=tile, overlap=overlap)):
        parts.append(merger.settle(row[0].y))
        rng = np.random.default_rng([order, number])
        for at in rng.permutation(len(row)) if order else range(len(row)):
            merger.add(row[at], seen(row[at], truth))
    found = Detections.concatenate([*parts, merger.settle()])
    return found[best_first(found)]


def same(first: Detections, second: Detections) -> None:
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.labels, second.labels)


sizes = st.tuples(st.integers(80, 700), st.integers(80, 700))
grids = st.tuples(st.integers(128, 300), st.integers(60, 64))


@QUICK
@given(seed=st.integers(0, 10**6), size=sizes, grid=grids, share=st.floats(0, 1))
def test_every_object_comes_out_once_and_whole(
    seed: int, size: tuple[int, int], grid: tuple[int, int], share: float
) -> None:
    truth = scene(seed, *size, share)
    same(merged(truth, size, *grid), truth[best_first(truth)])


@QUICK
@given(seed=st.integers(0, 10**6), grid=grids, order=st.integers(1, 100))
def test_the_order_of_tiles_changes_nothing(seed: int, grid: tuple[int, int], order: int) -> None:
    truth = scene(seed, 500, 400, 0.7)
    # Crowded and jittered too: neighbours that overlap, which no order may settle differently.
    near = truth.shifted(3, 2)
    crowd = Detections.concatenate([truth, near[::2]])
    same(merged(crowd, (500, 400), *grid, order=order), merged(crowd, (500, 400), *grid))


@QUICK
@given(seed=st.integers(0, 10**6), grid=grids)
def test_classes_do_not_touch_each_other(seed: int, grid: tuple[int, int]) -> None:
    truth = scene(seed, 400, 300, 0.8)
    flipped = Detections(truth.boxes, truth.scores, 1 - truth.labels)
    both = Detections.concatenate([truth, flipped])  # every object of both classes
    together = merged(both, (400, 300), *grid)
    for label in (0, 1):
        alone = merged(both[both.labels == label], (400, 300), *grid)
        same(together[together.labels == label], alone)


@pytest.mark.parametrize(("readers", "ahead"), [(1, 1), (2, 3), (4, 9)])
def test_threads_change_nothing(
    detector: Detector,
    paint: Callable[..., np.ndarray],
    write_tiff: Callable[..., Path],
    scattered: list[tuple[int, int, int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    readers: int,
    ahead: int,
) -> None:
    path = write_tiff(tmp_path / "a.tif", paint(400, 500, scattered), tiled=True)
    options = PredictOptions(tile=96, overlap=32)
    usual = predict(detector, path, options).detections
    some = memory.Plan(cache=2**24, ahead=ahead, readers=readers, rows=10**6)
    monkeypatch.setattr(memory, "plan", lambda *args, **options: some)
    same(predict(detector, path, options).detections, usual)


def test_a_crowd_is_merged_once_each_in_seconds() -> None:
    # 40,000 objects over a seam-rich scene: far more than any tile may report, all kept.
    rng = np.random.default_rng(0)
    x, y = (v.ravel() for v in np.meshgrid(np.arange(200), np.arange(200)))
    low = np.stack([x, y], axis=1) * 9.0 + rng.integers(0, 3, (40_000, 2))
    boxes = np.concatenate([low, low + 6], axis=1).astype(np.float32)
    truth = Detections(boxes, np.linspace(0.9, 0.3, 40_000).astype(np.float32), x % 3)
    same(merged(truth, (1810, 1810), 256, 64), truth[best_first(truth)])


@QUICK
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60), turned=st.booleans())
def test_overlapping_neighbours_on_a_seam_come_out_as_many_as_they_are(
    seed: int, count: int, turned: bool
) -> None:
    """Two tiles see each object half a pixel apart: none may be reported twice, none lost."""
    rng = np.random.default_rng(seed)
    middle = rng.uniform([76, 20], [116, 108], (count, 2))[:, :: -1 if turned else 1]
    half = rng.uniform(4, 6, (count, 2))
    boxes = np.concatenate([middle - half, middle + half], axis=1)
    scores = rng.permutation(np.linspace(0.3, 0.9, count)).astype(np.float32)
    width, height = (128, 192) if turned else (192, 128)
    merger = SeamMerger(width, height, margin=32)
    for row in rows(width, height, tile=128, overlap=64):
        for window in row:
            moved = (boxes + rng.uniform(-0.5, 0.5, boxes.shape)).astype(np.float32)
            found = Detections(moved, scores, np.zeros(count, np.int64))
            merger.add(window, found.shifted(-window.x, -window.y))
    assert len(merger.settle()) == count
