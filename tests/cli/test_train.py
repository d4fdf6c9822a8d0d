"""`rstinynet train` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rstinynet.cli.main import run
from rstinynet.train import loop
from rstinynet.train.recipe import paper


def test_trains_and_prints_json(synthetic, tmp_path, capsys):
    data = synthetic(train=2, val=2, size=64)
    out = tmp_path / "run"
    size = ["--epochs", "1", "--batch", "2", "--imgsz", "64"]
    options = ["--recipe", "short", "--device", "cpu", "--json", *size]
    code = run(["train", "--model", "yolo11n", "--data", str(data), "--out", str(out), *options])
    printed = capsys.readouterr()
    assert code == 0
    assert json.loads(printed.out)["epochs"] == 1
    assert "images" in printed.err
    assert run(["train", "--resume", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iterations"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "yolo11n"], 2, "needs --model and --data"),
        (["--resume", "nowhere"], 4, "--resume needs the folder of a run"),
        (["--resume", "run", "--epochs", "3"], 2, "leave out --epochs"),
        (["--resume", "run", "--set", "loss.topk=3"], 2, "leave out --set loss.topk ("),
        (["--model", "yolo11n", "--data", "nowhere", "--out", "run"], 3, "nowhere"),
        (
            ["--model", "yolo11n", "--data", "d", "--out", "run", "--set", "mosaic_porb=1"],
            2,
            "mosaic_prob",
        ),
        (["--model", "yolo11n", "--data", "d", "--out", "r", "--recipe", "shrot"], 2, "short"),
        (
            ["--model", "yolo11n", "--data", "d", "--imgsz", "64", "--set", "augment.imgsz=96"],
            2,
            "--imgsz 64 and --set augment.imgsz=96 differ: leave one out",
        ),
        (
            ["--resume", "run", "--workers", "1", "--set", "workers=2"],
            2,
            "--workers 1 and --set workers=2 differ",
        ),
    ],
)
def test_mistakes_are_answered(arguments, code, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["train", *arguments]) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_papers_experiment_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = []
    monkeypatch.setattr(loop, "train", jobs.append)
    line = ["train", "--model", "paper-full-m", "--data", "aitod.yaml"]
    assert run(line) == 0
    assert run([*line, "--recipe", "paper"]) == 0
    assert jobs[0] == jobs[1]
    assert jobs[0].recipe == paper()
    assert jobs[0].out == Path("runs/paper-full-m-paper")


def test_an_option_and_set_may_say_the_same(monkeypatch):
    jobs = []
    monkeypatch.setattr(loop, "train", jobs.append)
    given = ["--lr0", "0.001", "--set", "lr0=1e-3", "--set", "epochs=5", "--batch", "4"]
    assert run(["train", "--model", "yolo11n", "--data", "d", "--out", "r", *given]) == 0
    recipe = jobs[0].recipe
    assert (recipe.lr0, recipe.epochs, recipe.batch) == (0.001, 5, 4)


@pytest.mark.parametrize(("given", "device"), [([], None), (["--device", "cpu"], "cpu")])
def test_resume_leaves_the_device_unless_one_is_given(given, device, monkeypatch):
    asked = []
    monkeypatch.setattr(loop, "resume", lambda run, **options: asked.append(options["device"]))
    assert run(["train", "--resume", "somewhere", *given]) == 0
    assert asked == [device]


def test_a_set_without_a_box_is_refused(synthetic, tmp_path, capsys):
    data = synthetic(train=2, val=2, size=64)
    for split in ("train", "val"):
        content = json.loads((data / f"{split}.json").read_text())
        (data / f"{split}.json").write_text(json.dumps(content | {"annotations": []}))
    out = tmp_path / "run"
    assert run(["train", "--model", "yolo11n", "--data", str(data), "--out", str(out)]) == 3
    assert "not one box" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    results = tmp_path / "found.json"
    results.write_text("[]")
    assert run(["val", "--predictions", str(results), "--data", str(data)]) == 3
    assert "not one box" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "'gpu' is no kind of device"), ("cuda:7", "there is no device cuda:7 here")],
)
def test_a_device_that_is_not_there_is_named(
    device, message, synthetic, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    data = synthetic(train=2, val=2, size=64)
    out = tmp_path / "run"
    words = ["--model", "yolo11n", "--data", str(data), "--out", str(out)]
    assert run(["train", *words, "--device", device]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
