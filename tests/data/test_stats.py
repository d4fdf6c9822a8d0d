"""Counts, sizes, and the boxes that no anchor lies in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rstinynet.data.folder import open_split
from rstinynet.data.stats import (
    boxes_by_class,
    count,
    has_anchor,
    histogram,
    size_of,
    without_anchor,
)
from rstinynet.data.synthetic import make_synthetic


def test_counts_leave_crowds_out(tmp_path):
    make_synthetic(tmp_path, images=2, size=64)
    labelled = open_split(tmp_path, "train")
    first, second = labelled.images
    crowd = np.ones(len(first.boxes), np.bool_)
    stats = count(replace(labelled, images=(replace(first, crowd=crowd), second)))
    assert (stats.images, stats.empty_images, stats.crowds) == (2, 1, len(first.boxes))
    assert sum(stats.classes.values()) == sum(stats.sizes.values()) == len(second.boxes)
    assert sum(stats.sides_px.values()) == stats.boxes == len(second.boxes)
    assert sum(sum(sizes.values()) for sizes in stats.class_sizes.values()) == stats.boxes
    assert stats.as_dict()["classes"] == stats.classes
    without = replace(labelled, images=(replace(first, crowd=crowd), second))
    assert boxes_by_class(without) == list(stats.classes.values())


def test_a_limit_counts_to_the_size_below_it():
    areas = np.array([0, 64, 64.1, 256, 257, 1024, 1025, 9e9])
    assert size_of(areas).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_histogram_has_every_box_once():
    sides = np.array([0.5, 2, 3.9, 4, 127, 128, 500], np.float32)
    boxes = np.stack([sides * 0, sides * 0, sides, sides], axis=1)
    found = histogram(boxes)
    assert (found["0-2"], found["2-4"], found["4-6"], found["128+"]) == (1, 2, 1, 2)
    assert sum(found.values()) == len(sides)


def test_an_anchor_inside_equals_trying_all():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 40, (300, 2)).astype(np.float32)
    boxes = np.concatenate([low, low + rng.uniform(0.5, 12, (300, 2)).astype(np.float32)], axis=1)
    for stride in (4, 8, 16):
        centres = (np.arange(20) + 0.5) * stride
        inside = (centres > boxes[:, :2, None]) & (centres < boxes[:, 2:, None])
        np.testing.assert_array_equal(has_anchor(boxes, stride), inside.any(axis=2).all(axis=1))


@pytest.mark.parametrize(("side", "coarse", "fine"), [(4, 0.67, 0), (6, 0.34, 0), (8, 0, 0)])
def test_shares_of_boxes_without_anchor_are_the_known_ones(side, coarse, fine):
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 700, (20000, 2))
    boxes = np.concatenate([low, low + side], axis=1).astype(np.float32)
    shares = without_anchor(boxes)
    assert shares["P3-P5"] == pytest.approx(coarse, abs=0.02)
    assert shares["P2-P5"] == pytest.approx(fine, abs=0.01)
    assert without_anchor(boxes[:0])["P3-P5"] == 0
