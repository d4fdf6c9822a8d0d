"""`--threads`, `--providers`, `--batch` and `--device` of the verbs that run a model."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from threading import Barrier

import cv2
import numpy as np
import pytest

import rstinynet
from rstinynet.cli.main import run
from rstinynet.cli.running import runtime_options
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import ExportError, UsageError
from rstinynet.runtime.backend import RuntimeOptions


@pytest.fixture
def image(tmp_path):
    """Larger than the model's square, so that there are tiles to batch."""
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(4).integers(0, 255, (150, 170, 3), np.uint8)
    cv2.imwrite(str(path), pixels)
    return path


def counts(capsys, *arguments):
    assert run([str(one) for one in arguments]) == 0
    (record,) = json.loads(capsys.readouterr().out)["sources"]
    return record["counts"]


def test_predict_takes_them_and_finds_the_same(exported, image, tmp_path, capsys):
    common = ["predict", image, "--model", exported, "--json", "--format", "coco"]
    plain = counts(capsys, *common, "--out", tmp_path / "a")
    chosen = ["--threads", "1", "--providers", "cpu", "--batch", "3"]
    assert counts(capsys, *common, "--out", tmp_path / "b", *chosen) == plain
    assert sum(plain.values()) > 0


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2", ".safetensors"])
def test_threads_of_a_service_share_a_detector(suffix, weights, tmp_path):
    path = weights
    if suffix != weights.suffix:
        path = tmp_path / f"model{suffix}"
        kind = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch-export"}[suffix]
        assert run(["export", str(weights), "--format", kind, "--out", str(path)]) == 0
    detector, start = rstinynet.load(path, device="cpu"), Barrier(4)
    asked = np.random.default_rng(5).integers(0, 255, (4, 6, 96, 96, 3), np.uint8)
    alone = [detector.detect_batch(list(images)) for images in asked]

    def detect(images):
        start.wait()
        return [detector.detect_batch(list(images)) for _ in range(5)][-1]

    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(detect, asked))
    for wanted, found in zip(chain(*alone), chain(*together), strict=True):
        assert len(found) == len(wanted) > 0
        np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.01)


def test_they_reach_the_runtime(exported, image, tmp_path, monkeypatch):
    from rstinynet.scenes.detector import Detector

    seen = []
    load = Detector.load.__func__

    def spy(cls, path, *, device=None, options=None):
        detector = load(cls, path, device=device, options=options)
        seen.append((device, options, detector.batch))
        return detector

    monkeypatch.setattr(Detector, "load", classmethod(spy))
    how = ["--model", exported, "--threads", "1", "--providers", "cpu", "--batch", "2"]
    assert run([str(one) for one in ["predict", image, "--out", tmp_path / "out", *how]]) == 0
    make_synthetic(tmp_path / "d", images=1, size=96, seed=1).rename(tmp_path / "d" / "val.json")
    assert run([str(one) for one in ["val", "--data", tmp_path / "d", *how]]) == 0
    wanted = RuntimeOptions(threads=1, providers=("cpu",), batch=2)
    assert seen == [(None, wanted, 2)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "0"], "--threads must be at least 1"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--providers", "nonsense"], "ONNX Runtime has no nonsense here; it has"),
        (["--providers", ","], "must not be empty"),
        (["--device", "nonsense"], "ONNX Runtime has no nonsense here; it has"),
    ],
)
def test_values_without_sense(options, message, exported, image, tmp_path, capsys):
    arguments = ["predict", image, "--out", tmp_path, "--model", exported, *options]
    assert run([str(one) for one in arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_device_that_onnx_runtime_falls_back_from_is_refused(exported, monkeypatch):
    import onnxruntime

    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    # As where CUDA's part of ONNX Runtime is installed and its driver is not.
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(ExportError, match=r"fell back to cpu.*--providers cuda,cpu"),
    ):
        rstinynet.load(exported, device="cuda")
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(ExportError, match=r"not run on cuda here.*--providers cuda,cpu"),
    ):
        rstinynet.load(exported, options=RuntimeOptions(providers=("cuda",)))
    preferred = RuntimeOptions(providers=("cuda", "cpu"))
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        detector = rstinynet.load(exported, options=preferred)
    assert detector.backend.device == "cpu"


def test_a_provider_that_fails_does_not_give_way_to_another(exported, monkeypatch, capsys):
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    detector = rstinynet.load(exported)

    def fail(*_):
        raise state.EPFail("the device was lost")

    inner = detector.backend.session._sess

    class Failing:
        run = fail

        def __getattr__(self, name):
            return getattr(inner, name)

    monkeypatch.setattr(detector.backend.session, "_sess", Failing())
    x = np.zeros((1, 3, detector.backend.side, detector.backend.side), np.float32)
    with pytest.raises(ExportError, match="the device was lost"):
        detector.backend.output(x)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(detector.backend.session, "_sess", inner)
    assert np.isfinite(detector.backend.output(x)).all()


def test_providers_are_onnx_runtimes(weights, image, tmp_path, capsys):
    how = ["--model", weights, "--providers", "cpu"]
    assert run([str(one) for one in ["predict", image, "--out", tmp_path, *how]]) == 2
    assert "for torch give the device" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UsageError, match="--threads"):
        runtime_options(threads=0, providers=None, batch=None)


@pytest.mark.parametrize("module", ["onnxruntime", "openvino"])
def test_a_runtime_that_is_not_installed(module, exported, image, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    model = exported
    if module == "openvino":
        model = tmp_path / "model.xml"
        model.write_text("<net/>")
    assert run([str(one) for one in ["predict", image, "--out", tmp_path, "--model", model]]) == 5
    told = " ".join(capsys.readouterr().err.split())
    assert "it is not installed: pip install 'rs-tinynet[" in told


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_files_that_are_no_models(suffix, image, tmp_path, capsys):
    model = tmp_path / f"model{suffix}"
    for name in (model, model.with_suffix(".bin")):
        name.write_bytes(b"nothing that a runtime reads")
    assert run([str(one) for one in ["predict", image, "--out", tmp_path, "--model", model]]) == 5
    assert "cannot load this file" in " ".join(capsys.readouterr().err.split())
