"""Several processes train as one does, and none of them hangs."""

from __future__ import annotations

import csv
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import RSTinyNetError, UsageError
from rstinynet.train import checkpoint, overrides, ranks
from rstinynet.train.batches import Batches
from rstinynet.train.job import Job, TrainingStoppedError
from rstinynet.train.loop import Trainer, resume, train
from rstinynet.train.ranks import Ranks, placed
from rstinynet.train.recipe import short

TIMEOUT_S = 600
"""Only a hang takes so long, however busy the machine."""

WORK = Path(__file__).with_name("shared_work.py")

START = """
import json, os, runpy, sys, warnings
from pathlib import Path
warnings.simplefilter("error")
import torch
torch.set_num_threads(1)
from rstinynet.errors import RSTinyNetError
from rstinynet.train import overrides
from rstinynet.train.job import Job
from rstinynet.train.loop import resume, train
from rstinynet.train.ranks import Ranks
jobs = json.loads(sys.argv[1])
if len(jobs) > 1:  # one meeting for all of them
    torch.distributed.init_process_group("gloo")
try:
    for arguments in jobs:
        if arguments["resume"]:
            resume(Path(arguments["out"]))
        elif arguments["model"] == "work":
            ranks = Ranks(int(os.environ["RANK"]), 2)
            work = runpy.run_path(arguments["out"])
            parts = ("steps", "scores", "averages")
            found = [work[part](arguments["data"], ranks) for part in parts]
            if ranks.leads:
                torch.save(found, sys.argv[2])
        else:
            recipe = overrides.from_values(arguments["recipe"])
            data, out = Path(arguments["data"]), Path(arguments["out"])
            train(Job(model=arguments["model"], data=data, out=out, recipe=recipe))
except RSTinyNetError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start(jobs, *, found="", world=2):
    """The processes of a run, or of several after one another; work's results go to `found`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", START, json.dumps(jobs), str(found)],
            env=os.environ
            | place
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
            | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def finished(processes):
    """Exit codes and messages; all are ended when one does not come to its end in time."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and any(each.poll() is None for each in processes):
        time.sleep(0.05)
    hung = [each.poll() is None for each in processes]
    for process in processes:
        process.kill()
    messages = [process.communicate()[1] for process in processes]
    assert not any(hung), messages
    return [process.returncode for process in processes], messages


def described(data, out, recipe, *, model="yolo11n", resume=False):
    return {
        "data": str(data),
        "out": str(out),
        "model": model,
        "recipe": overrides.as_values(recipe),
        "resume": resume,
    }


def rows(run):
    with (run / "results.csv").open() as file:
        return [
            {key: float(value) for key, value in row.items() if value and key != "minutes"}
            for row in csv.DictReader(file)
        ]


def assert_alike(run, other):
    """The same rows and losses; of the first epoch to 1e-5, after which float32's rounding, which
    batch norms of a few pixels magnify, has gone through updates."""
    assert len(rows(run)) == len(rows(other)) == 2
    for one, two, rel in zip(rows(run), rows(other), (1e-5, 1e-3), strict=True):
        assert one == pytest.approx(two, rel=rel, abs=1e-6)
    assert (run / "weights" / "best.safetensors").exists()
    metrics = [json.loads((each / "metrics.json").read_text()) for each in (run, other)]
    assert metrics[0].keys() == metrics[1].keys()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eleven images in batches of five: shares of two and three, one image left over, five to
    validate; and no box at all on most, so that a process's share can have none."""
    folder = tmp_path_factory.mktemp("data")
    make_synthetic(folder, images=11, size=64)
    make_synthetic(folder, images=5, size=64, split="val")
    content = json.loads((folder / "train.json").read_text())
    kept = [each for each in content["annotations"] if each["image_id"] in (3, 7, 8)]
    (folder / "train.json").write_text(json.dumps(content | {"annotations": kept}))
    return folder


@pytest.fixture(scope="module")
def recipe():
    return overrides.with_overrides(
        short(),
        {
            "imgsz": 64,
            "batch": 5,
            "epochs": 2,
            "warmup_iterations": 3,
            "nominal_batch": 10,
            # Adam divides by the gradient: where that is all rounding, so is its step.
            "optimizer": "sgd",
            # In bfloat16 the rounding is seen.
            "amp": False,
            "lr0": 1e-3,
            "norm_batches": 3,
            "val_every": 1,
            "val_images": 3,
            "mosaic_prob": 0.2,
            "save_minutes": 0.0,
        },
    )


@pytest.fixture(scope="module")
def both(data, recipe, tmp_path_factory):
    """A folder with the runs `alone` and `together`, `frozen` and `resumed` of two processes."""
    folder = tmp_path_factory.mktemp("runs")
    train(Job(model="yolo11n", data=data, out=folder / "alone", recipe=recipe))
    trainer = Trainer(Job(model="yolo11n", data=data, out=folder / "resumed", recipe=recipe))
    trainer.stop.asked = True
    with pytest.raises(TrainingStoppedError):
        trainer.run()
    # Parts of the backbone are held, then released; norms stay each process's own; of PGI's
    # branch some parameters have no gradient.
    held = replace(
        recipe, epochs=1, freeze_backbone_epochs=0.5, sync_norms=False, norm_batches=1, val_every=0
    )
    jobs = [
        described(data, WORK, recipe, model="work"),
        described(data, folder / "together", recipe),
        described(data, folder / "resumed", recipe, resume=True),
        described(data, folder / "frozen", held, model="rs-tinynet-n"),
    ]
    codes, messages = finished(start(jobs, found=folder / "found.pt"))
    assert codes == [0, 0], messages
    return folder, messages


