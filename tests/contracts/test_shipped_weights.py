"""What ships in the package: small, said whose it is, and finds cars in the sample scene."""

from __future__ import annotations

from importlib import resources

import pytest

import rstinynet
from rstinynet.model.weights import load_weights, shipped_names, shipped_path
from rstinynet.scenes.detector import DEFAULT_MODEL

CARS = ((592, 780), (585, 741), (643, 784))
"""Points on three parked cars of the sample scene, in its pixels."""


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
    found = [
        ((boxes[:, :2] <= (x, y)) & (boxes[:, 2:] >= (x, y))).all(axis=1).any() for x, y in CARS
    ]
    assert sum(found) >= 2
    assert len(boxes) < 200
