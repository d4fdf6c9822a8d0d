"""What two tiles say of one object, of neighbours, and of objects that no tile sees whole."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest

from rstinynet.detections import Detections
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.merge import SeamMerger
from rstinynet.scenes.windows import Window, rows

P, Q = (104, 40, 114, 56), (108.5, 42, 118.5, 58)


def seen(window: Window, boxes: list[tuple[float, ...]], scores: list[float]) -> Detections:
    """What a tile reports that sees these boxes of the scene as far as it reaches."""
    array = np.array(boxes, np.float32) - np.float32([window.x, window.y] * 2)
    limits = np.float32([window.width, window.height] * 2)
    return Detections(
        array.clip(0, limits), np.array(scores, np.float32), np.zeros(len(boxes), np.int64)
    )


@pytest.mark.parametrize("scores", [(0.9, 0.5), (0.5, 0.9), (0.7, 0.7)])
def test_a_distinct_neighbour_that_one_tile_owns_stays(scores: tuple[float, float]) -> None:
    left, right = next(rows(192, 128, tile=128, overlap=64))
    merger = SeamMerger(192, 128, margin=16)
    for window in (left, right):
        merger.add(window, seen(window, [P, Q], list(scores)))
    boxes = merger.settle().boxes
    np.testing.assert_allclose(boxes[np.argsort(boxes[:, 0])], [P, Q])


def test_a_match_that_fell_in_the_row_above_still_guards_its_neighbour() -> None:
    upper, lower = rows(192, 192, tile=128, overlap=64)
    one, other = (70, 84, 80, 100), (73, 87, 83, 103)
    for scores in ((0.9, 0.5), (0.5, 0.9)):
        merger = SeamMerger(192, 192, margin=16)
        for row in (upper, lower):
            merger.settle(row[0].y)
            for window in row:
                merger.add(window, seen(window, [one, other], list(scores)))
        assert len(merger.settle()) == 2


LONG = [
    [(50, 40, 150, 52)],  # wider than the overlap
    [(20, 30, 44, 200)],  # over two seams, down
    [(40, 44, 160, 150)],  # over a corner, cut in all four tiles
    [(3, 20, 250, 40), (3, 60, 250, 90)],  # through every tile of the row
]


@pytest.mark.parametrize("blobs", LONG)
def test_objects_longer_than_the_overlap_come_out_once_and_whole(
    blobs: list[tuple[int, int, int, int]],
) -> None:
    grid = list(rows(256, 256, tile=128, overlap=64))
    outcomes = []
    for order in permutations(range(3)):
        merger = SeamMerger(256, 256, margin=16)
        out = []
        for row in grid:
            out.append(merger.settle(row[0].y))
            for window in (row[at] for at in order):
                visible = [
                    blob
                    for blob in blobs
                    if blob[0] < window.x + 128 - 8
                    and blob[2] > window.x + 8
                    and blob[1] < window.y + 128 - 8
                    and blob[3] > window.y + 8
                ]
                scores = [0.5 + window.x / 1000] * len(visible)
                if visible:
                    merger.add(window, seen(window, visible, scores))
        found = Detections.concatenate([*out, merger.settle()])
        outcomes.append(found.boxes[np.argsort(found.boxes[:, 1])])
    for boxes in outcomes:
        np.testing.assert_array_equal(boxes, np.array(blobs, np.float32))


def test_pieces_that_do_not_coincide_along_the_seam_stay_apart() -> None:
    left, right = next(rows(192, 128, tile=128, overlap=64))
    merger = SeamMerger(192, 128, margin=16)
    merger.add(left, seen(left, [(50, 20, 150, 40)], [0.9]))
    merger.add(right, seen(right, [(50, 32, 150, 52)], [0.8]))
    np.testing.assert_array_equal(merger.settle().boxes, [[50, 20, 128, 40], [64, 32, 150, 52]])


def test_a_small_whole_object_does_not_remove_a_long_cut_one() -> None:
    left, right = next(rows(192, 128, tile=128, overlap=64))
    merger = SeamMerger(192, 128, margin=16)
    merger.add(left, seen(left, [(20, 20, 128, 60)], [0.9]))
    merger.add(right, seen(right, [(100, 30, 110, 40)], [0.8]))
    assert len(merger.settle()) == 2


def test_a_long_object_through_the_detector(
    detector: Detector, paint: Callable[..., np.ndarray]
) -> None:
    image = paint(100, 96, [(30, 40, 80, 50)])
    result = detector.predict(image, tile=64, overlap=32)
    np.testing.assert_allclose(result.boxes.xyxy, [[30, 40, 80, 50]], atol=1e-3)
