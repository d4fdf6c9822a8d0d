"""Every family at scale n, and ours at m, gives in both runtimes what it gives in torch."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import torch

from rstinynet.data.image import read_rgb
from rstinynet.export.check import compare, torch_output
from rstinynet.export.int8 import kept_in_float, quantise
from rstinynet.export.onnx_file import build_onnx, write_onnx
from rstinynet.export.openvino_file import to_openvino, write_openvino
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.model.presets import NAMES, build
from rstinynet.model.weights import load_weights
from rstinynet.runtime.onnx_backend import OnnxBackend
from rstinynet.runtime.openvino_backend import OpenvinoBackend

FAMILIES = [name for name in NAMES if name.endswith(("-n", "11n", "n-p2", "-lite"))]
FAMILIES.append("rs-tinynet-m")
SIDE = 96
"""Not a multiple of MDCA's grid at any level."""


def described(name):
    """A fresh model whose batch norms do something, and metadata for it."""
    torch.manual_seed(0)
    model = build(name, 3)
    for part, tensor in model.state_dict().items():
        if part.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif part.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return model, WeightsMetadata(model=name, names=("a", "b", "c"), category_ids=(1, 2, 3))


@pytest.mark.parametrize("name", FAMILIES)
def test_both_runtimes_equal_torch(name, tmp_path):
    model, metadata = described(name)
    made = build_onnx(model, metadata, imgsz=SIDE)
    # A batch that the graph was not recorded with.
    x = np.random.default_rng(0).random((3, 3, SIDE, SIDE), np.float32)
    wanted = torch_output(model.deployed(), x)

    write_onnx(tmp_path / "m.onnx", made)
    exported = OnnxBackend(tmp_path / "m.onnx", device="cpu")
    compare(wanted, exported.output(x), precision="float32", where="onnx")
    assert exported.side == SIDE

    write_openvino(tmp_path / "m.xml", to_openvino(made), half=False)
    compiled = OpenvinoBackend(tmp_path / "m.xml")
    compare(wanted, compiled.output(x), precision="float32", where="openvino")
    assert compiled.metadata == exported.metadata


def test_cells_of_one_size_are_pooled(tmp_path):
    model, metadata = described("rs-tinynet-n")
    side = 160
    made = build_onnx(model, metadata, imgsz=side)
    assert "AveragePool" in {node.op_type for node in made.graph.node}
    uneven = build_onnx(model, metadata, imgsz=SIDE)
    assert "AveragePool" not in {node.op_type for node in uneven.graph.node}
    x = np.random.default_rng(0).random((2, 3, side, side), np.float32)
    write_onnx(tmp_path / "m.onnx", made)
    exported = OnnxBackend(tmp_path / "m.onnx", device="cpu")
    wanted = torch_output(model.deployed(), x)
    compare(wanted, exported.output(x), precision="float32", where="onnx")


@pytest.mark.parametrize("name", ["yolo11n"])
def test_both_runtimes_are_near_torch_in_eight_bits(name, tmp_path):
    model, metadata = described(name)
    x = np.random.default_rng(0).random((3, 3, SIDE, SIDE), np.float32)
    with torch.no_grad():
        # Activations as batch norm leaves them, and scores that differ from anchor to anchor.
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = 1.0
        model.train()(torch.from_numpy(x))
        maps = model.eval()(torch.from_numpy(x)).main
        for branch, level in zip(model.head.classify, maps, strict=True):
            factor = 1.5 / level[:, 64:].std()
            branch[-1].weight.mul_(factor)
            branch[-1].bias.fill_(float(-2 - level[:, 64:].mean() * factor))
    made = build_onnx(model, metadata, imgsz=SIDE)
    wanted = torch_output(model.deployed(), x)
    spread = wanted[:, 4:].std()
    assert spread > 0.01
    keep = kept_in_float(model)

    write_onnx(tmp_path / "q.onnx", quantise(made, list(x[:, None]), keep=keep))
    exported = OnnxBackend(tmp_path / "q.onnx", device="cpu").output(x)
    write_openvino(
        tmp_path / "q.xml", quantise(to_openvino(made), list(x[:, None]), keep=keep), half=False
    )
    compiled = OpenvinoBackend(tmp_path / "q.xml").output(x)
    for got in (exported, compiled):
        apart = np.abs(wanted - got)
        assert 0 < apart[:, 4:].mean() < 0.4 * spread
        assert np.corrcoef(wanted[:, 4:].ravel(), got[:, 4:].ravel())[0, 1] > 0.9


# PFDH and the narrow layers of EfficientNet-Lite0 lose more to eight bits, without --accurate.
@pytest.mark.parametrize(("name", "least"), [("rs-tinynet-n", 0.98), ("rs-tinynet-lite", 0.85)])
def test_shipped_weights_score_the_sample_scene_in_eight_bits_as_in_torch(name, least, tmp_path):
    # Trained: random weights of these say nothing that eight bits could keep.
    model, metadata = load_weights(name)
    side = 160
    with resources.as_file(resources.files("rstinynet") / "samples" / "vegas_pan.tif") as scene:
        tiles = read_rgb(scene)[:1280, :1280].reshape(8, side, 8, side, 3)
    x = tiles.transpose(0, 2, 4, 1, 3).reshape(64, 3, side, side).astype(np.float32) / 255
    seen, others = x[::4], x[1::4]
    made = build_onnx(model, metadata, imgsz=side)
    wanted = torch_output(model.deployed(), seen)[:, 4:].ravel()
    assert (wanted > 0.25).sum() >= 10
    keep = kept_in_float(model)

    write_onnx(tmp_path / "q.onnx", quantise(made, list(others[:, None]), keep=keep))
    exported = OnnxBackend(tmp_path / "q.onnx", device="cpu").output(seen)
    eight = quantise(to_openvino(made), list(others[:, None]), keep=keep)
    write_openvino(tmp_path / "q.xml", eight, half=False)
    compiled = OpenvinoBackend(tmp_path / "q.xml").output(seen)
    for got in (exported[:, 4:].ravel(), compiled[:, 4:].ravel()):
        assert not np.array_equal(got, wanted)
        assert np.corrcoef(wanted, got)[0, 1] > least
