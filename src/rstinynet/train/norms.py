"""Batch statistics that fit a model's weights.

The running statistics of BatchNorm trail the weights by some 1/momentum batches (33 in YOLO's
layers), and an average of weights never produced its own. After short trainings this costs most of
the accuracy, so the statistics are taken anew (Izmailov et al., arXiv:1803.05407, section 3.2; Wu
and Johnson, arXiv:2105.07576, section 3).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rstinynet.model.detector import DetectorModel


@torch.no_grad()
def with_new_statistics(
    model: DetectorModel, images: Iterable[Tensor], *, like: nn.Module
) -> DetectorModel:
    """A copy of `model` with the mean batch statistics over `images`, in eval mode.

    Each of `images` is a batch (B, 3, H, W) in [0, 1]. Norms that are held (in eval mode) in
    `like`, the model in training, keep their statistics.
    """
    fresh = copy.deepcopy(model).eval()
    trained = {name for name, module in like.named_modules() if module.training}
    norms = [
        module
        for name, module in fresh.named_modules()
        if isinstance(module, nn.BatchNorm2d) and name in trained
    ]
    momenta = [norm.momentum for norm in norms]
    before = [{key: value.clone() for key, value in norm.state_dict().items()} for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    for x_BCHW in images:
        fresh(x_BCHW)
    for norm, momentum, state in zip(norms, momenta, before, strict=True):
        norm.momentum = momentum
        norm.eval()
        if not norm.num_batches_tracked:  # the auxiliary branch, which only training runs
            norm.load_state_dict(state)
    return fresh
