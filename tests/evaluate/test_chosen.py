"""Which detections of a results file are shown: those above the best confidence of their class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rstinynet.data.annotations import Category, LabelledImage, LabelledSet
from rstinynet.evaluate.chosen import read_chosen

LABELLED = LabelledSet(
    images=(
        LabelledImage(
            id=1,
            path=Path("a.png"),
            width=100,
            height=100,
            boxes=np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 40, 80, 80]], np.float32),
            labels=np.array([0, 0, 1]),
            areas=np.array([100.0, 100.0, 1600.0]),
            crowd=np.zeros(3, np.bool_),
            known=np.ones(2, np.bool_),
            exhaustive=np.ones(2, np.bool_),
        ),
    ),
    categories=(Category(1, "vehicle"), Category(2, "ship")),
    fingerprint="",
)


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (0.01, 0.0), (1.0, -2.0), (1.0, -0.8)])
def test_a_detector_of_low_scores_is_shown_as_one_of_high_ones(tmp_path, factor, shift):
    entries = [
        ([0, 0, 10, 10], 0.9, 1),
        ([20, 0, 10, 10], 0.8, 1),
        ([60, 0, 10, 10], 0.3, 1),
        ([40, 40, 40, 40], 0.7, 2),
    ]
    results = [
        {"image_id": 1, "bbox": box, "score": score * factor + shift, "category_id": id_}
        for box, score, id_ in entries
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    shown = read_chosen(path, LABELLED)[1]
    expected = np.array([0.7, 0.8, 0.9]) * factor + shift
    np.testing.assert_allclose(np.sort(shown.scores), expected, rtol=1e-5, atol=1e-6)
