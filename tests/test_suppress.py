"""Suppression against a brute-force greedy loop, and its promises on order, limits and memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rstinynet.suppress as module
from rstinynet.detections import Detections
from rstinynet.suppress import Metric, overlap, suppress


def brute_force(found: Detections, iou: float, class_aware: bool, metric: Metric) -> list[int]:
    """Indices kept, best first, by the definition of greedy suppression."""
    boxes = found.boxes.astype(np.float64)
    kept: list[int] = []
    for i in np.argsort(-found.scores, kind="stable"):
        rivals = [j for j in kept if not class_aware or found.labels[j] == found.labels[i]]
        if all(float(overlap(boxes[j], boxes[i], metric)) <= iou for j in rivals):
            kept.append(int(i))
    return kept


def random_detections(seed: int, n: int, span: float) -> Detections:
    rng = np.random.default_rng(seed)
    low = rng.random((n, 2)) * span
    boxes = np.concatenate([low, low + rng.integers(0, 12, (n, 2))], axis=1)
    # Few distinct scores, so that ties are common.
    scores = rng.integers(0, 20, n) / 20
    return Detections(
        boxes.astype(np.float32), scores.astype(np.float32), rng.integers(0, 3, n, np.int64)
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 120),
    span=st.sampled_from([5.0, 40.0, 200.0]),
    iou=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    class_aware=st.booleans(),
    metric=st.sampled_from(["iou", "ios"]),
)
def test_equals_brute_force(
    seed: int, n: int, span: float, iou: float, class_aware: bool, metric: Metric
) -> None:
    found = random_detections(seed, n, span)
    kept = suppress(found, iou=iou, class_aware=class_aware, metric=metric)
    expected = found[np.array(brute_force(found, iou, class_aware, metric), np.int64)]
    np.testing.assert_array_equal(kept.boxes, expected.boxes)
    np.testing.assert_array_equal(kept.scores, expected.scores)
    np.testing.assert_array_equal(kept.labels, expected.labels)


@pytest.mark.parametrize("span", [30.0, 300.0])
def test_index_equals_dense_comparison(monkeypatch: pytest.MonkeyPatch, span: float) -> None:
    found = random_detections(1, 500, span)
    dense = suppress(found, iou=0.4)
    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(module, "MAX_PAIRS", 500 * 16)
    np.testing.assert_array_equal(suppress(found, iou=0.4).boxes, dense.boxes)


def test_many_boxes_on_one_spot_leave_one() -> None:
    n = 20_000
    boxes = np.tile(np.array([[5, 5, 15, 15]], np.float32), (n, 1))
    found = Detections(boxes, np.linspace(0.1, 0.9, n, dtype=np.float32), np.zeros(n, np.int64))
    kept = suppress(found, iou=0.5)
    assert len(kept) == 1
    assert kept.scores[0] == np.float32(0.9)


def test_max_det_keeps_the_best() -> None:
    found = random_detections(3, 2000, 2000.0)
    everything = suppress(found, iou=0.5)
    few = suppress(found, iou=0.5, max_det=7)
    np.testing.assert_array_equal(few.boxes, everything.boxes[:7])
    assert len(suppress(found, iou=0.5, max_det=0)) == 0


def test_ios_removes_a_part_that_iou_keeps() -> None:
    boxes = np.array([[0, 0, 20, 10], [0, 0, 6, 10]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64))
    assert len(suppress(found, iou=0.5)) == 2
    assert len(suppress(found, iou=0.5, metric="ios")) == 1


def test_refuses_bad_arguments() -> None:
    with pytest.raises(ValueError, match="must lie in"):
        suppress(Detections.empty(), iou=1.5)
    broken = Detections(
        np.array([[0, 0, np.nan, 1]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)
    )
    with pytest.raises(ValueError, match="finite"):
        suppress(broken, iou=0.5)
