"""`rstinynet benchmark`: rows for what is there, words for what is not."""

from __future__ import annotations

import copy
import importlib.util
import json
import types

import cv2
import numpy as np
import pytest
import torch

from rstinynet.cli.main import run
from rstinynet.data.image import read_rgb
from rstinynet.errors import UsageError
from rstinynet.model.decode import find
from rstinynet.model.presets import build
from rstinynet.model.weights import WeightsMetadata, save_weights
from rstinynet.runtime.backend import RuntimeOptions
from rstinynet.runtime.torch_backend import TorchBackend
from rstinynet.scenes.detector import Detector
from rstinynet.speed import subject
from rstinynet.speed.limits import Limits, measure_limits, traffic_gbytes
from rstinynet.speed.lively import CANDIDATES, CONF, enliven
from rstinynet.speed.run import _cases, in_turns, input_of, sample_image, summary
from rstinynet.speed.settings import SpeedSettings
from rstinynet.speed.subject import Timed

SIDE = 96


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, 2 * SIDE, 3), np.uint8)
    path = tmp_path_factory.mktemp("image") / "own.png"
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture(scope="module")
def lively(image):
    torch.manual_seed(0)
    model = build("yolo11n", 2)
    x = read_rgb(image)[:, :SIDE].transpose(2, 0, 1)[None].astype(np.float32) / 255
    enliven(model, x, candidates=40)
    return model, x


def report_of(capsys, *arguments):
    assert run(["benchmark", *map(str, arguments), "--seconds", "0.01", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_random_weights_have_as_many_candidates_as_asked(lively):
    model, x = lively
    with torch.inference_mode():
        maps = model.eval()(torch.from_numpy(x)).main
    [found] = find(maps, model.strides, conf=CONF)
    assert len(found) == 40
    widths = found.boxes[:, 2] - found.boxes[:, 0]
    assert 4 < np.median(widths) < 64


def test_rows_and_files_of_every_cpu_runtime(lively, image, tmp_path, capsys):
    model, _ = lively
    weights = tmp_path / "tiny.safetensors"
    described = WeightsMetadata(
        model="yolo11n", names=("a", "b"), category_ids=(1, 2), imgsz=SIDE, conf=CONF
    )
    save_weights(weights, model, described)
    wanted = ["torch", "onnx", "openvino", "openvino-bf16"]
    options = ["--imgsz", SIDE, "--image", image, "--threads", "1", "--runtimes", ",".join(wanted)]
    [table] = report_of(capsys, weights, *options)["tables"]
    assert [row["runtime"] for row in table["rows"]] == wanted
    assert (table["parameters"], table["threads"], table["batch"]) == (2582542, 1, 1)
    for row in table["rows"]:
        assert 0 < row["model_ms"] < row["whole_ms"]
        assert row["whole_ms_25"] <= row["whole_ms"] <= row["whole_ms_75"]
        assert row["images_s"] == pytest.approx(1000 / row["whole_ms"])
    objects = [row["objects"] for row in table["rows"]]
    assert objects[0] > 0
    assert objects[0] == objects[1] == objects[2]

    exported = tmp_path / "tiny.onnx"
    assert run(["export", str(weights), "--out", str(exported), "--imgsz", str(SIDE)]) == 0
    capsys.readouterr()
    [table] = report_of(capsys, exported, "--batch", "2", "--image", image)["tables"]
    assert [row["runtime"] for row in table["rows"]] == ["onnx"]
    assert (table["imgsz"], table["batch"], table["gflops"]) == (SIDE, 2, None)


def test_each_file_of_one_model_is_exported_itself(lively, image, tmp_path, capsys):
    model, _ = lively
    paths = []
    for name, conf in (("loud", CONF), ("still", 0.999)):
        described = WeightsMetadata(
            model="yolo11n", names=("a", "b"), category_ids=(1, 2), imgsz=SIDE, conf=conf
        )
        quiet = copy.deepcopy(model)
        if name == "still":
            for branch in quiet.head.classify:
                branch[-1].bias.data.fill_(-30.0)
        paths.append(tmp_path / f"{name}.safetensors")
        save_weights(paths[-1], quiet, described)
    options = ["--imgsz", SIDE, "--image", image, "--threads", "1", "--runtimes", "torch,onnx"]
    loud, still = report_of(capsys, *paths, *options)["tables"]
    assert [row["objects"] > 0 for row in loud["rows"]] == [True, True]
    assert [row["objects"] for row in still["rows"]] == [0, 0]
    assert [table["source"] for table in (loud, still)] == [str(path) for path in paths]


def test_a_model_that_is_not_there_ends_before_the_first_is_timed(lively, tmp_path, monkeypatch):
    model, _ = lively
    path = tmp_path / "tiny.safetensors"
    described = WeightsMetadata(model="yolo11n", names=("a", "b"), category_ids=(1, 2), imgsz=SIDE)
    save_weights(path, model, described)
    monkeypatch.setattr("rstinynet.speed.run._tables", lambda *args: pytest.fail("was timed"))
    assert run(["benchmark", str(path), str(tmp_path / "nowhere.safetensors")]) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["yolo11n", "tiny.onnx", "--runtimes", "torch"], "runs in onnx, not in the runtimes"),
        (["tiny.onnx", "--device", "cpu"], "--device cpu is torch's"),
        (["yolo11n", "--device", "cpu", "--runtimes", "onnx"], "--device cpu is torch's"),
        (["yolo11n", "--calibrate", "."], "--runtimes with int8 or int8-bf16"),
    ],
)
def test_settings_without_use_end_before_the_first_is_timed(
    options, words, tmp_path, monkeypatch, capsys
):
    backend = types.SimpleNamespace(side=64)
    described = WeightsMetadata(model="yolo11n", names=("a",), category_ids=(1,))
    monkeypatch.setattr("rstinynet.speed.run.open_model", lambda model: (backend, described))
    monkeypatch.setattr("rstinynet.speed.run._tables", lambda *args: pytest.fail("was timed"))
    assert run(["benchmark", *options, "--imgsz", "64"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_names_without_weights_are_timed_and_said_to_be_random(monkeypatch, capsys):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        subject, "find_spec", lambda name: None if name == "openvino" else there(name)
    )
    arguments = ["benchmark", "yolo11n", "--imgsz", "64", "--seconds", "0.01"]
    assert run([*arguments, "--runtimes", "torch,openvino"]) == 0
    shown = capsys.readouterr().out
    assert "random weights" in shown
    assert "left out: OpenVINO: not installed: pip install 'rs-tinynet[openvino]'" in shown


def test_random_weights_have_candidates_at_each_size(tmp_path):
    image = sample_image(tmp_path)
    settings = SpeedSettings(imgsz=(64, 128), threads=(1, 2))
    cases = list(_cases("yolo11n", settings, image))
    assert [(case.side, case.threads) for case in cases] == [(64, 1), (64, 2), (128, 1), (128, 2)]
    for case in cases[::2]:
        with torch.inference_mode():
            maps = case.model(torch.from_numpy(input_of(image, case.side))).main
        assert len(find(maps, case.model.strides, conf=CONF)[0]) == CANDIDATES


def test_images_to_calibrate_on_that_are_not_there(tmp_path, capsys):
    chosen = ["--runtimes", "int8", "--imgsz", "64", "--calibrate", str(tmp_path / "nowhere")]
    assert run(["benchmark", "yolo11n", *chosen]) == 3
    assert "nowhere has none" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--runtimes", "caffe"], "there is no runtime 'caffe'"),
        (["--imgsz", "100"], "multiple of 32 up to 8192 pixels, not 100"),
        (["--imgsz", "1000000000"], "not 1000000000"),
        (["--imgsz", "big"], "whole number"),
        (["--batch", "0"], "--batch must be 1 or more"),
        (["--batch", ""], "--batch is a whole number"),
        (["--threads", "1,1000000000"], "--threads must be at least 1"),
        (["--seconds", "0"], "--seconds must be over 0"),
    ],
)
def test_settings_that_make_no_sense(options, words, capsys):
    assert run(["benchmark", *options]) == 2
    assert words in capsys.readouterr().err


