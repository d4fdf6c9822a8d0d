"""The average of weights, against its formula."""

from __future__ import annotations

import math

import torch
from torch import nn

from rstinynet.train.ema import ModelEma


def test_average_follows_the_formula():
    model = nn.BatchNorm1d(1)
    ema = ModelEma(model, decay=0.9, tau=5.0)
    expected = 1.0
    for update, value in enumerate([2.0, 3.0, -1.0], start=1):
        nn.init.constant_(model.weight, value)
        ema.update(model)
        decay = 0.9 * (1 - math.exp(-update / 5.0))
        assert ema.decay_at(update) == decay
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(ema.module.weight, torch.tensor([expected]))
    assert ema.updates == 3


def test_batch_statistics_are_averaged_and_counts_copied():
    model = nn.BatchNorm1d(1)
    ema = ModelEma(model, decay=0.5, tau=1e-6)
    model.running_mean.fill_(4.0)
    model.num_batches_tracked.fill_(7)
    ema.update(model)
    assert ema.module.running_mean.item() == 2.0
    assert ema.module.num_batches_tracked.item() == 7


def test_average_is_for_inference_and_apart_from_the_model():
    model = nn.Linear(2, 2)
    ema = ModelEma(model, decay=0.9, tau=1.0)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    before = ema.module.weight.clone()
    nn.init.constant_(model.weight, 5.0)
    torch.testing.assert_close(ema.module.weight, before)
