"""What a model starts from."""

from __future__ import annotations

import pytest
import torch

from rstinynet.data.folder import open_split
from rstinynet.data.synthetic import make_synthetic
from rstinynet.model.lite0 import Lite0Trunk, imagenet_state, load_imagenet
from rstinynet.model.presets import build
from rstinynet.model.weights import WeightsMetadata, load_weights, save_weights
from rstinynet.train.initial import copy_fitting, initial_model
from rstinynet.train.job import Job
from rstinynet.train.loop import Trainer
from rstinynet.train.overrides import with_overrides
from rstinynet.train.recipe import short


def test_a_trunk_that_other_weights_do_not_fill_begins_from_imagenet():
    model = initial_model("rs-tinynet-lite", 4, seed=0, init="rs-tinynet-n")
    trunk = Lite0Trunk()
    load_imagenet(trunk, imagenet_state())
    for name, tensor in trunk.state_dict().items():
        torch.testing.assert_close(model.backbone.trunk.state_dict()[name], tensor)


def test_a_trunk_that_is_given_whole_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr("rstinynet.train.initial.imagenet_state", lambda: 1 / 0, raising=True)
    model = initial_model("rs-tinynet-lite", 4, seed=0, init="rs-tinynet-lite")
    drawn = initial_model("rs-tinynet-lite", 4, seed=1, init="rs-tinynet-lite")
    for name, tensor in model.backbone.trunk.state_dict().items():
        torch.testing.assert_close(drawn.backbone.trunk.state_dict()[name], tensor)


THEIRS = ("airplane", "ship", "vehicle")


def write_weights(path, names):
    torch.manual_seed(7)
    model = build("yolo11n", len(names))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ids = tuple(range(len(names)))
    save_weights(path, model, WeightsMetadata(model="yolo11n", names=names, category_ids=ids))
    return path


@pytest.fixture
def weights(tmp_path):
    """A weights file of three classes."""
    return write_weights(tmp_path / "w.safetensors", THEIRS)


def last(model, level=0):
    conv = model.head.classify[level][-1]
    return conv.weight, conv.bias


def test_the_same_classes_in_the_same_order_give_every_value(weights):
    model = build("yolo11n", 3)
    copied = copy_fitting(model, weights, names=THEIRS)
    expected, _ = load_weights(weights)
    state = model.state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(state[name], tensor)
    assert copied == sum(tensor.numel() for tensor in state.values())


@pytest.mark.parametrize(
    "names",
    [("vehicle", "airplane", "ship"), ("bridge", "vehicle", "dam"), ("ship", "x", "y", "vehicle")],
)
def test_outputs_of_classes_are_copied_by_name_and_others_stay_at_their_prior(
    weights, names, caplog
):
    theirs = initial_model("yolo11n", 3, seed=0, init=weights, names=THEIRS)
    fresh = initial_model("yolo11n", len(names), seed=0)
    with caplog.at_level("INFO"):
        model = initial_model("yolo11n", len(names), seed=0, init=weights, names=names)
    for level in range(3):
        for ours, begun, source in zip(
            last(model, level), last(fresh, level), last(theirs, level), strict=True
        ):
            for row, name in enumerate(names):
                expected = source[THEIRS.index(name)] if name in THEIRS else begun[row]
                assert torch.equal(ours[row], expected)
    known = ", ".join(name for name in names if name in THEIRS)
    new = ", ".join(name for name in names if name not in THEIRS) or "none"
    assert f"classes by name: {known}; new classes: {new}" in caplog.text
    # What is before the last convolution has no class of its own.
    first = "head.classify.0.0.conv.weight"
    assert torch.equal(model.state_dict()[first], theirs.state_dict()[first])


def test_without_a_known_class_all_are_new(weights, caplog):
    fresh = initial_model("yolo11n", 2, seed=0)
    with caplog.at_level("INFO"):
        model = initial_model("yolo11n", 2, seed=0, init=weights, names=("bridge", "dam"))
    for ours, begun in zip(last(model), last(fresh), strict=True):
        assert torch.equal(ours, begun)
    assert "by name: none; new classes: bridge, dam" in caplog.text


def test_class_outputs_of_another_width_are_new(weights, caplog):
    fresh = initial_model("yolo11s", 3, seed=0)
    with caplog.at_level("INFO"):
        model = initial_model("yolo11s", 3, seed=0, init=weights, names=THEIRS)
    assert torch.equal(last(model)[0], last(fresh)[0])
    assert "by name: none; new classes: airplane, ship, vehicle" in caplog.text


def test_a_run_tells_the_classes_of_its_data_by_name(tmp_path):
    make_synthetic(tmp_path / "data", images=2, size=64)
    make_synthetic(tmp_path / "data", images=1, size=64, split="val")
    names = open_split(tmp_path / "data", "train").names
    init = write_weights(tmp_path / "w.safetensors", names[::-1])
    recipe = with_overrides(short(), {"imgsz": 64, "batch": 2, "epochs": 1})
    job = Job(
        model="yolo11n", data=tmp_path / "data", out=tmp_path / "run", recipe=recipe, init=str(init)
    )
    theirs, _ = load_weights(init)
    for ours, source in zip(last(Trainer(job).learner.model), last(theirs), strict=True):
        assert torch.equal(ours, source.flip(0))