def test_two_processes_have_the_losses_and_weights_of_one(both, data):
    (losses, state), *_ = torch.load(both[0] / "found.pt")
    expected, weights = runpy.run_path(str(WORK))["steps"](data, Ranks())
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert max(box for _, box, *_ in expected) > 0
    for name, value in weights.items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_two_processes_measure_what_one_does(both, data):
    _, measured, _ = torch.load(both[0] / "found.pt")
    assert measured == runpy.run_path(str(WORK))["scores"](data, Ranks())
    assert 0 < measured["ap"] < 1
    assert measured["images"] == 5


def test_norms_of_their_own_leave_one_averaged_model(both):
    *_, (lead, other) = torch.load(both[0] / "found.pt")
    torch.testing.assert_close(other, lead, rtol=0, atol=0)


def test_a_whole_run_of_two_processes_is_that_of_one(both):
    folder, _ = both
    assert_alike(folder / "together", folder / "alone")
    batches = rows(folder / "alone")
    assert [row["iteration"] for row in batches] == [2, 4]
    assert max(row["box"] for row in batches) > 0


def test_a_run_of_one_process_is_continued_by_two(both):
    folder, _ = both
    assert checkpoint.load(folder / "resumed")["clock"]["iteration"] == 4
    assert_alike(folder / "resumed", folder / "alone")


def test_a_run_of_two_processes_is_continued_by_one(both, recipe):
    run = both[0] / "together"
    assert resume(run, changes={"patience": 3})["ap"] == pytest.approx(rows(run)[-1]["ap"], abs=1)


def test_unused_and_held_parameters_do_not_hang(both):
    row = rows(both[0] / "frozen")[-1]
    assert row["iteration"] == 2
    assert np.isfinite(row["loss"])


def test_only_the_lead_talks(both):
    _, (lead, other) = both
    assert "2 processes with cpu" in lead
    assert "epoch" not in other


def test_a_process_that_dies_ends_the_others_with_a_reason(data, recipe, tmp_path):
    run = tmp_path / "run"
    processes = start([described(data, run, replace(recipe, epochs=500))])
    deadline = time.monotonic() + TIMEOUT_S
    while not checkpoint.previous_path(run).exists() and time.monotonic() < deadline:
        assert processes[1].poll() is None, finished(processes)
        time.sleep(0.02)
    processes[1].kill()
    codes, messages = finished(processes)
    assert codes == [1, -signal.SIGKILL], messages
    assert "process 0 of 0 to 1 has lost another one" in messages[0]
    assert checkpoint.load(run)["clock"]["iteration"] > 0


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_starts_all_and_stops_all_at_one_batch(launcher, data, recipe, tmp_path):
    run = tmp_path / "run"
    options = [
        "--epochs=500",
        *(f"--{key}={getattr(recipe, key)}" for key in ("imgsz", "batch")),
        *("--set", "save_minutes=0", "--set", "val_every=0"),
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = str(free.getsockname()[1])
    port = ["--main_process_port", place] if launcher == "accelerate" else []
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", *LAUNCHERS[launcher], *port),
            *("-m", "rstinynet.cli.main", "train"),
            *("--model", "yolo11n", "--data", data, "--out", run, "--recipe", "short", *options),
            *("--device", "cpu"),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + TIMEOUT_S
    while not checkpoint.previous_path(run).exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    # The signal that torchrun gives its processes twice when it comes from a terminal.
    process.send_signal(signal.SIGINT)
    codes, messages = finished([process])
    assert codes != [0]
    assert "on 2 processes with cpu" in messages[0]
    stopped = [line for line in messages[0].splitlines() if "stopped after batch" in line]
    assert stopped, messages
    iteration = checkpoint.load(run)["clock"]["iteration"]
    assert all(f"after batch {iteration} of" in line for line in stopped)


def test_the_place_is_torchruns_and_alone_it_leads(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "1")  # as some schedulers do
    assert placed() == Ranks()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert placed() == Ranks(1, 2, 0)
    assert not placed().leads


def test_shares_are_disjoint_and_whole():
    for count, world in [(5, 2), (16, 3), (4, 4), (3, 1)]:
        shares = [list(Ranks(rank, world).share(count)) for rank in range(world)]
        assert [index for share in shares for index in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_processes_than_images_are_refused(data, recipe):
    labelled = Trainer(Job(model="yolo11n", data=data, out=data / "no", recipe=recipe)).train_set
    with pytest.raises(UsageError, match="8 processes cannot share a batch of 5"):
        Batches(labelled, recipe, ranks=Ranks(0, 8))


def test_a_gpu_by_number_is_refused_for_several_processes(monkeypatch):
    ranks = Ranks(1, 2, 1)
    assert ranks.device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="--device cuda or cpu, not cuda:1"):
        ranks.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="no GPU of its own"):
        ranks.device("cuda")
    assert Ranks().device("cuda:3") == torch.device("cuda:3")


def test_other_runtime_errors_keep_their_own_words():
    from rstinynet.train.ranks import _clear_loss_of_a_peer

    with pytest.raises(RuntimeError, match="shape"), _clear_loss_of_a_peer(Ranks(0, 2)):
        raise RuntimeError("a shape is wrong")
    # It may have ended before anything was saved.
    advice = "lost .* go on with --resume, or begin again where nothing was saved"
    with pytest.raises(RSTinyNetError, match=advice), _clear_loss_of_a_peer(Ranks(0, 2)):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer")


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "gpu"])
def test_training_runs_on_cpu_or_cuda(device):
    with pytest.raises(UsageError):
        ranks._require_device(device)
