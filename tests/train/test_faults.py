"""Disks that are full, images that are gone, numbers that are none: nothing is lost."""

from __future__ import annotations

import csv
import resource
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from rstinynet.cli.main import run as command
from rstinynet.data.folder import open_split
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import DataError, RSTinyNetError, UsageError
from rstinynet.model.weights import load_weights
from rstinynet.train import checkpoint
from rstinynet.train.batches import Batches
from rstinynet.train.faults import NotFiniteError, bad_image, saving
from rstinynet.train.folder import RunFolder
from rstinynet.train.job import Job
from rstinynet.train.learner import Learner
from rstinynet.train.loop import Trainer, resume, train
from rstinynet.train.overrides import with_overrides
from rstinynet.train.recipe import short


@pytest.fixture
def job(tmp_path):
    make_synthetic(tmp_path / "data", images=6, size=64)
    make_synthetic(tmp_path / "data", images=2, size=64, split="val")
    changes = {"imgsz": 64, "batch": 2, "epochs": 2, "norm_batches": 0, "val_every": 0}
    changes |= {"mosaic_prob": 0, "save_minutes": 0, "workers": 1}
    recipe = with_overrides(short(), changes)
    return Job(model="yolo11n", data=tmp_path / "data", out=tmp_path / "run", recipe=recipe)


