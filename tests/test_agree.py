"""What several looks at an image agree on."""

from __future__ import annotations

import numpy as np
import pytest

from rstinynet.agree import agreed
from rstinynet.detections import Detections


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Detections of (x0, y0, x1, y1, score, label)."""
    table = np.array(rows, float).reshape(-1, 6)
    return Detections(
        table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(int)
    )


def test_a_score_is_the_mean_over_all_views_and_a_box_the_weighted_one() -> None:
    views = [found((0, 0, 10, 10, 0.9, 1)), found((1, 0, 11, 10, 0.3, 1)), found(), found()]
    joined = agreed(views)
    np.testing.assert_allclose(joined.scores, [0.3], rtol=1e-6)
    np.testing.assert_allclose(joined.boxes, [[0.25, 0, 10.25, 10]], rtol=1e-6)
    assert joined.labels.tolist() == [1]


def test_classes_and_neighbours_stay_apart_and_the_nearest_is_taken() -> None:
    one = found((0, 0, 10, 10, 0.9, 0), (4, 0, 14, 10, 0.8, 0), (0, 0, 10, 10, 0.7, 2))
    other = found((4, 0, 14, 10, 0.6, 0), (1, 0, 11, 10, 0.5, 0))
    joined = agreed([one, other], iou=0.3)
    assert joined.labels.tolist() == [0, 0, 2]
    np.testing.assert_allclose(joined.scores, [0.7, 0.7, 0.35], rtol=1e-6)
    assert sorted(joined.boxes[:2, 0].tolist()) == pytest.approx([0.357, 4.0], abs=0.01)


def test_two_boxes_of_one_view_are_two_objects() -> None:
    joined = agreed([found((0, 0, 10, 10, 0.9, 0), (1, 0, 11, 10, 0.8, 0)), found()])
    np.testing.assert_allclose(joined.scores, [0.45, 0.4], rtol=1e-6)


def test_nothing_is_found_where_no_view_shows_anything() -> None:
    assert len(agreed([found(), found()])) == 0
