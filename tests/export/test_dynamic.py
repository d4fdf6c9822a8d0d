"""Files of any height and width, and how they are run."""

from __future__ import annotations

import json

import cv2
import numpy as np
import onnx
import pytest

import rstinynet
from rstinynet.cli.main import run
from rstinynet.export.check import compare, torch_output
from rstinynet.export.onnx_file import build_onnx, write_onnx
from rstinynet.export.openvino_file import to_openvino, write_openvino
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.model.presets import build
from rstinynet.model.weights import load_weights
from rstinynet.runtime import openvino_backend
from rstinynet.runtime.backend import RuntimeOptions
from rstinynet.runtime.onnx_backend import OnnxBackend
from rstinynet.runtime.openvino_backend import OpenvinoBackend

SIDE = 96


@pytest.fixture(scope="module")
def dynamic(weights, tmp_path_factory):
    """A file of any size for each runtime, by its suffix."""
    folder = tmp_path_factory.mktemp("dynamic")
    for form, suffix in (("onnx", ".onnx"), ("openvino", ".xml")):
        out = ["--out", str(folder / f"tiny{suffix}")]
        assert run(["export", str(weights), "--format", form, "--dynamic", *out]) == 0
    return folder


def same(first, second):
    assert len(first) == len(second) > 0
    np.testing.assert_allclose(first.boxes, second.boxes, atol=0.05)
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-3)


@pytest.mark.parametrize("name", ["rs-tinynet-n", "rs-tinynet-lite", "paper-full-n"])
def test_every_part_takes_any_size(name, tmp_path):
    """MDCA's cells, ARB's and PFDH's resizing, attention's views, the grid of the anchors."""
    model = build(name, 2)
    metadata = WeightsMetadata(model=name, names=("a", "b"), category_ids=(1, 2))
    made = build_onnx(model, metadata, imgsz=SIDE, dynamic=True)
    write_onnx(tmp_path / "m.onnx", made)
    write_openvino(tmp_path / "m.xml", to_openvino(made), half=False)
    runtimes = [OnnxBackend(tmp_path / "m.onnx", device="cpu"), OpenvinoBackend(tmp_path / "m.xml")]
    fused = model.deployed()
    # One smaller than any that it was recorded with, and one with a batch.
    for shape in ((1, 3, 32, 64), (2, 3, 160, 96)):
        x = np.random.default_rng(0).random(shape, np.float32)
        wanted = torch_output(fused, x)
        for runtime in runtimes:
            assert runtime.side is None
            compare(wanted, runtime.output(x), precision="float32", where=str(runtime.files[0]))


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("size", [(40, 90), (130, 70)])
def test_an_image_is_padded_to_the_next_32_only(weights, dynamic, suffix, size, monkeypatch):
    image = np.random.default_rng(1).integers(0, 255, (*size, 3), np.uint8)
    detector = rstinynet.load(dynamic / f"tiny{suffix}")
    seen = []
    output = detector.backend.output
    monkeypatch.setattr(detector.backend, "output", lambda x: seen.append(x.shape) or output(x))
    same(rstinynet.load(weights, device="cpu").detect(image), detector.detect(image))
    assert seen == [(1, 3, *(-(-side // 32) * 32 for side in size))]


def test_its_report_says_what_was_compared(dynamic):
    report = json.loads((dynamic / "tiny.onnx.export.json").read_text())
    assert report["dynamic"]
    assert {"96 x 32 px", "random values, 32 x 128 px"} < set(report["compared"])


def test_deepness_is_told_nothing(dynamic):
    made = onnx.load(dynamic / "tiny.onnx")
    keys = {entry.key for entry in made.metadata_props}
    assert "rstinynet" in keys
    assert "model_type" not in keys
    shapes = [
        [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim]
        for one in (made.graph.input[0], made.graph.output[0])
    ]
    assert shapes == [["batch", 3, "height", "width"], ["batch", 6, "anchors"]]


def test_scenes_and_data_sets(weights, dynamic, synthetic, tmp_path, capsys):
    """Tiles of the size that the file names, the last of a row narrower; and `val`."""
    pixels = np.random.default_rng(4).integers(0, 255, (150, 170, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "scene.png"), pixels)
    data = synthetic(train=1, val=2, size=80)
    counts, scores = [], []
    for model in (weights, dynamic / "tiny.onnx", dynamic / "tiny.xml"):
        how = ["--model", str(model), "--json"]
        out = ["--format", "coco", "--out", str(tmp_path / model.suffix[1:])]
        assert run(["predict", str(tmp_path / "scene.png"), *how, *out]) == 0
        counts.append(json.loads(capsys.readouterr().out)["sources"][0]["counts"])
        assert run(["val", "--data", str(data), *how]) == 0
        scores.append(json.loads(capsys.readouterr().out)["ap"])
    assert counts[0] == counts[1] == counts[2]
    assert scores == pytest.approx(scores[:1] * 3, abs=1e-4)


def test_with_nms_inside(weights, tmp_path):
    path = tmp_path / "nms.onnx"
    assert run(["export", str(weights), "--nms", "--dynamic", "--out", str(path)]) == 0
    detector, ours = rstinynet.load(path), rstinynet.load(weights, device="cpu")
    for size in ((64, 128), (96, 32)):
        image = np.random.default_rng(1).integers(0, 255, (*size, 3), np.uint8)
        same(ours.detect(image), detector.detect(image))


@pytest.mark.parametrize("nms", [False, True])
def test_openvino_decodes_in_float32_what_is_computed_in_less(nms, weights, tmp_path, monkeypatch):
    # A processor without bfloat16 computes both in float32.
    monkeypatch.setattr(openvino_backend, "_check_precision", lambda *_: None)
    path = tmp_path / "tiny.xml"
    made = build_onnx(*load_weights(weights), imgsz=SIDE, dynamic=True, nms=nms)
    write_openvino(path, to_openvino(made), half=False)
    exact = OpenvinoBackend(path)
    less = OpenvinoBackend(path, options=RuntimeOptions(precision="bfloat16"))
    assert less.digest() != exact.digest()
    for size in ((64, 128), (96, 32)):
        images = np.random.default_rng(1).integers(0, 255, (1, *size, 3), np.uint8)
        (wanted,), (got,) = (one.find(images, conf=0.1) for one in (exact, less))
        assert len(wanted) > 0
        assert abs(len(wanted) - len(got)) <= 0.1 * len(wanted)
        np.testing.assert_allclose(got.scores[0], wanted.scores[0], atol=0.05)


def test_torch_export_has_one_size(weights, capsys):
    assert run(["export", str(weights), "--dynamic", "--format", "torch-export"]) == 2
    assert "leave out --dynamic" in " ".join(capsys.readouterr().err.split())
