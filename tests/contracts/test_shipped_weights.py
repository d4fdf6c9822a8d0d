"""What ships in the package: small, said whose it is, and finds cars in the sample scene."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import rstinynet
from rstinynet.model.weights import load_weights, shipped_names, shipped_path
from rstinynet.scenes.detector import DEFAULT_MODEL

MARKS = Path(__file__).parents[2] / "benchmarks" / "sample_vehicles.json"
"""The sample scene's vehicles, marked by eye before any model was run on it."""


def test_the_default_is_shipped():
    assert DEFAULT_MODEL in shipped_names()


@pytest.mark.parametrize("name", shipped_names())
def test_each_file_is_small_and_says_what_it_is(name):
    assert shipped_path(name).stat().st_size <= 12_000_000
    model, metadata = load_weights(name)
    assert metadata.model == name
    assert metadata.licence == "CC BY-NC-SA 4.0"
    assert len(metadata.data_fingerprint) == 64
    assert metadata.trained_with.startswith("rstinynet train ")
    assert metadata.budget
    assert 0 < metadata.metrics["ap"] < 1
    assert len(metadata.class_conf) == len(metadata.names) == model.num_classes


def test_the_default_finds_cars_of_the_sample_scene():
    with resources.as_file(resources.files("rstinynet") / "samples" / "vegas_pan.tif") as scene:
        result = rstinynet.load(DEFAULT_MODEL, device="cpu").predict(scene, classes=["vehicle"])
    boxes = result.boxes.xyxy
    marks = json.loads(MARKS.read_text())
    certain = _held(boxes, marks["certain_xy_px"])
    doubtful = _held(boxes, marks["uncertain_xy_px"])
    assert certain.any(axis=0).sum() >= 10
    assert (~certain.any(axis=1) & ~doubtful.any(axis=1)).sum() <= 3


def _held(boxes, points):
    """(boxes, points) true where a box, wider by 4 pixels, holds a point."""
    at = np.asarray(points, float)
    return ((at >= boxes[:, None, :2] - 4) & (at <= boxes[:, None, 2:] + 4)).all(axis=2)
