"""A batch holds just what its samples hold."""

from __future__ import annotations

import pytest
import torch

from rstinynet.data.augment import AugmentCounts, AugmentSettings
from rstinynet.data.batch import collate
from rstinynet.data.dataset import TrainingSet
from rstinynet.data.folder import open_split
from rstinynet.data.synthetic import make_synthetic


@pytest.fixture
def samples(tmp_path):
    make_synthetic(tmp_path, images=14, size=64, partial=True)
    return TrainingSet(open_split(tmp_path, "train"), AugmentSettings(imgsz=64))


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
