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
from rstinynet.train.ranks import ALONE, Ranks


@torch.no_grad()
def with_new_statistics(
    model: DetectorModel, images: Iterable[Tensor], *, like: nn.Module, ranks: Ranks = ALONE
) -> DetectorModel:
    """A copy of `model` with the mean batch statistics over `images`, in eval mode.

    Each of `images` is a batch (B, 3, H, W) in [0, 1]. Norms that are held (in eval mode) in
    `like`, the model in training, keep their statistics. Of several processes each gives its part
    of the batches, which may be none.
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
    _merge(norms, ranks)
    for norm, momentum, state in zip(norms, momenta, before, strict=True):
        norm.momentum = momentum
        norm.eval()
        if not norm.num_batches_tracked:  # the auxiliary branch, which only training runs
            norm.load_state_dict(state)
    return fresh


def _merge(norms: list[nn.BatchNorm2d], ranks: Ranks) -> None:
    """Make every process's statistics the mean over the batches of all."""
    if ranks.world == 1 or not norms:
        return
    sums = []
    for norm in norms:
        assert norm.num_batches_tracked is not None
        assert norm.running_mean is not None
        assert norm.running_var is not None
        batches = norm.num_batches_tracked.double().reshape(1)
        sums += [batches, norm.running_mean.double() * batches, norm.running_var.double() * batches]
    sizes = [len(each) for each in sums]
    whole = torch.split(ranks.total(torch.cat(sums)), sizes)
    for norm, batches, mean, variance in zip(
        norms, whole[::3], whole[1::3], whole[2::3], strict=True
    ):
        norm.num_batches_tracked.fill_(int(batches))  # type: ignore[union-attr]
        norm.running_mean.copy_(mean / batches.clamp(min=1))  # type: ignore[union-attr]
        norm.running_var.copy_(variance / batches.clamp(min=1))  # type: ignore[union-attr]
