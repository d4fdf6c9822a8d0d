"""scripts/ship_weights.py: what an average keeps of the weights that it is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rstinynet.data.annotations import Category, LabelledImage, LabelledSet
from rstinynet.detections import Detections
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.model.presets import build
from rstinynet.model.weights import load_weights, save_weights
from rstinynet.scenes.detector import Detector

NAMES = ("ship", "vehicle")


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("scripts/ship_weights.py")


@pytest.fixture
def weights(tmp_path):
    def make(name, seed, names=NAMES, **more):
        torch.manual_seed(seed)
        path = tmp_path / f"{name}.safetensors"
        model = build("yolo11n", 2)
        metadata = WeightsMetadata(
            model="yolo11n", names=names, category_ids=(1, 2), imgsz=64, **more
        )
        save_weights(path, model, metadata)
        return path, model

    return make


def test_an_average_is_the_weighted_mean_with_a_temperature_of_its_own(weights, script):
    one, first = weights("one", 1, temperature=0.5, licence="CC BY 4.0")
    two, second = weights("two", 2, data_fingerprint="f" * 64)
    model, metadata = script.averaged([one, two], [3, 1])
    expected = {
        name: 0.75 * value + 0.25 * second.state_dict()[name]
        for name, value in first.state_dict().items()
        if value.is_floating_point()
    }
    torch.testing.assert_close(
        {name: value for name, value in model.state_dict().items() if name in expected}, expected
    )
    assert (metadata.licence, metadata.temperature) == ("CC BY 4.0", 1.0)
    assert metadata.data_fingerprint == "f" * 64


def test_unlike_weights_are_not_averaged(weights, script):
    one, _ = weights("one", 1)
    other, _ = weights("other", 1, names=("ship", "airplane"))
    with pytest.raises(SystemExit, match="2 shares for 1 files"):
        script.averaged([one], [1, 1])
    with pytest.raises(SystemExit, match=r"other\.safetensors is yolo11n for ship, airplane"):
        script.averaged([one, other], [1, 1])


def test_a_slack_is_of_a_class(script):
    assert script.class_share("storage-tank=0.1") == ("storage-tank", 0.1)
    for wrong in ("vehicle", "=0.1", "vehicle=1.5", "vehicle=much"):
        with pytest.raises(ValueError, match=r"vehicle|0\.1|much"):
            script.class_share(wrong)


def test_each_class_gets_its_own_line_in_the_model(weights, script):
    path, _ = weights("one", 1)
    before = Detector.load(path, device="cpu")
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    everything = {"conf": 0.0, "iou": 1.0, "max_det": 200}
    found = before.detect(image, **everything)
    assert set(found.labels.tolist()) == {0, 1}
    lines = [(0.5, 1.0), (2.0, -0.5)]
    expected = script.mended({7: found}, lines)[7]
    odds = np.log(found.scores / (1 - found.scores)) + np.array([1.0, -0.5])[found.labels]
    odds /= np.array([0.5, 2.0])[found.labels]
    np.testing.assert_allclose(expected.scores, 1 / (1 + np.exp(-odds)), rtol=1e-4)
    model, metadata = load_weights(path)
    script.mend_classes(model, lines)
    after = Detector(model, metadata, device="cpu").detect(image, **everything)
    for label in (0, 1):
        made = np.sort(after.scores[after.labels == label])[::-1]
        wanted = np.sort(expected.scores[expected.labels == label])[::-1]
        common = min(len(made), len(wanted), 20)
        assert common > 5
        np.testing.assert_allclose(made[:common], wanted[:common], rtol=1e-3)


def test_a_class_without_right_ones_takes_the_line_of_all(script, capsys):
    box = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    image = LabelledImage(
        id=1, path=Path("x.png"), width=64, height=64, boxes=box, labels=np.array([0, 0]),
        areas=np.full(2, 100.0), crowd=np.zeros(2, bool), known=np.ones(2, bool),
        exhaustive=np.ones(2, bool),
    )  # fmt: skip
    labelled = LabelledSet(
        images=(image,), categories=(Category(1, "ship"), Category(2, "vehicle")), fingerprint=""
    )
    boxes = np.concatenate([box, box + 30, box + 34])
    scores = np.array([0.9, 0.3, 0.4, 0.1, 0.5, 0.2], np.float32)
    found = {1: Detections(boxes, scores, np.array([0, 0, 0, 0, 1, 1]))}
    ship, vehicle = script.lines_of(labelled, found)
    assert ship != vehicle
    assert vehicle == script.platt_scaling(*script.outcomes(labelled, found))
    assert "vehicle: as all classes together" in capsys.readouterr().err
