"""Learning from another detector's raw maps: soft class scores and distributions of the sides.

Sources: knowledge distillation, Hinton et al. 2015 (arXiv:1503.02531), with the classes as so many
yes-or-no questions; localisation distillation, Zheng et al., CVPR 2022 (equation 2), weighted here
by what the teacher scores in place of its regions.

Shape legend: B images, A anchors of the shared levels, C classes, R bins of a side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rstinynet.loss.settings import LossSettings
from rstinynet.model.decode import REG_MAX, split


class Soft(NamedTuple):
    """What a teacher says of B images, on levels that the student has too."""

    strides: tuple[int, ...]
    """The levels' strides, in the order of the anchors."""
    scores: Tensor
    """(B, A, C) in [0, 1], the student's classes."""
    sides: Tensor
    """(B, A, 4·R) logits of the sides' distributions."""


def distillation(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    soft: Soft,
    settings: LossSettings,
    *,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """How far the student's maps are from what the teacher says: 0 where they are equal.

    The Kullback-Leibler divergence of every class score, times `cls_gain`, and that of the sides'
    distributions, a mean over the four, each anchor weighted by the teacher's highest score, times
    `dfl_gain`; both divided by the sum of these highest scores over the whole batch (at least 1).
    Every class counts on every image, also those that the labels leave unknown: that is what a
    teacher can add to partial labels. Levels that the teacher lacks are left alone.

    Args:
        maps: the student's, for each level (B, 4·16 + C, H, W).
        strides: of these levels.
        soft: the teacher's; its strides are a part of `strides`.
        total: sums a number over the processes that share a batch.
    """
    shared = [maps[list(strides).index(stride)].float() for stride in soft.strides]
    sides_BA64, logits_BAC = split(shared)
    surest_BA = soft.scores.amax(dim=2)
    scale = surest_BA.sum()
    scale = 1 / (total(scale) if total is not None else scale).clamp(min=1)
    cross = F.binary_cross_entropy_with_logits(logits_BAC, soft.scores, reduction="sum")
    cls = cross - _entropy(soft.scores).sum()
    # Most anchors are background, of which the sides mean nothing: they are left out.
    image, anchor = torch.nonzero(surest_BA > 0.01, as_tuple=True)
    wanted_F4R = soft.sides[image, anchor].reshape(-1, 4, REG_MAX).log_softmax(-1)
    got_F4R = sides_BA64[image, anchor].reshape(-1, 4, REG_MAX).log_softmax(-1)
    apart_F4R = F.kl_div(got_F4R, wanted_F4R, reduction="none", log_target=True)
    sides = (apart_F4R.sum(-1).mean(-1) * surest_BA[image, anchor]).sum()
    return (settings.cls_gain * cls + settings.dfl_gain * sides) * scale


def _entropy(p: Tensor) -> Tensor:
    """Of yes or no at probability `p`, elementwise; 0 at 0 and 1."""
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))
