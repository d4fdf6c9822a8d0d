"""What the check of an export with NMS inside takes for the same objects."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rstinynet.cli.main import run
from rstinynet.detections import Detections
from rstinynet.errors import ExportError
from rstinynet.export.check import check_suppressed, compare_objects
from rstinynet.export.run import report_path
from rstinynet.model.weights import load_weights, save_weights

COUNT = 60


def found(*, moved=0.0, scores=0.5, label=0, count=COUNT):
    """Squares of 20 px, 40 px apart, the first `moved` pixels to the right."""
    at = np.arange(count, dtype=np.float32) * 40
    boxes = np.stack([at, at * 0, at + 20, at * 0 + 20], axis=1)
    boxes[0, [0, 2]] += moved
    return Detections(
        boxes.astype(np.float32),
        np.full(count, scores, np.float32),
        np.full(count, label, np.int64),
    )


def compared(one, other, precision="float32"):
    return compare_objects(one, other, conf=0.1, iou=0.6, precision=precision)


def test_of_boxes_that_overlap_as_one_object_either_may_be_kept():
    wanted = {"objects": COUNT, "objects_before": COUNT, "objects_lacking": 0}
    assert compared(found(), found(moved=4)) == wanted
    # One of the two kept two boxes of a chain, the other only the one between them.
    twice = found()
    more = Detections(
        np.concatenate([twice.boxes, twice.boxes + np.array([4, 0, 4, 0], np.float32)]),
        np.tile(twice.scores, 2),
        np.tile(twice.labels, 2),
    )
    assert compared(found(), more)["objects_lacking"] == 0


def test_an_object_elsewhere_is_lacking_on_both_sides():
    with pytest.raises(ExportError, match=r"60 objects .* 60, and 2 of them"):
        compared(found(), found(moved=11))


@pytest.mark.parametrize(
    "other", [found(label=1), found(count=58), Detections.empty()], ids=["class", "fewer", "none"]
)
def test_other_classes_and_fewer_objects_are_refused(other):
    with pytest.raises(ExportError, match="with NMS inside"):
        compared(found(), other)
    with pytest.raises(ExportError, match="with NMS inside"):
        compared(other, found())


def test_objects_about_as_sure_as_the_confidence_may_come_and_go():
    unsure = found(scores=0.13)
    assert compared(unsure, Detections.empty(), "float16")["objects_lacking"] == 0
    with pytest.raises(ExportError):
        compared(unsure, Detections.empty())


def test_what_nms_should_have_taken_away_is_refused():
    def rows(*, moved, label):
        first = [0, 10, 10, 30, 30, 0.9, 0]
        return np.array([first, [0, 10 + moved, 10, 30 + moved, 30, 0.8, label]], np.float32)

    check_suppressed(np.zeros((0, 7), np.float32), iou=0.6, where="a file")
    check_suppressed(rows(moved=6, label=0), iou=0.6, where="a file")
    check_suppressed(rows(moved=1, label=1), iou=0.6, where="a file")
    with pytest.raises(ExportError, match=r"a file: boxes of one class overlap by 0\.9"):
        check_suppressed(rows(moved=1, label=0), iou=0.6, where="a file")


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_nms_inside_is_checked_whatever_images_are_resized_by(scale, weights, tmp_path):
    model, metadata = load_weights(weights)
    resized = tmp_path / "resized.safetensors"
    save_weights(resized, model, metadata.model_copy(update={"scale": scale}))
    path = tmp_path / "nms.onnx"
    assert run(["export", str(resized), "--nms", "--imgsz", "192", "--out", str(path)]) == 0
    assert json.loads(report_path(path).read_text())["compared"]["objects"] > 0
