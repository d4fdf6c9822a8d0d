"""What is said before training: boxes without candidates, against trying every anchor."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rstinynet.data.folder import open_split
from rstinynet.data.stats import has_anchor
from rstinynet.data.synthetic import make_synthetic
from rstinynet.train import report
from rstinynet.train.clock import Clock
from rstinynet.train.job import Job
from rstinynet.train.loop import train
from rstinynet.train.overrides import with_overrides
from rstinynet.train.recipe import paper, short


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_synthetic(folder, images=6, size=96)
    found = open_split(folder, "train")
    # Boxes of 2 to 20 pixels anywhere, and one region to ignore.
    rng = np.random.default_rng(0)
    images = []
    for image in found.images:
        low = rng.uniform(0, 70, (40, 2))
        boxes = np.concatenate([low, low + rng.uniform(2, 20, (40, 2))], axis=1).astype(np.float32)
        images.append(
            replace(
                image,
                boxes=boxes,
                labels=np.zeros(40, np.int64),
                areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).astype(np.float64),
                crowd=np.arange(40) == 0,
            )
        )
    return replace(found, images=tuple(images))


@pytest.mark.parametrize(("imgsz", "scale"), [(96, 1.0), (192, 2.0), (64, 2 / 3)])
def test_boxes_without_a_candidate_are_those_without_a_centre_inside(labelled, imgsz, scale):
    recipe = with_overrides(paper(), {"imgsz": imgsz})
    found = report.coverage(labelled, recipe, strides=(8, 16, 32))
    boxes = np.concatenate([image.boxes[1:] for image in labelled.images]) * np.float32(scale)
    inside = np.any([has_anchor(boxes, stride) for stride in (8, 16, 32)], axis=0)
    assert found["all"]["boxes"] == len(boxes) == 6 * 39
    assert found["all"]["without_candidate"] == (~inside).sum() > 0
    for key in ("boxes", "without_candidate"):
        sizes = found["sizes"].values()
        assert sum(size[key] for size in sizes) == found["all"][key]
        for size in sizes:
            assert sum(part[key] for part in size["sides_px"].values()) == size[key]
    areas = np.concatenate([image.areas[1:] for image in labelled.images])
    tiny = (areas > 64) & (areas <= 256)
    assert found["sizes"]["tiny"]["boxes"] == tiny.sum()
    assert found["sizes"]["tiny"]["without_candidate"] == (~inside & tiny).sum()


def test_ours_leaves_no_box_out(labelled):
    found = report.coverage(labelled, short(), strides=(4, 8, 16))
    assert found["all"]["without_candidate"] == 0
    assert "0 of 234 training boxes (0.0 %)" in report.in_words(found)


@pytest.mark.parametrize(("imgsz", "strides", "expected"), [(96, (4, 8), 4), (32, (32,), 1)])
def test_candidates_by_receptive_field_are_those_that_a_box_can_have(
    labelled, imgsz, strides, expected
):
    recipe = with_overrides(paper(), {"candidates": "receptive_field", "imgsz": imgsz})
    found = report.coverage(labelled, recipe, strides=strides)
    assert (found["all"]["median_candidates"], found["all"]["without_candidate"]) == (expected, 0)


def test_the_table_says_what_the_counts_are(labelled):
    found = report.coverage(labelled, with_overrides(paper(), {"imgsz": 96}), strides=(8, 16))
    lines = report.in_words(found).splitlines()
    whole = found["all"]
    assert f"{whole['without_candidate']} of {whole['boxes']} training boxes" in lines[0]
    assert "(strides 8, 16; 6 images at 96 px, without" in lines[0]
    rows = {line.split("all")[0].strip(): line.split()[-4:] for line in lines if " all " in line}
    size = found["sizes"]["very tiny"]
    assert rows["very tiny"][:2] == [str(size["boxes"]), str(size["without_candidate"])]
    assert float(rows["very tiny"][2]) == pytest.approx(100 * size["share"], abs=0.05)


def test_large_sets_are_sampled(labelled, monkeypatch):
    monkeypatch.setattr(report, "SAMPLED_IMAGES", 2)
    found = report.coverage(labelled, short(), strides=(4, 8))
    assert (found["images"], found["images_in_all"], found["all"]["boxes"]) == (2, 6, 78)
    assert "2 of 6 images" in report.in_words(found)
    assert report.coverage(labelled, short(), strides=(4, 8), max_seconds=0)["images"] == 1


def test_a_set_without_boxes_has_nothing_to_lose(labelled):
    bare = replace(labelled, images=labelled.images[:1])
    bare = replace(bare, images=(replace(bare.images[0], crowd=np.ones(40, np.bool_)),))
    found = report.coverage(bare, short(), strides=(4,))
    assert found["all"] == {
        "boxes": 0,
        "without_candidate": 0,
        "share": 0.0,
        "median_candidates": 0.0,
    }
    assert "0 of 0" in report.in_words(found)


def test_what_augmentation_loses_is_said_in_words():
    row = {"objects": 90, "ignored_cut": 7, "ignored_small": 3}
    ours = report.lost_in_words(row, short().augment)
    assert "90 taught; 10 (10.0 %) became regions to ignore: 7 with less than 25 % left" in ours
    assert "became background: 7 with less than 10 %" in report.lost_in_words(row, paper().augment)


@pytest.mark.parametrize(
    ("per_epoch", "changes", "expected"),
    [
        (30, {"epochs": 20}, ""),
        (30, {"epochs": 19}, ", warm-up takes 200 of 570 batches"),
        (5, {"epochs": 30}, ", warm-up takes 150 of 150 batches"),
        (5, {"epochs": 30, "max_minutes": 5}, ""),
        (5, {"epochs": 30, "warmup_iterations": None}, ""),
    ],
)
def test_a_warmup_that_is_much_of_a_run_is_said(per_epoch, changes, expected):
    clock = Clock(replace(short(), **changes), per_epoch=per_epoch)
    assert report.long_warmup_in_words(clock) == expected


def test_a_run_says_its_settings_and_its_losses(tmp_path, capsys):
    make_synthetic(tmp_path, images=2, size=64)
    make_synthetic(tmp_path, images=1, size=64, split="val")
    given = {"imgsz": 64, "batch": 2, "epochs": 1}
    recipe = with_overrides(paper(), given)
    metrics = train(Job(model="yolo11n", data=tmp_path, out=tmp_path / "run", recipe=recipe))
    said = capsys.readouterr().err
    assert "recipe paper (* = changed)" in said
    assert "epochs=1* batch=2* seed=0" in said
    assert "augment: imgsz=64* fit=letterbox" in said
    assert "training boxes" in said
    assert "warm-up takes 1 of 1 batches" in said.replace("\n", " ")
    assert "taught" in said
    kept = json.loads((tmp_path / "run" / "assignment.json").read_text())
    assert kept["strides"] == [8, 16, 32]
    assert kept["all"]["boxes"] > 0
    # The paper's weights are the averaged ones, whatever the others would score.
    assert set(metrics["ap_of_candidates"]) == {"averaged"}
