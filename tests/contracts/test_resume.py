"""A run that was killed and resumed equals one that was not interrupted, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from rstinynet.errors import DataError
from rstinynet.model.weights import load_weights
from rstinynet.train import checkpoint, overrides
from rstinynet.train.job import Job, TrainingStoppedError
from rstinynet.train.loop import Trainer, resume, train
from rstinynet.train.recipe import short

START = """
import json, sys
from pathlib import Path
from rstinynet.train import overrides
from rstinynet.train.job import Job
from rstinynet.train.loop import train
import torch
torch.set_num_threads(int(sys.argv[4]))
recipe = overrides.from_values(json.loads(sys.argv[3]))
train(Job(model="yolo11n", data=Path(sys.argv[1]), out=Path(sys.argv[2]), recipe=recipe))
"""


@pytest.fixture(scope="module")
def recipe():
    """Four epochs of two batches, each batch saved."""
    return replace(
        short(),
        epochs=4,
        batch=2,
        augment=replace(short().augment, imgsz=64),
        warmup_iterations=3,
        nominal_batch=4,
        save_minutes=0.0,
        norm_batches=0,
        val_every=0,
    )


@pytest.fixture(scope="module")
def uninterrupted(tiles, tmp_path_factory, recipe):
    """Final weights of a run nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(Job(model="yolo11n", data=tiles, out=out, recipe=recipe))
    return load_weights(out / "weights" / "last.safetensors")[0].state_dict()


def assert_same(run, expected):
    found = load_weights(run / "weights" / "last.safetensors")[0].state_dict()
    assert found.keys() == expected.keys()
    different = [name for name in found if not torch.equal(found[name], expected[name])]
    assert different == []


def test_killed_run_resumes_to_the_same_weights(tiles, tmp_path, recipe, uninterrupted):
    import json

    run = tmp_path / "run"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            START,
            str(tiles),
            str(run),
            json.dumps(overrides.as_values(recipe)),
            str(torch.get_num_threads()),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        # The previous state exists from the second save on.
        if checkpoint.previous_path(run).exists():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < checkpoint.load(run)["clock"]["iteration"] < 8
    assert not (run / "metrics.json").exists()

    resume(run)
    assert_same(run, uninterrupted)


def test_run_asked_to_stop_saves_and_says_how_to_go_on(tiles, tmp_path, recipe, uninterrupted):
    run = tmp_path / "run"
    job = Job(model="yolo11n", data=tiles, out=run, recipe=replace(recipe, save_minutes=60.0))
    trainer = Trainer(job)
    trainer.stop.asked = True
    with pytest.raises(TrainingStoppedError, match=f"rstinynet train --resume {run}") as caught:
        trainer.run()
    assert caught.value.exit_code == 130
    metrics = resume(run)
    assert metrics["iterations"] == 8
    assert_same(run, uninterrupted)


def test_finished_run_resumes_to_its_metrics(tiles, tmp_path, recipe):
    run = tmp_path / "run"
    job = Job(model="yolo11n", data=tiles, out=run, recipe=replace(recipe, epochs=1))
    metrics = train(job)
    assert resume(run)["ap"] == metrics["ap"]


def test_other_data_is_refused(tiles, tmp_path, recipe):
    run = tmp_path / "run"
    train(Job(model="yolo11n", data=tiles, out=run, recipe=replace(recipe, epochs=1)))
    other = tmp_path / "other"
    other.mkdir()
    (other / "images").symlink_to(tiles / "images")
    (other / "val.json").write_bytes((tiles / "val.json").read_bytes())
    (other / "train.json").write_bytes((tiles / "train.json").read_bytes() + b"\n")
    with pytest.raises(DataError, match="is not the data"):
        resume(run, data=other)
