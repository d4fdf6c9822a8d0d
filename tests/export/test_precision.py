"""`--precision` of the verbs that run a model, in each runtime."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from rstinynet.cli.main import run
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import UsageError
from rstinynet.model.presets import build
from rstinynet.runtime import openvino_backend
from rstinynet.runtime.backend import RuntimeOptions
from rstinynet.runtime.openvino_backend import OpenvinoBackend
from rstinynet.runtime.torch_backend import TorchBackend


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(4).integers(0, 255, (96, 96, 3), np.uint8))
    return path


@pytest.fixture(scope="module")
def openvino_file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "tiny.xml"
    assert run(["export", str(weights), "--format", "openvino", "--out", str(path)]) == 0
    return path


def scores(*arguments, out):
    """The status of `predict`, and the scores that it found."""
    status = run([str(one) for one in ("predict", *arguments, "--out", out, "--format", "coco")])
    (path,) = out.glob("*.json")
    return status, np.array([one["score"] for one in json.loads(path.read_text())])


def refused(capsys, *arguments):
    status = run([str(one) for one in arguments])
    return status, " ".join(capsys.readouterr().err.split())


def can_bfloat16(path):
    if path.suffix == ".safetensors":
        return True
    return "BF16" in openvino_backend._core("here").get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize("runtime", ["weights", "openvino_file"])
def test_bfloat16_moves_what_predict_finds_a_little(runtime, image, tmp_path, request, capsys):
    model = request.getfixturevalue(runtime)
    how = [image, "--model", model, "--device", "cpu"]
    status, exact = scores(*how, out=tmp_path / "exact")
    assert status == 0
    less = [*how, "--precision", "bfloat16"]
    if not can_bfloat16(model):
        assert refused(capsys, "predict", *less, "--out", tmp_path / "less")[0] == 2
        return
    status, short = scores(*less, out=tmp_path / "less")
    assert status == 0
    few = min(len(exact), len(short))
    assert abs(len(exact) - len(short)) <= 0.1 * len(exact)
    assert 0 < np.abs(exact[:few] - short[:few]).max() < 0.1


def test_val_takes_it_and_says_so(weights, exported, tmp_path, capsys):
    make_synthetic(tmp_path / "d", images=1, size=96, seed=1).rename(tmp_path / "d" / "val.json")

    def said(*model):
        how = ["val", "--data", tmp_path / "d", "--device", "cpu", "--json", "--model", *model]
        assert run([str(one) for one in how]) == 0
        return json.loads(capsys.readouterr().out)["settings"]["precision"]

    assert said(weights, "--precision", "bfloat16") == "bfloat16"
    # The file may hold float16 or eight bits.
    assert said(exported) is None


def test_a_torch_that_cannot_say_has_no_float16_on_a_processor(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())  # as torch without oneDNN
    with pytest.raises(UsageError, match="does not compute in float16"):
        TorchBackend(build("yolo11n", 2), device="cpu", options=RuntimeOptions(precision="float16"))


def test_what_a_runtime_cannot_do_is_told(weights, exported, image, tmp_path, capsys, monkeypatch):
    how = ["predict", image, "--out", tmp_path, "--device", "cpu"]
    status, told = refused(capsys, *how, "--model", exported, "--precision", "bfloat16")
    assert (status, "computes in what the file holds" in told) == (2, True)
    status, told = refused(capsys, *how, "--model", weights, "--precision", "int4")
    assert status == 2
    assert "--precision must be one of float32, bfloat16, float16, not 'int4'" in told
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False)
    status, told = refused(capsys, *how, "--model", weights, "--precision", "float16")
    assert (status, "does not compute in float16" in told) == (2, True)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_openvino_does_not_take_another_silently(
    device, openvino_file, image, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(openvino_backend._CAPABILITIES, "float16", "LACKING")
    how = ["predict", image, "--out", tmp_path, "--model", openvino_file, "--device", device]
    status, told = refused(capsys, *how, "--precision", "float16")
    assert status == 2
    assert "OpenVINO's device 'cpu' here has no float16; it has float32" in told


def test_torch_export_files_are_float32(image, tmp_path, capsys):
    path = tmp_path / "tiny.pt2"
    path.write_bytes(b"not read before the precision is")
    how = ["predict", image, "--out", tmp_path, "--model", path, "--precision", "bfloat16"]
    status, told = refused(capsys, *how)
    assert (status, "a .pt2 file is float32" in told) == (2, True)


def test_a_search_does_not_go_on_in_another_precision(openvino_file):
    exact = OpenvinoBackend(openvino_file)
    if can_bfloat16(openvino_file):
        short = OpenvinoBackend(openvino_file, options=RuntimeOptions(precision="bfloat16"))
        assert short.digest() != exact.digest()
    assert exact.digest() == OpenvinoBackend(openvino_file).digest()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_openvino_starts_as_many_threads_as_told(openvino_file, precision):
    if precision == "bfloat16" and not can_bfloat16(openvino_file):
        pytest.skip("the processor has no bfloat16")
    backend = OpenvinoBackend(openvino_file, options=RuntimeOptions(threads=1, precision=precision))
    assert backend.compiled.get_property("INFERENCE_NUM_THREADS") == 1
    if precision == "bfloat16":
        assert backend._decode.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.parametrize(
    ("there", "names"),
    [
        (["CPU", "GPU"], {"CPU": "CPU", "GPU": "GPU", "GPU.0": "GPU", "GPU.1": "", "NPU": ""}),
        (["CPU", "GPU.0", "GPU.1"], {"GPU": "GPU", "GPU.1": "GPU.1", "GPU.2": "", "AUTO": "AUTO"}),
    ],
)
def test_one_gpu_of_several_is_named_by_its_number(there, names):
    assert {name: openvino_backend._device_of(name, there) for name in names} == names
