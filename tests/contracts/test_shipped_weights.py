"""What ships in the package: small, said whose it is, and finds cars in the sample scene."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest

import rstinynet
from rstinynet.cli import demo
from rstinynet.model.weights import load_weights, shipped_names, shipped_path
from rstinynet.scenes.detector import DEFAULT_MODEL


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


AS_DEMO = {
    "tta": demo.VIEWS,
    "scale": demo.SCALES,
    "conf": demo.CONF,
    "sizes": {"vehicle": (demo.LEAST_M, np.inf)},
}


@pytest.mark.parametrize(
    ("how", "least", "most_false"), [({}, 10, 5), ({"tta": 8}, 17, 6), (AS_DEMO, 18, 2)]
)
def test_the_default_finds_cars_of_the_sample_scene(load_script, how, least, most_false):
    count = load_script("benchmarks/sample_count.py")
    marks = json.loads(count.REFERENCE.read_text())
    with resources.as_file(resources.files("rstinynet") / "samples" / "vegas_pan.tif") as scene:
        detector = rstinynet.load(DEFAULT_MODEL, device="cpu")
        result = detector.predict(scene, classes=["vehicle"], **how)
    low, high = result.boxes.xyxy[:, :2], result.boxes.xyxy[:, 2:]
    boxes = np.concatenate([low, high - low], axis=1)
    certain = count.holds(boxes, np.array(marks["certain_xy_px"], float))
    doubtful = count.holds(boxes, np.array(marks["uncertain_xy_px"], float))
    assert certain.any(axis=0).sum() >= least
    assert (~certain.any(axis=1) & ~doubtful.any(axis=1)).sum() <= most_false
