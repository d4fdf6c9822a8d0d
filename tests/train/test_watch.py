"""A run leaves events, curves and pictures that can be read; what fails there ends nothing."""

from __future__ import annotations

import json
import logging
import sys
import types
from dataclasses import replace

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rstinynet.errors import UsageError
from rstinynet.train import watchers
from rstinynet.train.folder import git_state
from rstinynet.train.job import Job, TrainingStoppedError
from rstinynet.train.loop import Trainer, resume, train
from rstinynet.train.overrides import with_overrides
from rstinynet.train.progress import batch_line, done_line, duration, epoch_line
from rstinynet.train.recipe import short
from rstinynet.train.watch import Watch
from rstinynet.train.watchers import RunStart, named_watchers


@pytest.fixture(scope="module")
def job(synthetic):
    folder = synthetic(train=4, val=2, size=64)
    changes = {"imgsz": 64, "batch": 2, "epochs": 2, "norm_batches": 0, "val_every": 1}
    recipe = with_overrides(short(), changes | {"log_every": 1})
    return Job(model="yolo11n", data=folder, out=folder / "run", recipe=recipe)


@pytest.fixture(scope="module")
def run(job):
    """A run that was stopped after its third batch, and resumed."""
    trainer = Trainer(job)
    trainer.outcome.folder.begin(job.as_values(), trainer.outcome.inputs())
    learn = trainer.learner.learn

    def stopping(batch, **options):
        trainer.stop.asked = trainer.clock.iteration == 2
        return learn(batch, **options)

    trainer.learner.learn = stopping
    with pytest.raises(TrainingStoppedError):
        trainer.run()
    resume(job.out)
    return job.out


def events(run):
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def test_events_tell_the_run_in_order(run):
    told = events(run)
    begun = [event["iteration"] for event in told if event["event"] == "begin"]
    assert begun == [0, 3]
    ended = [event["metrics"] for event in told if event["event"] == "end"]
    assert ended[0] is None
    assert ended[1]["weights"] == "weights/best.safetensors"
    losses = {e["iteration"]: e["train/loss"] for e in told if "train/loss" in e}
    assert sorted(losses) == [1, 2, 3, 4]
    assert all(np.isfinite(list(losses.values())))
    validated = [event["iteration"] for event in told if "val/ap" in event]
    assert validated == [2, 4]


def test_tensorboard_reads_the_same_numbers_back(run):
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    told = {e["iteration"]: e["train/loss"] for e in events(run) if "train/loss" in e}
    read = {scalar.step: scalar.value for scalar in board.Scalars("train/loss")}
    assert read == pytest.approx(told, rel=1e-6)
    assert {"epoch/lr", "epoch/objects", "val/ap"} <= set(board.Tags()["scalars"])
    assert {"train_batch0", "val_predictions", "curves"} <= set(board.Tags()["images"])


def test_pictures_can_be_read_and_are_not_empty(run):
    for name in ("train_batch0", "train_batch1", "train_batch2", "val_predictions", "curves"):
        picture = cv2.imread(str(run / f"{name}.png"))
        assert min(picture.shape[:2]) > 64
        assert picture.std() > 5


def test_the_environment_names_code_data_and_seed(run, job):
    found = json.loads((run / "env.json").read_text())
    assert len(found["data"]["train"]) == len(found["data"]["val"]) == 64
    assert found["data"]["train"] != found["data"]["val"]
    assert found["seed"] == job.recipe.seed
    assert {"rstinynet", "torch", "python", "git", "device"} <= set(found)


def test_git_state_is_of_a_checkout_only(tmp_path):
    assert git_state(tmp_path / "src" / "rstinynet" / "train") is None
    assert git_state(tmp_path) is None


def test_watching_can_be_switched_off(job, tmp_path):
    quiet = replace(job.recipe, watch="none", pictures=False, epochs=1)
    train(replace(job, out=tmp_path / "run", recipe=quiet))
    assert not list((tmp_path / "run").glob("*.png"))
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert events(tmp_path / "run")[-1]["event"] == "end"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_watcher_that_is_not_installed_is_said_before_the_run(job, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    asked = replace(job, out=tmp_path / "run", recipe=replace(job.recipe, watch=name))
    with pytest.raises(UsageError, match=f"pip install {name}"):
        train(asked)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="did you mean 'wandb'"):
        named_watchers("wandbb")


