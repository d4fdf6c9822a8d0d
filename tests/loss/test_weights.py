"""How much each class counts, against hand values, and its bounds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstinynet.errors import UsageError
from rstinynet.loss.settings import LossSettings
from rstinynet.loss.weights import class_weights


def test_equal_classes_need_no_weights() -> None:
    assert class_weights(LossSettings(), 3) is None


def test_a_list_is_taken_as_it_is() -> None:
    weights = class_weights(LossSettings(class_weights=(1.0, 0.0, 2.5)), 3)
    assert weights is not None
    assert weights.tolist() == [1, 0, 2.5]


@pytest.mark.parametrize(
    ("kind", "limit", "expected"),
    [
        # 400, 100 and 1 boxes: ratios 1, 4, 400, of which the last is limited; mean over 501 boxes.
        ("inverse", 10.0, [1, 4, 10]),
        ("inverse", 1000.0, [1, 4, 400]),
        ("inverse_sqrt", 10.0, [1, 2, 10]),
        ("inverse_sqrt", 1000.0, [1, 2, 20]),
        ("inverse", 1.0, [1, 1, 1]),
    ],
)
def test_weights_by_number_equal_hand_values(kind, limit, expected) -> None:  # type: ignore[no-untyped-def]
    boxes = (400, 100, 1)
    settings = LossSettings(class_weights=kind, class_weight_limit=limit)
    weights = class_weights(settings, 3, boxes=boxes)
    assert weights is not None
    mean = sum(n * w for n, w in zip(boxes, expected, strict=True)) / 501
    assert weights.tolist() == pytest.approx([w / mean for w in expected])


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=20),
    st.sampled_from(["inverse", "inverse_sqrt"]),
    st.floats(1, 1e6),
)
def test_weights_are_bounded_however_rare_a_class_is(boxes, kind, limit) -> None:  # type: ignore[no-untyped-def]
    settings = LossSettings(class_weights=kind, class_weight_limit=limit)
    weights = class_weights(settings, len(boxes), boxes=boxes)
    assert weights is not None
    values = weights.tolist()
    assert all(math.isfinite(value) and value > 0 for value in values)
    assert max(values) / min(values) <= limit * (1 + 1e-5)
    if sum(boxes):
        mean = sum(n * w for n, w in zip(boxes, values, strict=True)) / sum(boxes)
        assert mean == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "boxes", "message"),
    [
        ((1.0, 2.0), None, "3 numbers"),
        ((1.0, 2.0, -1.0), None, "from 0 up"),
        ((1.0, math.inf, 1.0), None, "from 0 up"),
        ((0.0, 0.0, 0.0), None, "not all 0"),
        ("inverse", None, "number of training boxes"),
        ("inverse", (1, 2), "number of training boxes"),
    ],
)
def test_unfit_weights_are_refused(weights, boxes, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=message):
        class_weights(LossSettings(class_weights=weights), 3, boxes=boxes)
