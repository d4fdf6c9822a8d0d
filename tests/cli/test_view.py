"""`rstinynet view` as a user meets it."""

from __future__ import annotations

import json

import cv2
import pytest

from rstinynet.cli.main import run
from rstinynet.cli.view import _named
from rstinynet.data.synthetic import make_synthetic
from rstinynet.model.presets import build
from rstinynet.model.weights import WeightsMetadata, save_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    truth = json.loads(make_synthetic(folder, images=3, size=96, split="val").read_text())
    keys = ("image_id", "category_id", "bbox")
    found = [{key: each[key] for key in keys} | {"score": 0.5} for each in truth["annotations"]]
    (folder / "dets.json").write_text(json.dumps(found))
    (folder / "fewer.json").write_text(json.dumps(found[1:]))
    return folder


def test_two_results_files_in_columns(data, tmp_path, capsys):
    out = tmp_path / "out"
    files = [
        "--predictions",
        f"all={data / 'dets.json'}",
        "--predictions",
        str(data / "fewer.json"),
    ]
    assert run(["view", "--data", str(data), *files, "--out", str(out), "--count", "2"]) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == [str(out / "val_0000_1.png"), str(out / "val_0001_2.png")]
    assert "all 4 hit, 0 missed, 0 false; fewer 3 hit, 1 missed, 0 false" in printed.err
    picture = cv2.imread(str(out / "val_0000_1.png"))
    assert picture.shape[1] == 3 * 512 + 2 * 8


def test_a_path_may_have_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lr=0.1" / "dets.json"
    path.parent.mkdir()
    assert _named("lr=0.1/dets.json") == ("lr", "0.1/dets.json")
    path.write_text("[]")
    assert _named("lr=0.1/dets.json") == ("dets", "lr=0.1/dets.json")
    assert _named("a=lr=0.1/dets.json") == ("a", "lr=0.1/dets.json")
    assert _named(f"a={'x' * 5000}") == ("a", "x" * 5000)


def test_a_model_on_named_images(data, tmp_path, capsys):
    weights = tmp_path / "run" / "weights" / "best.safetensors"
    metadata = WeightsMetadata(
        model="yolo11n", names=("vehicle", "storage tank"), category_ids=(1, 2), imgsz=64
    )
    save_weights(weights, build("yolo11n", 2), metadata)
    out = tmp_path / "out"
    arguments = ["--model", str(weights), "--images", "3", "--device", "cpu", "--out", str(out)]
    assert run(["view", "--data", str(data), *arguments]) == 0
    assert [path.name for path in out.iterdir()] == ["val_0002_3.png"]
    assert "image 3: run 0 hit, 4 missed, 0 false" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "at least one --predictions"),
        (["--predictions", "x", "--conf", "1.5"], 2, "--conf must be"),
        (["--predictions", "x", "--count", "0"], 2, "--count must be"),
        (["--predictions", "x", "--device", "cpu"], 2, "--device cpu is for a --model"),
        (["--predictions", "x", "--count", "2", "--images", "1"], 2, "--count 2 is for pictures"),
        (["--predictions", "x", "--images", "1,b"], 2, "image ids such as"),
        (["--predictions", "x", "--images", "77"], 2, "77"),
        (["--predictions", "nowhere.json"], 3, "nowhere.json"),
        (["--predictions", "x", "--split", "test"], 3, "no split 'test'"),
        (["--model", "nothing"], 4, "nothing"),
        (["--predictions", "nowhere.json", "--out", __file__], 2, "not a folder"),
        (["--predictions", "nowhere.json", "--out", f"{__file__}/x"], 2, "not a folder"),
    ],
)
def test_mistakes_are_answered(data, arguments, code, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["view", "--data", str(data), "--out", str(out), *arguments]) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_columns_of_one_name_are_refused(data, tmp_path, capsys):
    both = [f"--predictions=a={data / name}" for name in ("dets.json", "fewer.json")]
    assert run(["view", "--data", str(data), "--out", str(tmp_path / "out"), *both]) == 2
    assert "names that differ" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_column_of_several_models_has_the_names_of_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = "runs/one/weights/best.safetensors,runs/two/weights/last.safetensors"
    assert _named(runs) == ("one,two", runs)
    assert _named(f"both={runs}") == ("both", runs)
    (tmp_path / "a,b.safetensors").touch()
    assert _named("a,b.safetensors") == ("a,b", "a,b.safetensors")
