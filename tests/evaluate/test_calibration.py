"""Reliability and temperature, against cases whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstinynet.data.annotations import Category, LabelledSet
from rstinynet.data.formats.common import labelled_image
from rstinynet.detections import Detections
from rstinynet.errors import DataError
from rstinynet.evaluate.calibration import (
    best_temperature,
    outcomes,
    platt_scaling,
    reliability,
    shifted,
    tempered,
)


def test_scores_that_are_precisions_have_no_error():
    scores = np.repeat([0.2, 0.5, 0.8], 10)
    right = np.tile(np.arange(10), 3) < np.repeat([2, 5, 8], 10)
    found = reliability(scores, right)
    assert found.ece == pytest.approx(0)
    assert [each.count for each in found.bins] == [0, 10, 0, 0, 10, 0, 0, 10, 0, 0]


def test_the_error_is_the_distance_weighted_by_counts():
    found = reliability(np.array([0.95, 0.95, 0.95, 0.15]), np.array([True, False, False, False]))
    assert found.ece == pytest.approx((3 * abs(0.95 - 1 / 3) + 0.15) / 4)
    assert found.bins[9].precision == pytest.approx(1 / 3)
    assert found.detections == 4


def test_nothing_found_is_no_error():
    assert reliability(np.zeros(0), np.zeros(0, np.bool_)).ece == 0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.floats(0.2, 5))
def test_a_temperature_keeps_the_order(values, temperature):
    scores = np.sort(np.array(values))
    assert (np.diff(tempered(scores, temperature)) >= 0).all()
    np.testing.assert_allclose(tempered(scores, 1.0), np.clip(scores, 1e-12, 1 - 1e-12), rtol=1e-6)


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_scores_is_found(truth):
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.02, 0.98, 40000)
    right = rng.random(40000) < probability
    overconfident = tempered(probability, 1 / truth)
    assert best_temperature(overconfident, right) == pytest.approx(truth, rel=0.05)
    mended = tempered(overconfident, best_temperature(overconfident, right))
    assert reliability(mended, right).ece < 0.02


@pytest.mark.parametrize(("temperature", "shift"), [(1.0, 0.0), (0.7, 1.5), (1.6, -0.8)])
def test_the_line_that_made_the_scores_is_found(temperature, shift):
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.02, 0.98, 40000)
    right = rng.random(40000) < probability
    scores = shifted(tempered(probability, 1 / temperature), -shift)
    found = platt_scaling(scores, right)
    assert found == pytest.approx((temperature, shift), rel=0.06, abs=0.05)
    mended = tempered(shifted(scores, found[1]), found[0])
    assert reliability(mended, right).ece < 0.02
    if shift:
        plain = tempered(scores, best_temperature(scores, right))
        assert reliability(plain, right).ece > 0.05


def test_a_temperature_needs_right_and_wrong():
    with pytest.raises(DataError, match="0 of 2 detections are right"):
        best_temperature(np.array([0.5, 0.6]), np.array([False, False]))


def test_outcomes_follow_the_matching():
    image = labelled_image(
        Path("a.png"), 7, (50, 50),
        [(0, (0, 0, 10, 10), False), (0, (20, 20, 30, 30), True)], classes=1, where=Path("a"),
    )  # fmt: skip
    labelled = LabelledSet(images=(image,), categories=(Category(1, "ship"),), fingerprint="")
    boxes = np.array(
        [[0, 0, 10, 9], [0, 0, 10, 10], [21, 21, 29, 29], [40, 40, 45, 45]], np.float32
    )
    found = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.04], np.float32), np.zeros(4, np.int64))
    scores, right = outcomes(labelled, {7: found})
    # The second is a duplicate, the third lies on a region to ignore, the fourth scores too low.
    np.testing.assert_allclose(scores, [0.9, 0.8])
    np.testing.assert_array_equal(right, [True, False])
