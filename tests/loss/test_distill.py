"""Distillation: nothing to learn from oneself, and only what teacher and student share counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rstinynet.loss.distill import Soft, distillation
from rstinynet.loss.settings import LossSettings
from rstinynet.model.decode import REG_MAX, split

CLASSES = 3
STRIDES = (4, 8)


def random_maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 4 * REG_MAX + CLASSES)
    return [torch.randn(*shape, side, side, generator=generator) for side in (8, 4)]


def said_by(maps, strides=STRIDES):
    sides, logits = split(maps)
    return Soft(strides, logits.sigmoid(), sides)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn():
    maps = [level.requires_grad_() for level in random_maps()]
    loss = distillation(maps, STRIDES, said_by([m.detach() for m in maps]), LossSettings())
    assert loss.item() == pytest.approx(0, abs=1e-4)
    loss.backward()
    assert max(level.grad.abs().max().item() for level in maps) < 1e-5


def test_it_is_the_divergence_of_scores_and_sides_over_the_summed_scores():
    maps, soft = random_maps(0), said_by(random_maps(1))
    sides, logits = split(maps)
    student = torch.distributions.Bernoulli(logits=logits.double())
    teacher = torch.distributions.Bernoulli(probs=soft.scores.double())
    classes = torch.distributions.kl_divergence(teacher, student).sum()
    bins = [x.double().reshape(*x.shape[:2], 4, REG_MAX) for x in (soft.sides, sides)]
    side = [torch.distributions.Categorical(logits=x) for x in bins]
    surest = soft.scores.amax(2).double()
    boxes = (torch.distributions.kl_divergence(*side).mean(-1) * surest).sum()
    settings = LossSettings(cls_gain=0.7, dfl_gain=1.1)
    got = distillation(maps, STRIDES, soft, settings)
    assert got.item() == pytest.approx(
        ((0.7 * classes + 1.1 * boxes) / surest.sum()).item(), rel=1e-5
    )


def test_levels_that_the_teacher_lacks_are_left_alone():
    maps = [level.requires_grad_() for level in random_maps(0)]
    distillation(maps, STRIDES, said_by(random_maps(1)[1:], (8,)), LossSettings()).backward()
    assert maps[0].grad is None
    assert maps[1].grad.abs().sum() > 0


def test_background_teaches_scores_and_no_sides():
    maps = [level.requires_grad_() for level in random_maps(0)]
    other = random_maps(1)
    for level in other:
        level[:, 4 * REG_MAX :] = -12
    distillation(maps, STRIDES, said_by(other), LossSettings()).backward()
    for level in maps:
        assert not level.grad[:, : 4 * REG_MAX].any()
        assert (level.grad[:, 4 * REG_MAX :] > 0).all()


def test_processes_divide_by_what_all_of_them_see():
    maps, soft = random_maps(0), said_by(random_maps(1))
    alone = distillation(maps, STRIDES, soft, LossSettings())
    shared = distillation(maps, STRIDES, soft, LossSettings(), total=lambda x: 2 * x)
    assert shared.item() == pytest.approx(alone.item() / 2)


def test_certain_scores_are_finite():
    maps = random_maps(0)
    sides, logits = split(maps)
    soft = Soft(STRIDES, (logits > 0).float(), sides)
    expected = F.binary_cross_entropy_with_logits(logits, soft.scores, reduction="sum") * 0.5
    got = distillation(maps, STRIDES, soft, LossSettings())
    assert got.item() == pytest.approx((expected / soft.scores.amax(2).sum()).item(), rel=1e-5)
