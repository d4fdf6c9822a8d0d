"""benchmarks/switches.py: every row can be built, finished rows are kept, stopped ones go on."""

from __future__ import annotations

import json
import os
import signal

import pytest

from rstinynet.train import checkpoint
from rstinynet.train.learner import Learner


@pytest.fixture(scope="module")
def switches(load_script):
    return load_script("benchmarks/switches.py")


@pytest.fixture
def arguments(tiles, tmp_path):
    sizes = ["--imgsz", "64", "--epochs", "2", "--batch", "2", "--set", "norm_batches=0"]
    return ["--data", str(tiles), "--out", str(tmp_path), "--model", "rs-tinynet-n", *sizes]


def test_rows_differ_from_the_base_in_what_they_say_only(switches, arguments):
    options = switches.parse(arguments)
    base = switches.make_job("base", 0, options)
    assert base.recipe.loss == switches.named_recipe("tiny").loss
    assert len(options.rows) > 6
    for row in options.rows:
        chosen = switches.ROWS[row]
        job = switches.make_job(row, 0, options)
        assert job.model == base.model + chosen.suffix
        assert (job.recipe == base.recipe) == (not chosen.settings)
        assert switches.with_overrides(base.recipe, chosen.settings) == job.recipe


def test_finished_rows_are_kept_and_stopped_ones_go_on(
    switches, arguments, tmp_path, capsys, monkeypatch
):
    learn, steps = Learner.learn, []

    def stop_in_second_row(self, batch, **options):
        steps.append(batch.ids)
        if len(steps) == 4 + 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(self, batch, **options)

    rows = ["--rows", "base", "no-nwd"]
    monkeypatch.setattr(Learner, "learn", stop_in_second_row)
    assert switches.main([*arguments, *rows]) == 130
    monkeypatch.undo()
    assert checkpoint.last_path(tmp_path / "no-nwd" / "seed0").exists()
    finished = (tmp_path / "base" / "seed0" / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()

    assert switches.main([*arguments, *rows]) == 0
    assert (tmp_path / "base" / "seed0" / "metrics.json").stat().st_mtime_ns == finished
    printed = capsys.readouterr()
    assert "from batch 3" in printed.err
    assert printed.out == (tmp_path / "switches.md").read_text()
    lines = printed.out.splitlines()
    assert "2 epochs = 4 batches of 2" in lines[0]
    assert [line.split("|")[1].strip() for line in lines[4:]] == [
        switches.ROWS["base"].says,
        "- NWD",
    ]
    assert len({line.count("|") for line in lines[2:]}) == 1
    kept = json.loads((tmp_path / "switches.json").read_text())["rows"]
    assert [run["iterations"] for runs in kept.values() for run in runs] == [4, 4]

    other = [*arguments, "--batch", "4", *rows]
    assert switches.main(other) == 2
    assert "other settings" in capsys.readouterr().err


def test_rows_are_those_that_the_model_has(switches, arguments, capsys):
    def suffixed(model):
        rows = switches.parse([*arguments, "--model", model]).rows
        return [row for row in rows if switches.ROWS[row].suffix]

    assert suffixed("yolo11n") == []
    assert suffixed("rs-tinynet-n") == ["p2p4", "p3p5", "no-mdca", "pfdh", "narrow"]
    levels = ["p2p5", "p3p4", "p3p5"]
    assert suffixed("rs-tinynet-lite") == [*levels, "no-mdca", "no-pfdh", "torch-init"]
    assert switches.main([*arguments, "--model", "yolo11n", "--rows", "p3p4"]) == 2
    assert "yolo11n-p3p4" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        switches.main([*arguments, "--rows", "p6"])
