"""`rstinynet info`: its JSON, its list and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rstinynet.cli.main import run
from rstinynet.model.presets import NAMES, build
from rstinynet.model.weights import WeightsMetadata, read_metadata, save_weights


def info(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert run(["info", *arguments, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert isinstance(described, dict)
    return described


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of a model with two classes."""
    path = tmp_path_factory.mktemp("weights") / "two.safetensors"
    metadata = WeightsMetadata(model="yolo11n", names=("car", "ship"), category_ids=(6, 4))
    save_weights(path, build("yolo11n", 2), metadata, half=True)
    return path


def test_json_of_a_named_model(capsys: pytest.CaptureFixture[str]) -> None:
    described = info(capsys, "yolo11m", "--classes", "8", "--imgsz", "800")
    assert described == {
        "model": "yolo11m",
        "classes": 8,
        "imgsz": 800,
        "parameters": 20_059_176,
        "parameters_deployed": 20_036_200,
        "gflops": 106.036,
        "strides": [8, 16, 32],
    }


def test_classes_and_size_change_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    described = info(capsys, "yolo11m", "--classes", "80", "--imgsz", "640")
    assert described["parameters"] == 20_114_688
    assert isinstance(described["gflops"], float)
    assert 67 < described["gflops"] < 69


def test_a_weights_file_is_described_with_its_metadata(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = info(capsys, str(weights))
    assert described["classes"] == 2
    assert described["model"] == "yolo11n"
    metadata = described["metadata"]
    assert isinstance(metadata, dict)
    assert metadata["names"] == ["car", "ship"]
    assert metadata["category_ids"] == [6, 4]


def test_the_list_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert info(capsys)["models"] == list(NAMES)
    assert run(["info"]) == 0
    assert set(NAMES) <= set(capsys.readouterr().out.replace(",", " ").split())


def test_the_readable_form_has_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "paper-full-m"]) == 0
    out = capsys.readouterr().out
    assert "32,159,657" in out
    assert "4, 8, 16, 32" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["yolo11q"], 2, "did you mean"),
        (["yolo11n", "--imgsz", "700"], 2, "the nearest is 704"),
        (["yolo11n", "--imgsz", "0"], 2, "positive multiple of 32"),
        (["yolo11n", "--imgsz", "1000000000"], 2, "at most 65536 pixels"),
        (["yolo11n", "--classes", "0"], 2, "--classes must be 1 or more, not 0"),
        (["--classes", "3"], 2, "are of one model: name it"),
        (["--imgsz", "640", "--json"], 2, "are of one model: name it"),
        (["missing.safetensors"], 4, "no weights file at 'missing.safetensors'"),
        (["rs-tinynet-lite,rs-tinynet-n"], 2, "this takes one model, not 2"),
        (["a.safetensors,b.safetensors"], 4, "this takes one model, not 2"),
    ],
)
def test_refusals(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["info", *arguments]) == code
    assert said in capsys.readouterr().err


def test_a_pickle_is_refused_as_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(b"\x80\x04\x95")
    assert run(["info", str(path)]) == 4
    assert "not a safetensors file" in capsys.readouterr().err


def test_another_class_count_than_the_files_is_refused(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["info", str(weights), "--classes", "8"]) == 2
    assert "has 2 classes, not 8" in capsys.readouterr().err


def test_the_table_says_at_which_size_operations_are_counted(
    capsys: pytest.CaptureFixture[str], weights: Path
) -> None:
    assert run(["info", str(weights), "--imgsz", "320"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    rows = dict(line for line in lines if len(line) == 2)
    counted = info(capsys, str(weights), "--imgsz", "320")
    assert rows["gflops"].split() == ["at", "320", "px", str(counted["gflops"])]
    assert rows["imgsz"].strip() == str(read_metadata(weights).imgsz) != "320"
