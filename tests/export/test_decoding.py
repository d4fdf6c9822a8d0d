"""Both forms of decoding in exported graphs: equal to torch, chosen by the logits, divisible."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from rstinynet.export.onnx_file import LOGIT_BOUND, build_onnx
from rstinynet.model.decode import decode
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.model.presets import build
from rstinynet.runtime.openvino_backend import _divided

SIDE = 64
METADATA = WeightsMetadata(
    model="yolo11n", names=("ship", "vehicle"), category_ids=(1, 2), imgsz=SIDE
)
FAST, SOFTMAX = {"Min", "Exp", "Conv"}, {"Softmax", "ReduceSum"}


def model_of(spread: float):
    """A fresh model, whose sides have biases of this standard deviation."""
    torch.manual_seed(0)
    model = build("yolo11n", 2).eval()
    with torch.no_grad():
        for branch in model.head.box:
            branch[-1].bias.normal_(0, spread)
    return model


def kinds(made):
    """Of the decoding's operations."""
    return {node.op_type for node in made.graph.node if node.name.startswith("decode/")}


def run(made, image):
    session = onnxruntime.InferenceSession(made.SerializeToString())
    return session.run(None, {"images": image})[0]


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random((2, 3, SIDE, SIDE), np.float32)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("spread", "there", "gone"), [(2, FAST, SOFTMAX), (90, SOFTMAX, FAST)])
def test_the_form_follows_the_logits_and_equals_torch(spread, there, gone, dynamic, image):
    model = model_of(spread)
    made = build_onnx(model, METADATA, imgsz=SIDE, dynamic=dynamic)
    assert there <= kinds(made)
    assert not gone & kinds(made)
    with torch.no_grad():
        maps = model(torch.from_numpy(image)).main
        boxes, scores = decode(maps, model.strides)
    largest = max(float(level[:, :64].abs().max()) for level in maps)
    assert (largest > LOGIT_BOUND) == (there is SOFTMAX)
    low, high = boxes.chunk(2, dim=2)
    wanted = torch.cat([(low + high) / 2, high - low, scores], dim=2).transpose(1, 2).numpy()
    np.testing.assert_allclose(run(made, image), wanted, atol=1e-3)


@pytest.mark.parametrize("bias", [-1e4, 1e4])
def test_logits_beyond_the_bound_give_finite_boxes(bias, image):
    made = build_onnx(model_of(2), METADATA, imgsz=SIDE)
    changed = 0
    for constant in made.graph.initializer:
        if constant.name.startswith("head.box.") and constant.dims == [64]:
            values = np.full(64, bias, np.float32)
            constant.CopyFrom(numpy_helper.from_array(values, constant.name))
            changed += 1
    assert changed >= 3
    assert np.isfinite(run(made, image)).all()


@pytest.mark.parametrize("nms", [False, True])
def test_openvino_tells_the_network_from_the_decoding(nms, image, tmp_path):
    openvino = pytest.importorskip("openvino")
    made = build_onnx(model_of(2), METADATA, imgsz=SIDE, nms=nms)
    path = tmp_path / "made.onnx"
    onnx.save(made, path)
    model = openvino.Core().read_model(path)
    whole = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([image])[0]
    network, decoding = _divided(openvino.Core().read_model(path), origin=str(path))
    names = {op.get_friendly_name() for op in network.get_ops()}
    assert not any(name.startswith("decode/") for name in names)
    assert len(network.outputs) == 6
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    maps = openvino.compile_model(network, "CPU", exact)([image])
    inputs = [*(maps[at] for at in range(6)), image][: len(decoding.inputs)]
    again = openvino.compile_model(decoding, "CPU", exact)(inputs)[0]
    np.testing.assert_allclose(again, whole, atol=1e-3)
