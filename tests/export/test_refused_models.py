"""`predict`, `val` and `benchmark` with files that they cannot run: what is wrong, and exit 5."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings

import cv2
import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import TensorProto, helper

from rstinynet.cli.main import run
from rstinynet.errors import ExportError
from rstinynet.model.metadata import METADATA_KEY, WeightsMetadata
from rstinynet.runtime.openvino_backend import OpenvinoBackend
from rstinynet.runtime.torch_export_backend import TorchExportBackend

SIDE = 64


def save(path, *, ours=True, dims=("batch", 3, SIDE, SIDE), kind=TensorProto.FLOAT, channels=6):
    """A valid ONNX file whose output is as many channels of noughts, with our metadata or not."""
    entry = helper.make_tensor_value_info("images", kind, list(dims))
    output = helper.make_tensor_value_info("output0", TensorProto.FLOAT, None)
    zeros = helper.make_tensor("zeros", TensorProto.FLOAT, [1, channels, 84], [0.0] * channels * 84)
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Mul", ["top", "zeros"], ["output0"]),
    ]
    graph = helper.make_graph(nodes, "other", [entry], [output], initializer=[zeros])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if ours:
        metadata = WeightsMetadata(
            model="yolo11n", names=("vehicle", "storage-tank"), category_ids=(1, 4)
        )
        helper.set_model_props(model, {METADATA_KEY: metadata.model_dump_json()})
    onnx.save(model, path)


@pytest.fixture(scope="module")
def data(synthetic):
    folder = synthetic(train=1, val=1, size=SIDE)
    return folder, next((folder / "images").iterdir())


KINDS = {
    "foreign": (lambda path: save(path, ours=False), "not exported by rstinynet"),
    "damaged": (
        lambda path: path.write_bytes(b"\x08\x09\x12 half a file"),
        "cannot load this file",
    ),
    "empty": (lambda path: path.write_bytes(b""), "cannot load this file"),
    "a picture": (
        lambda path: path.write_bytes(cv2.imencode(".png", np.zeros((9, 9)))[1].tobytes()),
        "cannot load this file",
    ),
    "flat": (lambda path: save(path, dims=("batch", 3 * SIDE)), "the input must be (B, 3, S, S)"),
    "four bands": (lambda path: save(path, dims=("batch", 4, SIDE, SIDE)), "the input must be"),
    "not square": (lambda path: save(path, dims=("batch", 3, 32, SIDE)), "the input must be"),
    "odd": (lambda path: save(path, dims=("batch", 3, 100, 100)), "a multiple of 32"),
    "bytes": (lambda path: save(path, kind=TensorProto.UINT8), "one input of float32"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["predict", "val", "benchmark"])
def test_files_that_are_not_ours(verb, kind, data, tmp_path, capsys):
    make, message = KINDS[kind]
    model = tmp_path / "x.onnx"
    make(model)
    folder, image = data
    arguments = {
        "predict": ["predict", image, "--model", model, "--out", tmp_path / "out"],
        "val": ["val", "--model", model, "--data", folder],
        "benchmark": ["benchmark", model, "--image", image, "--threads", "1"],
    }[verb]
    assert run([str(one) for one in arguments]) == 5
    told = " ".join(capsys.readouterr().err.split())
    assert message in told
    assert "x.onnx" in told
    assert "Traceback" not in told
    assert not list((tmp_path / "out").glob("*.json"))


@pytest.mark.parametrize("verb", ["predict", "val"])
def test_an_output_of_other_classes(verb, data, tmp_path, capsys):
    model = tmp_path / "x.onnx"
    save(model, channels=4 + 80)
    folder, image = data
    more = {
        "predict": ["predict", image, "--out", tmp_path / "out"],
        "val": ["val", "--data", folder],
    }
    assert run([str(one) for one in [*more[verb], "--model", model]]) == 5
    assert "for 1 images and 2 classes" in " ".join(capsys.readouterr().err.split())


def test_a_fixed_batch(data, tmp_path, capsys):
    model = tmp_path / "x.onnx"
    save(model, dims=(1, 3, SIDE, SIDE))
    image = tmp_path / "wide.png"
    cv2.imwrite(str(image), np.zeros((SIDE, 3 * SIDE, 3), np.uint8))
    arguments = ["predict", image, "--model", model, "--out", tmp_path / "out", "--batch", "2"]
    assert run([str(one) for one in [*arguments, "--tile", SIDE]]) == 5
    assert "cannot run this file on images (2, 3," in " ".join(capsys.readouterr().err.split())


def save_openvino(path, onnx_path):
    """The same for OpenVINO."""
    model = openvino.Core().read_model(str(onnx_path))
    for entry in onnx.load(onnx_path).metadata_props:
        model.set_rt_info(entry.value, entry.key)
    openvino.save_model(model, path, compress_to_fp16=False)


@pytest.mark.parametrize("kind", ["foreign", "flat", "four bands", "not square", "odd", "bytes"])
def test_openvino_files_that_are_not_ours(kind, tmp_path):
    make, message = KINDS[kind]
    make(tmp_path / "x.onnx")
    save_openvino(tmp_path / "x.xml", tmp_path / "x.onnx")
    with pytest.raises(ExportError, match=re.escape(message)):
        OpenvinoBackend(tmp_path / "x.xml")


def test_openvino_cannot_run_a_fixed_batch_on_two(tmp_path):
    save(tmp_path / "x.onnx", dims=(1, 3, SIDE, SIDE))
    save_openvino(tmp_path / "x.xml", tmp_path / "x.onnx")
    backend = OpenvinoBackend(tmp_path / "x.xml")
    with pytest.raises(ExportError, match=r"cannot run this file on images \(2, 3,"):
        backend.output(np.zeros((2, 3, SIDE, SIDE), np.float32))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_torch_export_files_that_are_not_ours(count, tmp_path):
    class Other(torch.nn.Module):
        def forward(self, *values):
            return torch.ones(1) + sum(values)

    program = torch.export.export(Other(), (torch.ones(1),) * count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, tmp_path / "x.pt2")
    with pytest.raises(ExportError, match="not exported by rstinynet"):
        TorchExportBackend(tmp_path / "x.pt2")


def test_the_program_ends_with_5(data, tmp_path):
    """As a shell sees it."""
    model = tmp_path / "x.onnx"
    save(model, ours=False)
    command = [sys.executable, "-m", "rstinynet.cli.main", "val", "--model", str(model)]
    done = subprocess.run(
        [*command, "--data", str(data[0])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5
    assert "not exported by rstinynet" in " ".join(done.stderr.split())
    assert done.stdout == ""