def test_rounds_take_turns_and_stop_with_the_budget():
    called = []

    def search(name):
        called.append(name)
        return Timed(2.0, 4.0, 3)

    times = in_turns({n: lambda n=n: search(n) for n in "ab"}, seconds=1e-9)
    assert called == ["a", "a", "b", "b"] * 4
    assert summary(times["a"], 2)["images_s"] == 500
    assert summary(times["a"], 2)["model_ms"] == 1.0


def test_limits_are_the_slower_of_arithmetic_and_memory():
    limits = Limits(gflops_s=100.0, gbytes_s=10.0)
    assert limits.best_ms(10, 0.1) == pytest.approx(100)
    assert limits.best_ms(1, 1) == pytest.approx(100)
    assert min(measure_limits("cpu", "float32")) > 0
    model = build("yolo11n", 8)
    small, large = (traffic_gbytes(model, side, "float32") for side in (64, 128))
    weights = 4e-9 * sum(p.numel() for p in model.deployed().parameters())
    assert large - weights == pytest.approx(4 * (small - weights))
    assert traffic_gbytes(model, 64, "float16") == pytest.approx(small / 2)


def test_an_image_of_one_row_is_seen(tmp_path):
    assert cv2.imwrite(str(tmp_path / "row.png"), np.zeros((1, 2000, 3), np.uint8))
    assert input_of(tmp_path / "row.png", 64).shape == (1, 3, 64, 64)


def test_sample_image_is_a_square(tmp_path):
    assert read_rgb(sample_image(tmp_path)).shape == (800, 800, 3)


def test_less_precision_moves_boxes_little_and_is_checked(lively):
    model, x = lively
    described = WeightsMetadata(model="yolo11n", names=("a", "b"), category_ids=(1, 2))
    pixels = np.ascontiguousarray((x[0].transpose(1, 2, 0) * 255).round().astype(np.uint8))
    options = RuntimeOptions(precision="bfloat16")
    short = Detector(TorchBackend(model, device="cpu", options=options), described)
    exact = Detector(TorchBackend(model, device="cpu"), described).detect(pixels, conf=0.5)
    found = short.detect(pixels, conf=0.3)
    apart = np.abs(exact.boxes[:, None] - found.boxes[None]).max(axis=2).min(axis=1)
    assert 0 < np.median(apart) < 1
    with pytest.raises(UsageError, match="precision must be one of"):
        RuntimeOptions(precision="int4")  # type: ignore[arg-type]
