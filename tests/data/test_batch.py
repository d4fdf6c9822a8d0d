"""Batches are the same however they are made, and an epoch can be taken up anywhere."""

from __future__ import annotations

import threading

import pytest
import torch

from rstinynet.data.augment import AugmentCounts, AugmentSettings
from rstinynet.data.batch import batch_count, batches, collate
from rstinynet.data.dataset import TrainingSet
from rstinynet.data.folder import open_split
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import DataError, UsageError


@pytest.fixture
def samples(tmp_path):
    make_synthetic(tmp_path, images=14, size=64, partial=True)
    return TrainingSet(open_split(tmp_path, "train"), AugmentSettings(imgsz=64))


def assert_same(first, second):
    assert [batch.ids for batch in first] == [batch.ids for batch in second]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.known, other.known)
        for name in ("boxes", "labels", "crowds"):
            pairs = zip(getattr(one, name), getattr(other, name), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_collate_keeps_each_sample(samples):
    made = [samples.sample(0, index) for index in range(3)]
    batch = collate(made)
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous()
    assert batch.known.shape == (3, 2)
    for row, sample in enumerate(made):
        assert torch.equal(batch.images[row], torch.from_numpy(sample.image).permute(2, 0, 1))
        assert batch.boxes[row].tolist() == sample.boxes.tolist()
        assert batch.labels[row].dtype == torch.int64
        assert batch.crowds[row].shape == (len(sample.crowds), 4)
    assert batch.counts == sum((sample.counts for sample in made), AugmentCounts())


def test_any_number_of_workers_makes_the_same_batches(samples):
    alone = list(batches(samples, 1, 4))
    assert [len(batch) for batch in alone] == [4, 4, 4, 2]
    assert batch_count(samples, 4) == 4
    assert_same(alone, list(batches(samples, 1, 4, workers=1)))
    assert_same(alone, list(batches(samples, 1, 4, workers=3)))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_taken_up_at_any_batch(samples, workers):
    whole = list(batches(samples, 0, 3))
    assert_same(whole[2:], list(batches(samples, 0, 3, start=2, workers=workers)))
    assert list(batches(samples, 0, 3, start=5, workers=workers)) == []


def test_leaving_early_ends_the_threads(samples):
    stream = batches(samples, 0, 1, workers=2)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("samples")]


def test_an_error_in_a_worker_is_the_caller_s(samples):
    samples.labelled.images[0].path.unlink()
    with pytest.raises(DataError, match="image not found"):
        list(batches(samples, 0, 4, workers=2))


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"start": 99}, {"workers": -1}])
def test_arguments_outside_their_range_are_usage_errors(samples, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        batches(samples, 0, **{"batch_size": 4, **wrong})
