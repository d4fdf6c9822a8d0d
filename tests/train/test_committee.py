"""A teacher's dense maps corrected by what several agree on."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from rstinynet.agree import SAME_IOU
from rstinynet.detections import Detections
from rstinynet.model.decode import REG_MAX, expected_sides
from rstinynet.suppress import overlap
from rstinynet.train.committee import corrected, grown


def objects(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Detections of (x0, y0, x1, y1, score, label)."""
    table = np.array(rows, float).reshape(-1, 6)
    return Detections(
        table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(int)
    )


# Two anchors on one object, one on another, and one of background.
BOXES = np.array([[0, 0, 8, 8], [0, 1, 8, 9], [40, 40, 48, 48], [80, 80, 88, 88]], np.float32)
STRIDES = np.array([4, 4, 8, 8], np.float32)
SCORES = np.array([[0.8, 0.1], [0.4, 0.05], [0.0, 0.5], [0.0005, 0.3]], np.float32)


def test_the_surest_anchor_gets_the_objects_score_and_the_others_in_proportion() -> None:
    agreed = objects((0, 0, 8, 8, 0.6, 0), (40, 40, 48, 48, 0.9, 1))
    scores, growth = corrected(SCORES, BOXES, STRIDES, agreed)
    np.testing.assert_allclose(scores[:2, 0], [0.6, 0.3], rtol=1e-6)
    np.testing.assert_allclose(scores[2], [0, 0.9], rtol=1e-6)
    # Of another class, and of no object: as they were.
    np.testing.assert_array_equal(scores[:2, 1], SCORES[:2, 1])
    np.testing.assert_array_equal(scores[3], SCORES[3])
    np.testing.assert_allclose(growth[1], [0, 0.25, 0, -0.25])
    assert not growth[[0, 2, 3]].any()
    assert SCORES[0, 0] == np.float32(0.8)


def test_a_score_stays_a_share() -> None:
    # The surest anchor of the object is a weak one of its class; 0.9 / 0.05 of 0.1 is above 1.
    weak = np.array([[0.05], [0.04]], np.float32)
    scores, _ = corrected(weak, BOXES[:2], STRIDES[:2], objects((0, 0, 8, 8, 0.9, 0)))
    np.testing.assert_allclose(scores[:, 0], [0.9, 0.72], rtol=1e-6)
    assert scores.max() <= 1


def test_sides_go_to_the_object_of_the_surest_class() -> None:
    agreed = objects((0, 0, 8, 8, 0.7, 0), (-2, 0, 8, 8, 0.75, 1))
    _, growth = corrected(SCORES, BOXES, STRIDES, agreed)
    # The second class is now the surer one of the first anchor: 2 pixels further to the left.
    np.testing.assert_allclose(growth[0], [0.5, 0, 0, 0])


def test_sides_go_to_the_class_that_is_the_surest_in_the_end() -> None:
    # Before, the second was; its object is now less sure than that of the first.
    scores = np.array([[0.5, 0.6]], np.float32)
    agreed = objects((-2, 0, 8, 8, 0.5, 0), (0, 0, 8, 6, 0.3, 1))
    _, growth = corrected(scores, BOXES[:1], STRIDES[:1], agreed)
    np.testing.assert_allclose(growth, [[0.5, 0, 0, 0]])


def test_a_crowd_takes_little_memory() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 800, (1000, 2))
    crowd = np.concatenate([corner, corner + rng.uniform(6, 16, (1000, 2))], axis=1)
    agreed = Detections(
        crowd.astype(np.float32), np.full(1000, 0.6, np.float32), np.zeros(1000, np.int64)
    )
    boxes = (crowd.repeat(8, axis=0) + rng.normal(0, 0.5, (8000, 4))).astype(np.float32)
    tracemalloc.start()
    scores, _ = corrected(
        np.full((8000, 1), 0.3, np.float32), boxes, np.full(8000, 4, np.float32), agreed
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Whoever overlaps the same one most: by brute force.
    ious = overlap(boxes[:100, None].astype(np.float64), agreed.boxes[None].astype(np.float64))
    assert (scores[:100, 0] > 0.5).tolist() == (ious.max(axis=1) > SAME_IOU).tolist()
    assert peak < 100 * 2**20


@pytest.mark.parametrize("agreed", [objects(), objects((200, 200, 208, 208, 0.9, 0))])
def test_without_an_object_at_hand_nothing_changes(agreed: Detections) -> None:
    scores, growth = corrected(SCORES, BOXES, STRIDES, agreed)
    np.testing.assert_array_equal(scores, SCORES)
    assert not growth.any()


def test_the_expectation_moves_by_what_is_asked() -> None:
    bins = torch.full((1, 1, 4, REG_MAX), -20.0)
    bins[..., 4], bins[..., 5] = 1.0, 0.5
    sides = bins.flatten(-2)
    growth = torch.tensor([[[0.5, -0.75, 0.0, 3.0]]])
    before, after = expected_sides(sides), expected_sides(grown(sides, growth))
    torch.testing.assert_close(
        after - before, torch.tensor([[[0.5, -0.75, 0.0, 1.0]]]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(("bin_", "by"), [(0, -1.0), (REG_MAX - 1, 1.0)])
def test_nothing_goes_past_the_ends(bin_: int, by: float) -> None:
    bins = torch.full((1, 4, REG_MAX), -20.0)
    bins[..., bin_] = 5.0
    moved = grown(bins.flatten(-2), torch.full((1, 4), by))
    torch.testing.assert_close(
        expected_sides(moved), torch.full((1, 4), float(bin_)), atol=1e-4, rtol=0
    )
