"""An exponential moving average of a model's weights, which is what is validated and kept."""

from __future__ import annotations

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class ModelEma(Generic[Model]):
    """Averages parameters and batch statistics with decay d(t) = decay * (1 - exp(-t / tau)).

    `t` counts updates, so that early averages follow the young model closely.
    """

    def __init__(self, model: Model, *, decay: float, tau: float) -> None:
        self.module: Model = copy.deepcopy(model)
        self.module.eval().requires_grad_(False)
        self.decay = decay
        self.tau = tau
        self.updates = 0

    def decay_at(self, update: int) -> float:
        """The decay used at the given update, counted from 1."""
        return self.decay * (1 - math.exp(-update / self.tau))

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Move the average towards `model`; integer buffers (batch counts) are copied."""
        self.updates += 1
        weight = 1 - self.decay_at(self.updates)
        theirs = model.state_dict()
        averages, values = [], []
        for name, average in self.module.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                values.append(theirs[name].detach())
            else:
                average.copy_(theirs[name])
        torch._foreach_lerp_(averages, values, weight)
