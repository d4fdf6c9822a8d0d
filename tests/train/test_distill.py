"""A teacher beside the labels: what it is asked, what it must be, and that runs record it."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace

import pytest
import torch

from rstinynet.data.folder import open_split
from rstinynet.errors import UsageError, WeightsError
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.model.presets import build
from rstinynet.model.weights import save_weights
from rstinynet.scenes.detector import Detector
from rstinynet.train.job import Job
from rstinynet.train.learner import LOSSES
from rstinynet.train.loop import resume, train
from rstinynet.train.overrides import with_overrides
from rstinynet.train.recipe import short
from rstinynet.train.teacher import Teacher

CPU = torch.device("cpu")


def weights_of(path, name, names, *, seed=0):
    torch.manual_seed(seed)
    model = build(name, len(names))
    for parameter in model.head.parameters():  # untrained heads say the same everywhere
        torch.nn.init.normal_(parameter, std=0.2)
    metadata = WeightsMetadata(
        model=name, names=list(names), category_ids=list(range(1, len(names) + 1)), imgsz=64
    )
    save_weights(path, model, metadata)
    return str(path)


def images(seed=0):
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


def test_scores_are_the_mean_over_mirrored_views_and_sides_those_of_the_image(tmp_path):
    path = weights_of(tmp_path / "t.safetensors", "yolo11n", ["a", "b"])

    def ask(views, x):
        return Teacher(path, names=["a", "b"], strides=(8, 16, 32), device=CPU, views=views)(x)

    one, four = ask(1, images()), ask(4, images())
    assert one.strides == (8, 16, 32)
    assert torch.equal(one.sides, four.sides)
    total = torch.zeros_like(one.scores)
    for axes in ((), (2,), (3,), (2, 3)):
        soft = ask(1, images().flip(axes))
        start = 0
        for stride in soft.strides:
            rows, columns = 64 // stride, 96 // stride
            end = start + rows * columns
            grid = soft.scores[:, start:end].reshape(2, rows, columns, 2)
            back = grid.flip([axis - 1 for axis in axes])
            total[:, start:end] += back.reshape(2, -1, 2)
            start = end
    torch.testing.assert_close(four.scores, total / 4)
    assert (one.scores - four.scores).abs().max() > 1e-4


def test_classes_are_matched_by_name_and_levels_by_stride(tmp_path):
    path = weights_of(tmp_path / "t.safetensors", "yolo11n", ["ship", "car", "tank"])
    soft = Teacher(path, names=["tank", "ship"], strides=(4, 8, 16), device=CPU)(images())
    assert soft.strides == (8, 16)
    whole = Teacher(path, names=["ship", "car", "tank"], strides=(8, 16), device=CPU)(images())
    torch.testing.assert_close(soft.scores, whole.scores[..., [2, 0]])


def test_a_teacher_that_cannot_teach_the_model_is_named(tmp_path):
    path = weights_of(tmp_path / "t.safetensors", "yolo11n", ["ship"])
    with pytest.raises(WeightsError, match=r"t\.safetensors does not know the classes car"):
        Teacher(path, names=["car", "ship"], strides=(8,), device=CPU)
    with pytest.raises(WeightsError, match=r"strides \[8, 16, 32\], the model \[4\]"):
        Teacher(path, names=["ship"], strides=(4,), device=CPU)
    with pytest.raises(UsageError, match="'distill_views' must be 1, 2 or 4, not 3"):
        replace(short(), distill_views=3)


def test_several_teach_what_they_agree_on(tmp_path):
    first = weights_of(tmp_path / "first.safetensors", "yolo11n-p2", ["a", "b"])
    other = weights_of(tmp_path / "other.safetensors", "yolo11n", ["b", "a"], seed=1)
    given = {"names": ["a", "b"], "strides": (4, 8, 16), "device": CPU}
    alone = Teacher(first, **given)(images())
    both = Teacher(f"{first}, {other}", **given)(images())
    assert both.strides == (4, 8, 16)
    assert both.scores.shape == alone.scores.shape
    assert both.sides.shape == alone.sides.shape
    # The surest anchor of an object has the score that a search with both gives it.
    found = Detector.load([first, other], device="cpu")
    pixels = (images()[0].permute(1, 2, 0).numpy() * 255).round().astype("uint8")
    same = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    soft = Teacher(f"{first},{other}", **given)(same)
    best = found.detect(pixels, conf=0.002)
    tops = soft.scores[0].amax(0)
    for label in (0, 1):
        wanted = best.scores[best.labels == label].max()
        assert float(tops[label]) == pytest.approx(float(wanted), rel=0.02)


def test_the_same_teacher_twice_corrects_next_to_nothing(tmp_path):
    first = weights_of(tmp_path / "first.safetensors", "yolo11n", ["a", "b"])
    shutil.copy(first, tmp_path / "again.safetensors")
    given = {"names": ["a", "b"], "strides": (8, 16, 32), "device": CPU}
    alone = Teacher(first, **given)(images())
    twice = Teacher(f"{first},{tmp_path}/again.safetensors", **given)(images())
    top = alone.scores.flatten(1).argmax(1)
    torch.testing.assert_close(
        twice.scores.flatten(1).gather(1, top[:, None]),
        alone.scores.flatten(1).gather(1, top[:, None]),
    )


def test_boxes_are_not_rounded_under_autocast(tmp_path, monkeypatch):
    first = weights_of(tmp_path / "first.safetensors", "yolo11n-p2", ["a", "b"])
    other = weights_of(tmp_path / "other.safetensors", "yolo11n", ["a", "b"], seed=1)
    both = Teacher(f"{first},{other}", names=["a", "b"], strides=(4, 8), device=CPU)
    for model in both._models:  # the network itself is to be computed in less
        with torch.no_grad():
            maps = model._model(images())
        monkeypatch.setattr(model, "_model", lambda _, maps=maps: maps)
    exact = both(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        asked = both(images())
    assert torch.equal(asked.scores, exact.scores)
    assert torch.equal(asked.sides, exact.sides)


def test_sides_that_overflow_are_left_to_the_loss(tmp_path, monkeypatch):
    first = weights_of(tmp_path / "first.safetensors", "yolo11n-p2", ["a", "b"])
    other = weights_of(tmp_path / "other.safetensors", "yolo11n", ["a", "b"], seed=1)
    both = Teacher(f"{first},{other}", names=["a", "b"], strides=(4, 8), device=CPU)
    for model in both._models:
        with torch.no_grad():
            maps = model._model(images())
        maps.main[0][0, :64, 0, 0] = torch.inf
        monkeypatch.setattr(model, "_model", lambda _, maps=maps: maps)
    soft = both(images())
    assert soft.sides[0, 0].isnan().all()
    assert soft.sides[1].isfinite().all()


def test_teachers_are_told_apart(tmp_path):
    comma = weights_of(tmp_path / "a,b.safetensors", "yolo11n", ["a"])
    alone = Teacher(comma, names=["a"], strides=(8,), device=CPU)
    assert alone.strides == (8,)
    twice = "'distill' must be one file or name, or several, each once, and commas, not a, a"
    with pytest.raises(UsageError, match=twice):
        replace(short(), distill="a, a")
    with pytest.raises(UsageError, match="'distill' must be"):
        replace(short(), distill="a,")
    folder = tmp_path / "c,d"
    folder.mkdir()
    shutil.copy(comma, folder / "model.safetensors")
    assert Teacher(str(folder), names=["a"], strides=(8,), device=CPU).strides == (8,)
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        Teacher(f"{tmp_path}/nowhere.safetensors,{comma}", names=["a"], strides=(8,), device=CPU)


def test_teachers_at_home_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        weights_of(tmp_path / f"{name}.safetensors", "yolo11n", ["a"])
    recipe = with_overrides(short(), {"distill": "~/a.safetensors,~/b.safetensors"})
    both = Teacher(recipe.distill, names=["a"], strides=(8,), device=CPU)
    assert both.digest.count(",") == 1


@pytest.fixture(scope="module")
def job(synthetic, tmp_path_factory):
    folder = synthetic(train=4, val=1, size=64)
    given = {"imgsz": 64, "batch": 2, "epochs": 2, "val_every": 0, "norm_batches": 0}
    given |= {"compare_unaveraged": False, "watch": "none", "pictures": False}
    names = list(open_split(folder, "train").names)
    teacher = weights_of(tmp_path_factory.mktemp("teacher") / "t.safetensors", "yolo11n-p2", names)
    recipe = with_overrides(short(), given | {"distill": teacher, "distill_views": 2})
    return Job(model="yolo11n", data=folder, out=folder / "distil", recipe=recipe)


def losses(out):
    with (out / "results.csv").open() as file:
        return [{name: float(row[name]) for name in LOSSES} for row in csv.DictReader(file)]


def test_a_run_learns_from_its_teacher(job, tmp_path, capsys):
    with_teacher = replace(job, out=tmp_path / "with")
    train(with_teacher)
    assert " distill " in capsys.readouterr().err
    rows = losses(with_teacher.out)
    assert all(row["distill"] > 0 for row in rows)
    for row in rows:
        parts = row["box"] + row["cls"] + row["dfl"] + row["distill"]
        assert row["loss"] == pytest.approx(2 * parts, rel=1e-4)
    without = replace(job, out=tmp_path / "without", recipe=replace(job.recipe, distill=None))
    train(without)
    assert " distill " not in capsys.readouterr().err
    assert all(row["distill"] == 0 for row in losses(without.out))
    assert "distill=t.safetensors" in job.command()
    assert "teacher" not in job.command()


def test_a_run_is_not_resumed_with_another_teacher(job, tmp_path):
    teacher = tmp_path / "t.safetensors"
    shutil.copy(job.recipe.distill, teacher)
    recipe = replace(job.recipe, distill=str(teacher))
    own = replace(job, out=tmp_path / "run", recipe=recipe)
    train(own)
    assert resume(own.out)["iterations"] == 4
    names = list(open_split(job.data, "train").names)
    weights_of(teacher, "yolo11n-p2", names, seed=5)
    with pytest.raises(WeightsError, match=r"t\.safetensors has changed since this run began"):
        resume(own.out)
