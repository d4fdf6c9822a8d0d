"""SimD's m and n of a training set, against every pair of a box and an anchor."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import yaml

from rstinynet.data.folder import open_split
from rstinynet.train.job import Job
from rstinynet.train.loop import Trainer
from rstinynet.train.overrides import with_overrides
from rstinynet.train.recipe import paper, short
from rstinynet.train.simd_scale import simd_scale, with_simd_scale

STRIDES = (4, 8, 16)


@pytest.fixture(scope="module")
def folder(synthetic):
    return synthetic(train=3, val=1, size=96)


def by_pairs(labelled, *, scale, window):
    """The paper's means, pair by pair."""
    ratios = []
    for image in labelled.images:
        width, height = (
            min(math.ceil(side * scale / 32) * 32, window) for side in (image.width, image.height)
        )
        for x1, y1, x2, y2 in image.boxes[~image.crowd].astype(float) * scale:
            x, y = (x1 + x2) / 2 % width, (y1 + y2) / 2 % height
            ratios += [
                (
                    abs(x - (column + 0.5) * stride) / (x2 - x1 + 8 * stride),
                    abs(y - (row + 0.5) * stride) / (y2 - y1 + 8 * stride),
                )
                for stride in STRIDES
                for row in range(height // stride)
                for column in range(width // stride)
            ]
    return np.mean(ratios, axis=0)


@pytest.mark.parametrize(
    ("recipe", "imgsz", "scale"), [(paper(), 160, 160 / 96), (short(), 96, 1.0), (short(), 64, 1.0)]
)
def test_m_and_n_are_the_means_over_all_pairs(folder, recipe, imgsz, scale):
    labelled = open_split(folder, "train")
    # Wide images, so that m and n differ, and one box more that is not counted.
    images = [
        replace(image, height=60, crowd=np.arange(len(image.boxes)) == 0)
        for image in labelled.images
    ]
    labelled = replace(labelled, images=tuple(images))
    recipe = with_overrides(recipe, {"imgsz": imgsz})
    found = simd_scale(labelled, recipe, strides=STRIDES)
    expected = by_pairs(labelled, scale=scale, window=imgsz)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert found[0] != found[1] or imgsz == 64


def test_a_set_without_boxes_has_neutral_ones(folder):
    labelled = open_split(folder, "train")
    crowds = [replace(each, crowd=np.ones_like(each.crowd)) for each in labelled.images]
    recipe = with_overrides(short(), {"imgsz": 64})
    assert simd_scale(replace(labelled, images=tuple(crowds)), recipe, strides=STRIDES) == (1, 1)


def test_only_simd_without_given_numbers_is_measured(folder):
    labelled = open_split(folder, "train")
    plain = with_overrides(short(), {"imgsz": 64})
    given = with_overrides(plain, {"loss.metric": "simd", "loss.simd_scale": "5,4"})
    assert with_simd_scale(plain, labelled, strides=STRIDES) is plain
    assert with_simd_scale(given, labelled, strides=STRIDES) is given


def test_a_run_measures_learns_by_and_says_them(folder, tmp_path, capsys):
    changes = {"imgsz": 64, "batch": 3, "epochs": 1, "loss.metric": "simd"}
    changes |= {"norm_batches": 0, "compare_unaveraged": False, "pictures": False}
    recipe = with_overrides(short(), changes)
    job = Job(model="yolo11n", data=folder, out=tmp_path / "run", recipe=recipe)
    trainer = Trainer(job)
    m, n = simd_scale(trainer.train_set, recipe, strides=(8, 16, 32))
    assert trainer.learner.recipe.loss.simd_scale == (m, n)
    trainer.outcome.folder.begin(job.as_values(), trainer.outcome.inputs())
    assert trainer.run()["iterations"] == 1
    assert f"simd_scale={m:g},{n:g}*" in "".join(capsys.readouterr().err.split())
    kept = yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())
    assert kept["recipe"]["loss"]["simd_scale"] is None
    row = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert row["weights"] == "weights/best.safetensors"