class Recorder:
    """Stands for a package, a run in it, and all they are asked."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def called(*values, **named):
            self.calls.append((name, values, named))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

        return called


def tell(watcher, folder):
    watcher.begin(RunStart(folder=folder, settings={"augment": {"imgsz": 64}}, iteration=0))
    watcher.scalars(3, {"train/loss": 1.5})
    watcher.picture(3, "curves", folder / "curves.png")
    watcher.end({"ap": 0.25, "ap_vt": None, "per_class": {}})


def test_wandb_is_told_all_and_goes_on_under_one_id(tmp_path, monkeypatch):
    run, begun = Recorder(), []
    run.summary = {}
    fake = types.SimpleNamespace(
        init=lambda **named: begun.append(named) or run, Image=lambda path: ("image", path)
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        tell(named_watchers("wandb")[0], tmp_path)
    assert begun[0]["id"] == begun[1]["id"]
    assert begun[0]["config"] == {"augment": {"imgsz": 64}}
    assert run.calls[0] == ("log", ({"train/loss": 1.5},), {"step": 3})
    assert run.calls[2][0] == "finish"
    assert run.summary == {"ap": 0.25}


def test_mlflow_is_told_all_and_goes_on_under_one_id(tmp_path, monkeypatch):
    fake = Recorder()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    for _ in range(2):
        tell(named_watchers("mlflow")[0], tmp_path)
    named = [name for name, _, _ in fake.calls]
    once = ["log_metrics", "log_artifact", "log_metrics", "end_run"]
    assert named == ["start_run", "log_params", *once, "start_run", *once]
    assert fake.calls[1][1] == ({"augment.imgsz": 64},)
    assert fake.calls[6][2] == {"run_id": "abc"}
    assert fake.calls[4][1] == ({"final/ap": 0.25},)


class Plugin:
    told: list = []  # noqa: RUF012

    def begin(self, run):
        self.told.append(run.iteration)

    def scalars(self, iteration, values):
        raise ConnectionError("no network")

    def picture(self, iteration, name, path):
        self.told.append(name)

    def end(self, metrics):
        self.told.append(metrics)


def test_a_plugin_is_found_and_its_failure_ends_its_watching_only(tmp_path, monkeypatch, caplog):
    point = types.SimpleNamespace(name="mine", load=lambda: Plugin)
    monkeypatch.setattr(watchers, "entry_points", lambda *, group: [point])
    watch = Watch(tmp_path, names="mine", draw=False)
    with caplog.at_level(logging.WARNING), watch.running({}, iteration=7):
        watch.scalars(8, "train", {"loss": float("nan"), "box": 1.0})
        watch.scalars(9, "train", {"box": 2.0})
    assert Plugin.told == [7]
    assert len(caplog.records) == 1
    assert "no network" in caplog.text
    told = events(tmp_path)
    assert [event.get("train/box") for event in told] == [None, 1.0, 2.0, None]
    assert "train/loss" not in told[1]


def test_a_line_that_a_kill_tore_is_ended(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"event": "beg')
    with Watch(tmp_path, names="none").running({}, iteration=0):
        pass
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines[1:]] == ["begin", "end"]


def test_lines_have_rates_time_left_and_ap_by_size():
    told = {"loss": 2.0, "lr": 0.01, "images_per_second": 12.34}
    line = batch_line("epoch 1 batch 2/8", told, elapsed_s=90, done=0.25)
    assert (
        line
        == "epoch 1 batch 2/8 (25.0 %) loss 2.000 lr 1.00e-02 12.3 images/s 1.5 min, 4.5 min left"
    )
    row = {"epoch": 3, "loss": 1.0, "minutes": 80.0, "ap": 0.1234, "ap_vt": None}
    line = epoch_line(row, ("loss",), ("ap", "ap_vt"))
    assert line == "epoch 3: loss 1.000, val AP 12.3 AP_vt -, 1 h 20 min"
    assert epoch_line({"epoch": 1, "loss": 1.0, "minutes": 0.1}, ("loss",), ("ap",)).endswith("6 s")
    assert duration(float("nan")) == "?"


def test_the_last_line_has_ap_as_the_epochs_have_it():
    assert done_line({"ap": 0.51123}, "best") == "done: val AP 51.1, weights in best"
    assert done_line({"ap": None}, "best") == "done: val AP -, weights in best"
