"""Pure functions of training progress: learning rate, warm-up, gradient accumulation."""

from __future__ import annotations

import math

from rstinynet.train.recipe import Recipe

WARMUP_SHARE = 0.1
"""Largest share of a run under a time limit that is warm-up."""


def progress(*, iteration: int, total: int, elapsed_s: float, limit_s: float | None) -> float:
    """Share of the training that is done, 0 to 1: by batches, or by time where that is further.

    With a time limit the schedule follows whichever runs out first, so the learning rate always
    reaches its floor; such a run depends on the machine's speed and is not bit-reproducible.
    """
    by_batches = iteration / total
    by_time = elapsed_s / limit_s if limit_s is not None else 0.0
    return min(1.0, max(by_batches, by_time))


def limit_s(recipe: Recipe, *, batch_s: float, images: int, val_s: float) -> float | None:
    """Seconds of training that leave time for the end's validations; None: unlimited.

    A batch of `images` has taken `batch_s` seconds, a validation `val_s`.
    """
    if recipe.max_minutes is None:
        return None
    area = images * recipe.imgsz**2
    # A forward pass is about a third of a training step; a half leaves some room.
    seconds_a_pixel = 0.5 * batch_s / area
    # The last epoch's, and that of each candidate and of the best on all images.
    candidates = recipe.compare_unaveraged + (recipe.norm_batches > 0)
    passes = 1 + candidates + (recipe.val_images is not None)
    end = passes * val_s + recipe.norm_batches * area * seconds_a_pixel
    whole = recipe.max_minutes * 60
    return max(whole - 1.2 * end - 3, 0.1 * whole)


def decay_factor(recipe: Recipe, done: float) -> float:
    """Factor on `lr0` after the share `done` of the training: 1 falling to `lrf`."""
    if recipe.lr_step == "epoch" and done < 1:
        # An epoch's first batch may lie a rounding error before its start.
        done = math.floor(done * recipe.epochs + 1e-6) / recipe.epochs
    shape = 1 - done if recipe.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return recipe.lrf + (1 - recipe.lrf) * shape


def warmup_length(recipe: Recipe, batches_per_epoch: int) -> int:
    """Warm-up in batches: `warmup_iterations` if given, else `warmup_epochs`."""
    if recipe.warmup_iterations is not None:
        return recipe.warmup_iterations
    return round(recipe.warmup_epochs * batches_per_epoch)


def warmup_position(*, iteration: int, warmup: int, done: float, limited: bool) -> int:
    """How far warm-up is, in its batches: under a time limit it ends with a tenth of the run."""
    if not limited:
        return iteration
    return max(iteration, math.ceil(warmup * done / WARMUP_SHARE))


def backbone_is_frozen(
    recipe: Recipe, *, iteration: int, batches_per_epoch: int, done: float
) -> bool:
    """Whether the backbone is held; under a time limit for at most the same share of the run."""
    if recipe.freeze_backbone_epochs >= recipe.epochs:
        return True  # after the last batch too, when norms' statistics are taken anew
    if recipe.max_minutes is not None and done >= recipe.freeze_backbone_epochs / recipe.epochs:
        return False
    return iteration < recipe.freeze_backbone_epochs * batches_per_epoch


def accumulation(recipe: Recipe, *, iteration: int, warmup: int) -> int:
    """Batches whose gradients one update sums: 1 growing to nominal_batch / batch in warm-up."""
    if recipe.nominal_batch is None:
        return 1
    full = max(1.0, recipe.nominal_batch / recipe.batch)
    ramp = min(1.0, iteration / warmup) if warmup else 1.0
    return max(1, round(1 + (full - 1) * ramp))


def learning_rate(
    recipe: Recipe, done: float, *, iteration: int, warmup: int, is_bias: bool
) -> float:
    """Learning rate before any backbone factor.

    In warm-up the rate goes in a line from 0 (biases: `warmup_bias_lr`) to the schedule's value.
    """
    target = recipe.lr0 * decay_factor(recipe, done)
    if iteration >= warmup:
        return target
    start = recipe.warmup_bias_lr if is_bias else 0.0
    return start + (target - start) * iteration / warmup


def momentum(recipe: Recipe, *, iteration: int, warmup: int) -> float:
    """SGD's momentum: `warmup_momentum` growing to `momentum` in warm-up."""
    if iteration >= warmup:
        return recipe.momentum
    share = iteration / warmup
    return recipe.warmup_momentum + (recipe.momentum - recipe.warmup_momentum) * share
