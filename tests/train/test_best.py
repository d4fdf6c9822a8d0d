"""Choosing the best weights by a named number, and stopping when it no longer rises."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from rstinynet.cli.main import run as command
from rstinynet.data.folder import open_split
from rstinynet.data.synthetic import make_synthetic
from rstinynet.detections import Detections
from rstinynet.errors import DataError
from rstinynet.evaluate.coco import MAX_DET
from rstinynet.evaluate.run import detector_cap
from rstinynet.model.weights import read_metadata
from rstinynet.scenes.detector import Detector
from rstinynet.train import outcome as outcome_module
from rstinynet.train.job import Job
from rstinynet.train.loop import Trainer, resume, train
from rstinynet.train.overrides import with_overrides
from rstinynet.train.pictures import validation_sheet
from rstinynet.train.recipe import short
from rstinynet.train.validate import images_at_once, spaced_images, validate


@pytest.fixture
def job(tmp_path):
    make_synthetic(tmp_path / "data", images=2, size=64)
    make_synthetic(tmp_path / "data", images=3, size=64, split="val")
    changes = {"imgsz": 64, "batch": 2, "epochs": 6, "norm_batches": 0, "val_every": 1}
    recipe = with_overrides(short(), changes)
    return Job(model="yolo11n", data=tmp_path / "data", out=tmp_path / "run", recipe=recipe)


def measured_as(monkeypatch, key, values):
    """Let validations find these values, and the last one for ever."""
    left = list(values)

    def found(*_, **__):
        value = left.pop(0) if len(left) > 1 else left[0]
        return dict.fromkeys(("ap", "ap50", "ap75", "ap_vt", "ap_t", "ap_s", "ap_m"), 0.5) | {
            key: value
        }

    monkeypatch.setattr(outcome_module, "validate", found)


def test_best_weights_are_chosen_by_the_named_number(job, monkeypatch):
    measured_as(monkeypatch, "ap_t", [0.1, 0.4, 0.2, 0.3, 0.3, 0.0])
    metrics = train(replace(job, recipe=replace(job.recipe, best="ap_t")))
    assert metrics["ap_t"] == 0.4
    assert metrics["ap_t_of_candidates"]["averaged"] == 0.4
    metadata = read_metadata(job.out / "weights" / "best.safetensors")
    assert metadata.metrics["ap_t"] == 0.4
    assert metadata.budget.startswith("2 batches")


def test_a_run_ends_when_the_number_has_not_risen_for_so_long(job, monkeypatch, capsys):
    measured_as(monkeypatch, "ap", [0.1, 0.3, 0.3, 0.2, 0.1])
    recipe = replace(job.recipe, epochs=50, patience=3)
    metrics = train(replace(job, recipe=recipe))
    assert metrics["epochs"] == 5
    said = " ".join(capsys.readouterr().err.split())
    assert "stopped early: ap has not risen for 3 epochs; it was highest in epoch 2" in said
    # The end is kept with the run: resuming adds nothing.
    assert resume(job.out)["epochs"] == 5
    with (job.out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5


def test_a_number_that_cannot_be_measured_is_refused_before_training(job):
    with pytest.raises(DataError, match="best=ap_m needs validation objects of 32"):
        Trainer(replace(job, recipe=replace(job.recipe, best="ap_m")))
    content = json.loads((job.data / "val.json").read_text())
    assert {each["area"] <= 32**2 for each in content["annotations"]} == {True}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--best", "ap_tt"], "did you mean 'ap_t'?"),
        (["--best", "recall"], "'best' must be ap, ap50, ap75, ap_vt"),
        (["--patience", "0"], "'patience' must be at least 1"),
        (["--set", "bad_images=skp"], "'bad_images' cannot be 'skp'"),
    ],
)
def test_mistakes_are_answered(options, words, capsys):
    assert command(["train", "--model", "m", "--data", "d", "--out", "r", *options]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_validation_in_batches_finds_the_same(job):
    trainer = Trainer(job)
    model, labelled = trainer.learner.ema.module, trainer.val_set
    metadata = trainer.outcome.metadata("")
    one = validate(model, metadata, labelled, device="cpu")
    three = validate(model, metadata, labelled, device="cpu", batch=3)
    assert one["images"] == three["images"] == 3
    assert one["ap"] == pytest.approx(three["ap"], abs=1e-6)
    assert images_at_once(labelled, pixels=2 * 64**2, scale=1.0) == 2
    assert images_at_once(labelled, pixels=100, scale=1.0) == 1
    assert images_at_once(labelled, pixels=2 * 64**2, scale=0.5) == 8
    assert images_at_once(labelled, pixels=2 * 64**2, fit=32) == 8
    assert images_at_once(replace(labelled, images=()), pixels=4, fit=32) == 4


def test_a_part_of_the_validation_images_is_spread_over_the_set(tmp_path):
    make_synthetic(tmp_path, images=10, size=64)
    labelled = open_split(tmp_path, "train")
    ids = [image.id for image in labelled.images]
    for count, places in ((1, [0]), (3, [0, 3, 6]), (5, [0, 2, 4, 6, 8]), (10, [*range(10)])):
        chosen = spaced_images(labelled, count)
        assert [image.id for image in chosen.images] == [ids[at] for at in places]
        assert chosen.categories == labelled.categories
    assert len(spaced_images(labelled, None)) == len(spaced_images(labelled, 11)) == 10
    assert len(spaced_images(replace(labelled, images=()), 3)) == 0


def test_between_epochs_the_spread_images_are_measured_and_at_the_end_all(job, monkeypatch):
    make_synthetic(job.data, images=4, size=64, split="val")
    changes = {"epochs": 2, "val_images": 2}
    seen = []

    def found(model, metadata, labelled, **_):
        seen.append([image.id for image in labelled.images])
        return dict.fromkeys(("ap", "ap50", "ap75", "ap_vt", "ap_t", "ap_s", "ap_m"), 0.5)

    monkeypatch.setattr(outcome_module, "validate", found)
    train(replace(job, recipe=with_overrides(job.recipe, changes)))
    every = [image.id for image in open_split(job.data, "val").images]
    assert seen[:2] == [every[::2]] * 2
    assert seen[2:]
    assert all(each == every for each in seen[2:])


def test_validation_resizes_images_as_training_does(job, monkeypatch):
    labels = job.data / "val.json"
    content = json.loads(labels.read_text())
    wide = content["images"][0]
    path = job.data / "images" / wide["file_name"]
    cv2.imwrite(str(path), np.pad(cv2.imread(str(path)), ((0, 0), (0, 64), (0, 0))))
    wide["width"] = 128
    labels.write_text(json.dumps(content))
    seen = {}

    def detect_batch(self, images, *, conf, scale=None, **_):
        seen[images[0].shape[1]] = scale
        return [Detections.empty() for _ in images]

    monkeypatch.setattr(Detector, "detect_batch", detect_batch)

    def factors(**changes):
        seen.clear()
        trainer = Trainer(replace(job, recipe=with_overrides(job.recipe, changes)))
        model, outcome = trainer.learner.ema.module, trainer.outcome
        outcome.measure(model, "")
        measured = dict(seen)
        seen.clear()
        validation_sheet(
            model, outcome.metadata(""), trainer.val_set, device="cpu", fit=outcome.fit
        )
        assert seen == measured
        return measured

    assert factors(**{"augment.fit": "letterbox"}) == {64: 1.0, 128: 0.5}
    # By the weights' own factor, which the recipe names.
    assert factors(**{"augment.fit": "letterbox", "inference_scale": 1.5}) == {64: None, 128: None}
    assert factors(**{"augment.fit": "native"}) == {64: None, 128: None}


def test_patience_begins_when_something_has_been_found(job, monkeypatch):
    measured_as(monkeypatch, "ap", [0.0, 0.0, 0.0, 0.0, 0.2, 0.1])
    metrics = train(replace(job, recipe=replace(job.recipe, epochs=50, patience=2)))
    assert metrics["epochs"] == 7
    assert metrics["ap"] == 0.2


def test_a_validation_not_yet_made_is_foretold_from_two_groups(job, monkeypatch):
    seconds, looked_at = [0.0], []

    def validation(model, metadata, labelled, **_):
        # The first is slower; each costs 2 s, and half a second an image, which training does not.
        looked_at.append(len(labelled))
        seconds[0] += (7.0 if len(looked_at) == 1 else 2.0) + 0.5 * len(labelled)
        return {}

    limited = replace(job, recipe=replace(job.recipe, max_minutes=5.0))
    outcome = Trainer(limited).outcome
    labelled = outcome._val_set
    outcome._val_set = replace(labelled, images=labelled.images * 20)
    monkeypatch.setattr(outcome_module, "validate", validation)
    monkeypatch.setattr(outcome_module, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    model = Trainer(limited).learner.ema.module
    assert outcome.val_time(model) == pytest.approx(2 + 0.5 * 60)
    assert looked_at == [2, 2, 6]
    assert outcome.val_time(model) == pytest.approx(32)
    assert len(looked_at) == 3
    # A validation of a part is not taken to cost its 2 s for every part.
    outcome.measure(model, "", images=6)
    assert outcome.val_time(model) == pytest.approx(32)
    outcome._val_set = replace(labelled, images=labelled.images[:1])
    outcome.val_seconds = None
    assert outcome.val_time(model) == pytest.approx(2.5)
    assert Trainer(job).outcome.val_time(model) == 0


def test_a_run_that_was_stopped_early_goes_on_with_more_patience(job, monkeypatch):
    measured_as(monkeypatch, "ap", [0.3, 0.2, 0.1, 0.1, 0.4, 0.1])
    assert train(replace(job, recipe=replace(job.recipe, epochs=8, patience=2)))["epochs"] == 3
    assert resume(job.out, changes={"patience": 2})["epochs"] == 3
    assert resume(job.out, changes={"patience": 9})["epochs"] == 8


def test_a_run_goes_on_with_its_own_validation_data_only(job):
    train(replace(job, recipe=replace(job.recipe, epochs=1)))
    path = job.data / "val.json"
    content = json.loads(path.read_text())
    content["images"] = content["images"][:2]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="its validation annotations differ"):
        resume(job.out)


def test_validation_asks_for_as_many_boxes_as_val(job, monkeypatch):
    asked = []

    def detect_batch(self, images, **options):
        asked.append(options["max_det"])
        return [Detections.empty() for _ in images]

    monkeypatch.setattr(Detector, "detect_batch", detect_batch)
    trainer = Trainer(job)
    validate(
        trainer.learner.ema.module, trainer.outcome.metadata(""), trainer.val_set, device="cpu"
    )
    assert set(asked) == {detector_cap(MAX_DET)} == {3000}
