"""Classes are matched by name, whatever their order, case and separators."""

from __future__ import annotations

import numpy as np
import pytest

from rstinynet.detections import Detections
from rstinynet.errors import DataError
from rstinynet.evaluate.classes import match_classes


def test_case_separators_and_order_do_not_matter():
    match = match_classes(
        ["Storage Tank", "SHIP", "bridge"], data_names=["ship", "vehicle", "storage-tank"]
    )
    assert match.label_of.tolist() == [2, 0, -1]
    assert match.only_model == ("bridge",)
    assert match.only_data == ("vehicle",)
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    dets = match.translate(
        Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 2, 1]))
    )
    assert dets.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(dets.boxes, boxes[[0, 2]])
    assert len(match.translate(Detections.empty())) == 0


def test_no_common_class_is_an_error_that_names_both():
    with pytest.raises(DataError, match="the model has car, the data set ship"):
        match_classes(["car"], data_names=["ship"])


def test_names_that_cannot_be_told_apart_are_refused():
    with pytest.raises(DataError, match="the data set has 'wind-mill' and 'Windmill'"):
        match_classes(["windmill"], data_names=["wind-mill", "Windmill"])
    with pytest.raises(DataError, match="the model has"):
        match_classes(["ship", "Ship"], data_names=["ship"])
