"""Reading another tool's checkpoint: tensors come out, nothing runs."""

from __future__ import annotations

import sys
import types
import warnings

import pytest
import torch

from rstinynet.errors import WeightsError
from rstinynet.model.foreign import (
    read_checkpoint,
    translated,
    ultralytics_name,
)
from rstinynet.model.presets import build
from rstinynet.train.initial import initial_model


@pytest.fixture
def look_alike(tmp_path, monkeypatch):
    """A `.pt` of live objects of a module named as Ultralytics', which is gone when it is read."""

    def make(state, names=None):
        package = types.ModuleType("ultralytics")
        package.Net = type("Net", (torch.nn.Module,), {"__module__": "ultralytics"})
        monkeypatch.setitem(sys.modules, "ultralytics", package)
        net = package.Net()
        net.names = names
        for name, tensor in state.items():
            *path, last = name.split(".")
            module = net
            for part in path:
                if part not in module._modules:
                    module.add_module(part, package.Net())
                module = module._modules[part]
            module.register_buffer(last, tensor)
        torch.save({"epoch": 3, "ema": None, "model": net}, tmp_path / "w.pt")
        monkeypatch.delitem(sys.modules, "ultralytics")
        return tmp_path / "w.pt"

    return make


def random_state(name, classes):
    torch.manual_seed(1)
    state = build(name, classes).state_dict()
    return {
        ultralytics_name(n): torch.rand_like(t) if t.is_floating_point() else t
        for n, t in state.items()
    }


FIVE = ("airplane", "ship", "vehicle", "bridge", "dam")


def test_a_checkpoint_gives_every_tensor(look_alike):
    state = random_state("yolo11n", 5)
    model = build("yolo11n", 5)
    theirs = translated(model, read_checkpoint(look_alike(state)).tensors)
    assert theirs.keys() == model.state_dict().keys()
    for name, tensor in theirs.items():
        assert torch.equal(tensor, state[ultralytics_name(name)])


@pytest.mark.parametrize(
    ("told", "names"),
    [
        (dict(enumerate(FIVE)), FIVE),
        (list(FIVE), FIVE),
        ({1: "ship", 0: "airplane"}, ("airplane", "ship")),
        ({1: "ship", 2: "dam"}, ()),
        ({0: 5}, ()),
        (None, ()),
    ],
)
def test_a_checkpoint_tells_its_classes(look_alike, told, names):
    assert read_checkpoint(look_alike(random_state("yolo11n", 5), told)).names == names


@pytest.mark.parametrize("told", [dict(enumerate(FIVE)), None, {0: "vehicle"}])
def test_class_outputs_are_taken_by_name(look_alike, told):
    state = random_state("yolo11n", 5)
    path, names = str(look_alike(state, told)), ("vehicle", "x", "ship", "y", "z")
    fresh = initial_model("yolo11n", 5, seed=0).state_dict()
    model = initial_model("yolo11n", 5, seed=0, init=path, names=names).state_dict()
    for name, tensor in model.items():
        if not name.startswith("head.classify.") or ".4." not in name:
            assert torch.equal(tensor, state[ultralytics_name(name)])
            continue
        for row, own in enumerate(names):
            # Names that do not fit the outputs tell nothing of them.
            known = told is not None and len(told) == 5 and own in FIVE
            begun = fresh[name][row]
            expected = state[ultralytics_name(name)][FIVE.index(own)] if known else begun
            assert torch.equal(tensor[row], expected)


def test_names_are_unique():
    names = [ultralytics_name(n) for n in build("yolo11m", 5).state_dict()]
    assert len(set(names)) == len(names)


def test_another_scale_is_refused(look_alike):
    tensors = read_checkpoint(look_alike(random_state("yolo11n", 5))).tensors
    with pytest.raises(WeightsError, match="not of YOLO11s"):
        translated(build("yolo11s", 5), tensors)
    with pytest.raises(WeightsError, match="only"):
        translated(build("rs-tinynet-n", 5), tensors)


def test_code_in_a_checkpoint_never_runs(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            import os

            return (os.system, (f"touch {marker}",))

    torch.save({"model": Evil()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="not on the list of safe names"):
        read_checkpoint(tmp_path / "w.pt")
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_damaged_checkpoints(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "w.pt")


def test_damaged_archives_are_called_unreadable(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"model": {"model.0.conv.weight": torch.ones(2)}}, path)
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[: entry + 6] + b"\xff" + whole[entry + 7 :])  # version needed
    assert read_checkpoint(path).tensors  # torch's reader does not look at it
    path.write_bytes(whole[: entry + 46] + b"\xff" + whole[entry + 47 :])  # name
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        read_checkpoint(path)


def test_a_network_inside_itself_is_called_unreadable(tmp_path, monkeypatch):
    package = types.ModuleType("ultralytics")
    package.Net = type("Net", (torch.nn.Module,), {"__module__": "ultralytics"})
    monkeypatch.setitem(sys.modules, "ultralytics", package)
    net = package.Net()
    net._modules["again"] = net
    torch.save({"model": net}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize("key", ["ema", "model"])
def test_a_tensor_may_be_called_as_the_network_is(tmp_path, key):
    torch.save({key: torch.ones(2), "a": torch.ones(3)}, tmp_path / "w.pt")
    assert set(read_checkpoint(tmp_path / "w.pt").tensors) == {key, "a"}


def test_values_that_are_not_finite_are_refused(look_alike):
    state = random_state("yolo11n", 5)
    state["model.10.m.0.attn.qkv.bn.running_var"][0] = 1e6  # more than float16 holds
    path = look_alike({n: t.half() if t.is_floating_point() else t for n, t in state.items()})
    with pytest.raises(WeightsError, match=r"qkv\.bn\.running_var' has values .* not finite"):
        initial_model("yolo11n", 5, seed=0, init=str(path), names=FIVE)


def test_torchscript_is_refused_and_never_loaded(tmp_path, monkeypatch):
    path = tmp_path / "w.pt"
    # torch's own serialiser is deprecated in favour of export, and still writes such files.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Conv2d(3, 4, 1)), path)

    def loaded(*args, **kwargs):
        raise AssertionError("TorchScript was loaded")

    monkeypatch.setattr(torch.jit, "load", loaded)
    with pytest.raises(WeightsError, match="TorchScript"):
        read_checkpoint(path)


def test_training_starts_from_a_checkpoint(look_alike, caplog):
    state = random_state("yolo11n", 80)
    with caplog.at_level("INFO"):
        model = initial_model("yolo11n", 5, seed=0, init=str(look_alike(state)), names=FIVE)
    name = "backbone.trunk.downs.1.conv.weight"
    assert torch.equal(model.state_dict()[name], state[ultralytics_name(name)])
    assert "of the model's values come from" in caplog.text
    assert "classes by name: none; new classes: airplane, ship" in caplog.text
    with pytest.raises(WeightsError, match="only"):
        initial_model("rs-tinynet-n", 5, seed=0, init=str(look_alike(state)))


def test_a_device_is_inert_and_an_old_file_is_said_to_be_old(look_alike, tmp_path):
    path = tmp_path / "held.pt"
    tensors = {"model.0.conv.weight": torch.ones(2)}
    torch.save({"model": tensors, "device": torch.device("cuda:1")}, path)
    assert set(read_checkpoint(path).tensors) == set(tensors)
    torch.save({"model": tensors}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"torch 1\.6 or later"):
        read_checkpoint(tmp_path / "old.pt")
