"""What a run does at its limits: bad losses, little time, folders that are taken."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rstinynet.errors import DataError, RSTinyNetError, UsageError
from rstinynet.model.weights import read_metadata
from rstinynet.train import checkpoint, loop, norms, outcome
from rstinynet.train import clock as clock_module
from rstinynet.train.batches import Batches
from rstinynet.train.folder import held
from rstinynet.train.job import Job, TrainingStoppedError
from rstinynet.train.learner import Learner
from rstinynet.train.loop import Trainer, train
from rstinynet.train.optimizer import freeze_backbone, parameter_groups
from rstinynet.train.overrides import with_overrides
from rstinynet.train.recipe import short


@pytest.fixture(scope="module")
def job(synthetic):
    folder = synthetic(train=4, val=2, size=64)
    recipe = with_overrides(
        short(), {"imgsz": 64, "batch": 2, "epochs": 2, "norm_batches": 1, "val_every": 0}
    )
    return Job(model="yolo11n", data=folder, out=folder / "run", recipe=recipe)


def test_two_runs_do_not_share_a_folder(job, tmp_path):
    job = replace(job, out=tmp_path / "run")
    job.out.mkdir()
    with held(job.out):
        with pytest.raises(UsageError, match=r"a run is at work in .*run: give another --out"):
            train(job)
        assert not list(job.out.iterdir())
        with held(job.out, leads=False):
            pass  # the other processes of the same run
    assert train(job)["iterations"] > 0
    with held(job.out), pytest.raises(UsageError, match="at work"):
        loop.resume(job.out)


def test_resume_reads_a_state_that_no_other_run_can_outdate(job, tmp_path, monkeypatch):
    def refused(run):
        with pytest.raises(UsageError, match="at work"), held(run):
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.checkpoint, "load", refused)
    with pytest.raises(KeyboardInterrupt):
        loop.resume(tmp_path)


def test_resume_makes_no_folder(tmp_path):
    with pytest.raises(RSTinyNetError, match="--resume needs the folder of a run"):
        loop.resume(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_where_nothing_can_be_locked_a_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("rstinynet.files.fcntl", None)  # as on Windows
    with held(tmp_path), held(tmp_path):
        pass


def test_run_writes_its_files(job, tmp_path):
    job = replace(job, out=tmp_path / "run")
    metrics = train(job)
    names = {str(path.relative_to(job.out)) for path in job.out.rglob("*") if path.is_file()}
    assert [name for name in names if name.startswith("tensorboard/events.")]
    assert {name for name in names if not name.startswith("tensorboard/")} == {
        "args.yaml",
        "assignment.json",
        "curves.png",
        "env.json",
        "events.jsonl",
        "metrics.json",
        "results.csv",
        "resume/last.pt",
        "resume/previous.pt",
        "train_batch0.png",
        "train_batch1.png",
        "train_batch2.png",
        "val_predictions.png",
        "weights/best.safetensors",
        "weights/last.safetensors",
    }
    with (job.out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[0]["ap"] == ""
    assert rows[1]["ap"] != ""
    assert int(rows[0]["objects"]) > 0
    assert set(metrics["ap_of_candidates"]) == {
        "averaged",
        "unaveraged",
        "averaged_new_statistics",
    }
    metadata = read_metadata(job.out / "weights" / "best.safetensors")
    assert metadata.imgsz == 64
    assert (metadata.scaling.kind, metadata.scaling.low) == ("percentile", 1.0)
    assert metadata.trained_with.startswith("rstinynet train --model yolo11n --data ")
    assert str(job.data.parent) not in metadata.trained_with

    with pytest.raises(UsageError, match="--resume"):
        train(job)


def test_time_limit_brings_the_schedule_to_its_end(job, tmp_path, monkeypatch):
    clock = [0.0]
    learn = Learner.learn

    def half_a_second(self, *args, **kwargs):
        clock[0] += 0.5
        return learn(self, *args, **kwargs)

    monkeypatch.setattr(Learner, "learn", half_a_second)
    for module in (loop, outcome, clock_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    recipe = replace(job.recipe, epochs=1000, max_minutes=0.1, warmup_iterations=0)
    metrics = train(replace(job, out=tmp_path / "run", recipe=recipe))
    assert metrics["epochs"] < 1000
    assert 2 <= clock[0] <= 6
    with (tmp_path / "run" / "results.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["lr"]) < 0.5 * recipe.lr0


def test_time_for_validations_is_not_taken_for_that_of_batches(job, tmp_path, monkeypatch):
    recipe = replace(job.recipe, epochs=50, max_minutes=10.0, norm_batches=40)
    trainer = Trainer(replace(job, out=tmp_path / "run", recipe=recipe))
    now, learn = [0.0], trainer.learner.learn

    def foretold(*_):
        now[0] += 60.0 if now[0] < 60 else 0.0  # so long it takes to find out, once
        return 5.0

    def a_second(*values, **options):
        now[0] += 1.0
        trainer.stop.asked = now[0] == 63
        return learn(*values, **options)

    for module in (loop, clock_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(outcome.Outcome, "val_time", foretold)
    trainer.learner.learn = a_second
    with pytest.raises(TrainingStoppedError):
        trainer.run()
    # Three validations and 40 forward passes, each half a batch, are to come at the end.
    limit_s = 600 - 1.2 * (3 * 5 + 40 * 0.5) - 3
    assert checkpoint.load(tmp_path / "run")["clock"]["done"] == pytest.approx(63 / limit_s)


def test_opening_line_says_how_long_mosaics_are_made(job):
    assert "mosaic for 80 % of it" in Trainer(job)._opening()
    without = with_overrides(job.recipe, {"mosaic_prob": 0})
    trainer = Trainer(replace(job, recipe=without))
    assert "mosaic off throughout" in trainer._opening()
    assert not trainer.clock.mosaic(0)


def test_loss_that_is_not_finite_names_its_images(job, tmp_path):
    trainer = Trainer(replace(job, out=tmp_path / "run"))
    with torch.no_grad():
        next(trainer.learner.model.parameters()).fill_(torch.nan)
    batch = trainer.batches.make(0, mosaic=False)
    with pytest.raises(RSTinyNetError, match=", ".join(map(str, batch.ids))):
        trainer.learner.learn(batch)


def test_splits_with_other_categories_are_refused(job, synthetic):
    data = synthetic(train=2, val=2, size=64)
    text = (data / "val.json").read_text()
    (data / "val.json").write_text(text.replace("vehicle", "ship"))
    with pytest.raises(DataError, match="different categories"):
        Trainer(replace(job, data=data))


def test_validation_without_a_box_is_refused(job, synthetic):
    data = synthetic(train=2, val=2, size=64)
    content = json.loads((data / "val.json").read_text())
    (data / "val.json").write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(DataError, match=r"\(val\): no annotations"):
        Trainer(replace(job, data=data))


def test_of_equal_epochs_the_later_one_is_kept(job, tmp_path):
    trainer = Trainer(replace(job, out=tmp_path / "run"))
    model = trainer.learner.ema.module
    measured = trainer.outcome.measure(model, "")
    for budget in ("first", "second"):
        trainer.outcome.write(model, budget, measured=measured)
    assert read_metadata(trainer.outcome.folder.best).budget == "second"


def test_state_of_another_device_is_taken_without_its_scaler_and_numbers(job, monkeypatch):
    learner = Trainer(job).learner
    state = learner.state() | {"rng_cuda": [torch.zeros(16, dtype=torch.uint8)] * 2}
    assert state["scaler"] == {}
    learner._scaler = torch.amp.GradScaler("cpu", enabled=True)
    learner.device = torch.device("cuda")
    taken = []
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", taken.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    learner.restore(state)
    assert taken == []
    assert learner._scaler.get_scale() == 65536.0


def test_stream_is_the_same_from_any_start(job):
    whole = Batches(Trainer(job).train_set, job.recipe)
    with whole:
        first = [batch.images for _, batch in whole.stream(0, 4, mosaic=lambda i: i < 3)]
    again = Batches(Trainer(job).train_set, replace(job.recipe, workers=1))
    with again:
        later = list(again.stream(2, 4, mosaic=lambda i: i < 3))
    assert [iteration for iteration, _ in later] == [2, 3]
    assert all(torch.equal(batch.images, first[iteration]) for iteration, batch in later)


def test_groups_hold_every_parameter_once_and_only_weights_decay(job):
    model = Trainer(job).learner.model
    groups = parameter_groups(model, replace(job.recipe, backbone_lr_factor=0.1))
    held = [parameter for group in groups for parameter in group["params"]]
    assert len({id(parameter) for parameter in held}) == len(held)
    assert len(held) == len(list(model.parameters()))
    for group in groups:
        kernels = all(parameter.ndim > 1 for parameter in group["params"])
        assert (group["weight_decay"] > 0) == kernels
    slow = sum(len(group["params"]) for group in groups if group["lr_factor"] == 0.1)
    assert slow == len(list(model.backbone.trunk.parameters()))


def test_frozen_backbone_keeps_weights_and_statistics(job):
    model = Trainer(job).learner.model
    model.train()
    freeze_backbone(model, frozen=True)
    before = {name: value.clone() for name, value in model.backbone.trunk.state_dict().items()}
    model(torch.rand(2, 3, 64, 64))
    after = model.backbone.trunk.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in model.backbone.trunk.parameters())
    freeze_backbone(model, frozen=False)
    assert all(parameter.requires_grad for parameter in model.backbone.trunk.parameters())


def test_new_statistics_are_those_of_the_images(job):
    model = Trainer(job).learner.model
    images = [torch.rand(2, 3, 64, 64) for _ in range(2)]
    fresh = norms.with_new_statistics(model, images, like=model.train())
    first = model.backbone.trunk.downs["1"]
    means = [first.conv(x_BCHW).mean((0, 2, 3)) for x_BCHW in images]
    found = fresh.backbone.trunk.downs["1"].norm.running_mean
    torch.testing.assert_close(found, (means[0] + means[1]) / 2)
    assert not any(module.training for module in fresh.modules())
    held = norms.with_new_statistics(model, images, like=model.eval())
    for name, value in held.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name])