@contextmanager
def little_room(size):
    """No file can grow beyond `size` bytes: the system refuses the write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def rows(run):
    with (run / "results.csv").open() as file:
        return list(csv.DictReader(file))


def poison(monkeypatch, *, iterations):
    """Make the loss of these batches (counted from 0) not a number, through one weight."""
    learn, count = Learner.learn, iter(range(1000))

    def poisoned(self, batch, **options):
        if next(count) not in iterations:
            return learn(self, batch, **options)
        weight = next(self.model.parameters())
        sound = weight.detach().clone()
        with torch.no_grad():
            weight.fill_(torch.nan)
        try:
            return learn(self, batch, **options)
        finally:
            with torch.no_grad():
                weight.copy_(sound)

    monkeypatch.setattr(Learner, "learn", poisoned)


def test_full_disk_while_saving_keeps_what_was_saved(job):
    trainer = Trainer(job)
    trainer.clock.iteration = 1
    trainer._save()
    trainer.clock.iteration = 2
    with little_room(200_000), pytest.raises(RSTinyNetError, match="make room") as caught:
        trainer._save()
    assert caught.value.exit_code == 1
    assert f"--resume {job.out}" in str(caught.value)
    assert checkpoint.load(job.out)["clock"]["iteration"] == 1
    # Nothing half-written stays.
    assert [path.name for path in (job.out / "resume").iterdir()] == ["previous.pt"] or [
        path.name for path in (job.out / "resume").iterdir()
    ] == ["last.pt"]


def test_full_disk_ends_the_command_with_code_1(job, capsys):
    arguments = ["train", "--model", "yolo11n", "--data", str(job.data), "--out", str(job.out)]
    arguments += ["--recipe", "short", "--imgsz", "64", "--batch", "2", "--epochs", "1"]
    with little_room(1000):
        assert command([*arguments, "--device", "cpu", "--set", "save_minutes=0"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "cannot be written" in said
    assert "make room on its disk" in said


def test_other_write_errors_keep_their_reason(tmp_path):
    with pytest.raises(RSTinyNetError, match="Permission denied"), saving(tmp_path):
        raise PermissionError(13, "Permission denied")
    with pytest.raises(RuntimeError, match="a shape is wrong"), saving(tmp_path):
        raise RuntimeError("a shape is wrong")


@pytest.mark.parametrize("damage", ["gone", "cut", "text"])
def test_a_bad_image_stops_with_its_name_and_the_run_goes_on_with_it_again(job, damage):
    trainer = Trainer(job)
    with Batches(trainer.train_set, job.recipe) as batches:
        later = batches.make(2, mosaic=False).ids[0]
    path = next(image.path for image in trainer.train_set.images if image.id == later)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"no image at all")
    with pytest.raises(DataError, match=path.name) as caught:
        trainer.run()
    assert "bad_images=skip" in str(caught.value)
    assert caught.value.exit_code == 3
    reached = checkpoint.load(job.out)["clock"]["iteration"]
    path.write_bytes(content)
    assert resume(job.out)["iterations"] == 6 > reached


def test_bad_images_can_be_skipped_are_named_once_and_counted(job, caplog):
    trainer = Trainer(replace(job, recipe=replace(job.recipe, bad_images="skip")))
    path = trainer.train_set.images[0].path
    path.unlink()
    trainer.run()
    named = [each for each in caplog.messages if path.name in each]
    assert len(named) == 1
    assert [row["images_replaced"] for row in rows(job.out)] == ["1", "1"]


def test_stand_ins_do_not_depend_on_who_makes_them(job):
    labelled = open_split(job.data, "train")
    labelled.images[2].path.unlink()
    recipe = replace(job.recipe, bad_images="skip", batch=6)
    made = []
    for workers in (1, 3):
        with Batches(labelled, replace(recipe, workers=workers)) as batches:
            made.append(next(batches.stream(1, 2, mosaic=lambda _: False))[1])
    assert made[0].ids == made[1].ids
    assert labelled.images[2].id not in made[0].ids
    assert torch.equal(made[0].images, made[1].images)
    assert made[0].replaced == 1


def test_a_folder_without_a_readable_image_stops_in_either_case(job):
    labelled = open_split(job.data, "train")
    for image in labelled.images:
        image.path.unlink()
    with (
        Batches(labelled, replace(job.recipe, bad_images="skip")) as batches,
        pytest.raises(DataError, match="folder of images"),
    ):
        batches.make(0, mosaic=False)


def test_a_loss_that_is_no_number_stops_names_the_batch_and_saves(job, monkeypatch):
    poison(monkeypatch, iterations=[4])
    with pytest.raises(NotFiniteError, match=r"epoch 2, batch 2 \(iteration 4\): the loss") as hit:
        train(job)
    with Batches(open_split(job.data, "train"), job.recipe) as batches:
        assert ", ".join(map(str, batches.make(4, mosaic=False).ids)) in str(hit.value)
    state = checkpoint.load(job.out)
    assert state["clock"]["iteration"] == 4
    for tensors in (state["model"], load_weights(job.out / "weights" / "last.safetensors")[0]):
        values = tensors if isinstance(tensors, dict) else tensors.state_dict()
        assert all(torch.isfinite(value).all() for value in values.values())
    monkeypatch.undo()
    assert resume(job.out, changes={"nonfinite": "skip"})["iterations"] == 6


def test_batches_without_a_number_can_be_skipped_and_are_counted(job, monkeypatch):
    poison(monkeypatch, iterations=[1, 4])
    metrics = train(replace(job, recipe=replace(job.recipe, nonfinite="skip", nominal_batch=4)))
    assert metrics["iterations"] == 6
    assert [row["batches_skipped"] for row in rows(job.out)] == ["1", "1"]
    model = load_weights(job.out / "weights" / "last.safetensors")[0]
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_too_many_such_batches_in_a_row_stop_the_run(job, monkeypatch):
    poison(monkeypatch, iterations=range(1, 100))
    recipe = replace(job.recipe, nonfinite="skip", nonfinite_limit=2)
    with pytest.raises(NotFiniteError, match=r"iteration 3\).*2 in a row were") as caught:
        train(replace(job, recipe=recipe))
    # What is advised is not what was done already.
    assert "nonfinite=skip" not in str(caught.value)
    assert f"--resume {job.out} --set nonfinite_limit=" in str(caught.value)


def test_a_gradient_that_is_no_number_leaves_weights_and_statistics(job):
    trainer = Trainer(job)
    learner = trainer.learner
    next(learner.model.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    batch = trainer.batches.make(0, mosaic=False)
    learner.hold_backbone(False)
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    learner.learn(batch)
    with pytest.raises(NotFiniteError, match="gradient"):
        learner.update(batch)
    for name, tensor in learner.model.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, before[name]), name


def test_a_bad_image_before_the_first_update_keeps_the_run(job):
    changes = {"nominal_batch": 8, "warmup_iterations": 0, "save_minutes": 5.0}
    trainer = Trainer(replace(job, recipe=replace(job.recipe, **changes)))
    later = trainer.batches.make(1, mosaic=False).ids[0]
    path = next(image.path for image in trainer.train_set.images if image.id == later)
    trainer = Trainer(trainer.job)  # which has read no image yet
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match="The run is kept"):
        trainer.run()
    path.write_bytes(content)
    assert resume(job.out)["iterations"] == 6


def test_full_disk_at_the_first_words_says_how_to_go_on(job, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "write_assignment", full)
    with pytest.raises(RSTinyNetError, match="make room") as caught:
        train(job)
    # Nothing is saved yet that could be resumed.
    assert "--resume" not in str(caught.value)
    assert "start it again" in str(caught.value)
    RunFolder(job.out).begin({}, {"device": "cpu"})


def test_an_image_that_is_bad_before_anything_is_saved_is_no_reason_to_resume(tmp_path):
    """As on a process that does not lead, and so saves nothing."""
    said = str(bad_image(DataError("a.png is gone"), tmp_path))
    assert "--resume" not in said
    assert "start the run again" in said


def test_a_resumed_run_may_change_its_policies_only(job, capsys):
    job = replace(job, recipe=replace(job.recipe, val_every=1))
    Trainer(job)  # the settings are sound
    changed = job.with_changes({"nonfinite": "skip", "patience": "5", "workers": 3})
    assert (changed.recipe.nonfinite, changed.recipe.patience) == ("skip", 5)
    with pytest.raises(UsageError, match="leave out lr0"):
        job.with_changes({"lr0": 0.1})
    assert command(["train", "--resume", "run", "--set", "lr0=1", "--patience", "3"]) == 2
    assert "leave out --set lr0 (" in " ".join(capsys.readouterr().err.split())
