"""Batches are the same however they are made, and a run can be taken up anywhere."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from rstinynet.data.folder import open_split
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import DataError, UsageError
from rstinynet.train.batches import Batches
from rstinynet.train.ranks import Ranks
from rstinynet.train.recipe import short


@pytest.fixture
def folder(tmp_path):
    make_synthetic(tmp_path, images=14, size=64, partial=True)
    return tmp_path


def read(folder, start, stop, *, workers, **changes):
    recipe = short()
    augment = replace(recipe.augment, imgsz=64, **changes)
    recipe = replace(recipe, batch=4, workers=workers, augment=augment)
    with Batches(open_split(folder, "train"), recipe) as batches:
        return list(batches.stream(start, stop, mosaic=lambda iteration: iteration < 4))


def assert_same(first, second):
    assert [iteration for iteration, _ in first] == [iteration for iteration, _ in second]
    first, second = [batch for _, batch in first], [batch for _, batch in second]
    assert [batch.ids for batch in first] == [batch.ids for batch in second]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.known, other.known)
        for name in ("boxes", "labels", "crowds"):
            pairs = zip(getattr(one, name), getattr(other, name), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_and_any_start_make_the_same_batches(folder, workers):
    whole = read(folder, 0, 7, workers=2)
    assert len(whole) == 7
    assert len({tuple(batch.ids) for _, batch in whole}) > 1
    assert_same(whole, read(folder, 0, 7, workers=workers))
    assert_same(whole[2:], read(folder, 2, 7, workers=workers))


@pytest.mark.parametrize("fit", ["native", "letterbox"])
def test_with_every_augmentation_on_any_number_of_workers_makes_the_same(folder, fit):
    changes = {
        "fit": fit,
        "degrees": 10,
        "shear": 5,
        "translate": 0.1,
        "paste_prob": 1.0,
        "paste_px": 30,
        "grey_prob": 0.3,
        "contrast_prob": 0.5,
        "blur_prob": 0.5,
        "noise_prob": 0.5,
        "jpeg_prob": 0.5,
        "on_device": "always",
    }
    made = [read(folder, 0, 4, workers=workers, **changes) for workers in (1, 2, 4)]
    assert sum(batch.counts.pasted for _, batch in made[0]) > 0
    for other in made[1:]:
        assert_same(made[0], other)
        for (_, one), (_, another) in zip(made[0], other, strict=True):
            shown = one.images_on(torch.device("cpu"))
            assert torch.equal(shown, another.images_on(torch.device("cpu")))
            assert not torch.equal(shown, one.images)


def test_an_error_in_a_worker_is_the_callers_and_ends_the_threads(folder):
    for image in (folder / "images").iterdir():
        image.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        read(folder, 0, 3, workers=2)
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


@pytest.mark.parametrize(
    ("batch", "imgsz", "world", "sync", "images", "few"),
    [
        (1, 32, 1, True, 14, True),
        (8, 32, 1, True, 1, True),  # a batch is no larger than the set
        (2, 32, 1, True, 14, False),
        (1, 64, 1, True, 14, False),
        (2, 32, 2, True, 14, False),
        (2, 32, 2, False, 14, True),
    ],
)
def test_one_value_a_channel_is_too_few_for_batch_norm(
    folder, batch, imgsz, world, sync, images, few
):
    recipe = short()
    recipe = replace(
        recipe, batch=batch, sync_norms=sync, augment=replace(recipe.augment, imgsz=imgsz)
    )
    labelled = open_split(folder, "train")
    labelled = replace(labelled, images=labelled.images[:images])
    told = pytest.raises(UsageError, match="batch of 1 image of 32 px has one value a channel")
    with told if few else nullcontext():
        Batches(labelled, recipe, ranks=Ranks(world=world))
