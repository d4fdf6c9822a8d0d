"""Learning rate, warm-up, accumulation and the share done."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rstinynet.train import schedule
from rstinynet.train.recipe import paper, short


def rate(recipe, done, iteration, *, is_bias=False, warmup=30):
    return schedule.learning_rate(recipe, done, iteration=iteration, warmup=warmup, is_bias=is_bias)


def test_linear_schedule_falls_from_lr0_to_its_hundredth():
    recipe = paper()
    assert rate(recipe, 0.0, 30) == pytest.approx(0.01)
    assert rate(recipe, 0.5, 300) == pytest.approx(0.00505)
    assert rate(recipe, 1.0, 600) == pytest.approx(0.0001)


def test_the_papers_rate_falls_by_epochs_and_ours_by_batches():
    recipe = replace(paper(), epochs=4)
    assert [rate(recipe, done, 99) for done in (0.25, 0.49, 0.5 - 1e-12)] == [
        pytest.approx(value) for value in (0.007525, 0.007525, 0.00505)
    ]
    assert rate(recipe, 1.0, 99) == pytest.approx(0.0001)
    by_batch = replace(recipe, lr_step="batch")
    assert rate(by_batch, 0.49, 99) < rate(by_batch, 0.25, 99) == rate(recipe, 0.25, 99)


def test_cosine_schedule_is_halfway_in_the_middle():
    recipe = replace(short(), lr0=1.0, lrf=0.0)
    assert rate(recipe, 0.5, 300) == pytest.approx(0.5)
    assert rate(recipe, 0.25, 300) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert rate(recipe, 1.0, 600) == pytest.approx(0.0)


def test_warmup_leads_biases_down_and_weights_up():
    recipe = paper()
    assert rate(recipe, 0.0, 0) == 0.0
    assert rate(recipe, 0.0, 15) == pytest.approx(0.005)
    assert rate(recipe, 0.0, 0, is_bias=True) == pytest.approx(0.1)
    assert rate(recipe, 0.0, 15, is_bias=True) == pytest.approx(0.055)


def test_momentum_warms_up():
    recipe = paper()
    assert schedule.momentum(recipe, iteration=0, warmup=30) == pytest.approx(0.8)
    assert schedule.momentum(recipe, iteration=15, warmup=30) == pytest.approx(0.8685)
    assert schedule.momentum(recipe, iteration=30, warmup=30) == pytest.approx(0.937)


def test_accumulation_grows_to_the_nominal_batch():
    recipe = paper()
    sums = [schedule.accumulation(recipe, iteration=i, warmup=30) for i in (0, 15, 30, 500)]
    assert sums == [1, 2, 4, 4]
    assert schedule.accumulation(short(), iteration=500, warmup=30) == 1


def test_warmup_is_counted_in_epochs_or_in_batches():
    assert schedule.warmup_length(paper(), 50) == 150
    assert schedule.warmup_length(short(), 50) == 200


@pytest.mark.parametrize(
    ("iteration", "elapsed_s", "limit_s", "expected"),
    [(50, 1e9, None, 0.5), (50, 60, 600, 0.5), (10, 450, 600, 0.75), (10, 700, 600, 1.0)],
)
def test_progress_is_the_further_of_batches_and_time(iteration, elapsed_s, limit_s, expected):
    done = schedule.progress(iteration=iteration, total=100, elapsed_s=elapsed_s, limit_s=limit_s)
    assert done == pytest.approx(expected)


def test_warmup_ends_with_a_tenth_of_a_run_under_a_time_limit():
    def position(iteration, done, limited=True):
        return schedule.warmup_position(iteration=iteration, warmup=200, done=done, limited=limited)

    assert position(10, 0.05) == 100
    assert position(20, 0.1) == 200
    assert position(150, 0.05) == 150
    assert position(20, 0.1, limited=False) == 20
    recipe = replace(short(), max_minutes=5.0)
    assert rate(recipe, 0.1, position(20, 0.1)) > 0.9 * recipe.lr0


def test_backbone_is_frozen_for_its_share_of_a_run_under_a_time_limit():
    def frozen(recipe, iteration, done):
        return schedule.backbone_is_frozen(
            recipe, iteration=iteration, batches_per_epoch=50, done=done
        )

    recipe = replace(short(), freeze_backbone_epochs=3.0)
    assert frozen(recipe, 149, 0.5)
    assert not frozen(recipe, 150, 0.1)
    limited = replace(recipe, max_minutes=5.0)
    assert frozen(limited, 10, 0.09)
    assert not frozen(limited, 10, 0.11)


@pytest.mark.parametrize("minutes", [None, 5.0])
def test_a_backbone_frozen_for_the_whole_run_stays_so_when_its_batches_are_done(minutes):
    recipe = replace(short(), epochs=3, freeze_backbone_epochs=3.0, max_minutes=minutes)
    assert schedule.backbone_is_frozen(recipe, iteration=150, batches_per_epoch=50, done=1.0)


def test_a_time_limit_leaves_room_for_the_validations_at_its_end():
    def limit(val_s, **changes):
        recipe = replace(short(), **{"max_minutes": 10.0, "norm_batches": 0} | changes)
        return schedule.limit_s(recipe, batch_s=1.0, images=8, val_s=val_s)

    assert limit(20.0, max_minutes=None) is None
    assert limit(20.0) == pytest.approx(600 - 1.2 * 2 * 20 - 3)
    assert limit(20.0, val_images=5) == pytest.approx(600 - 1.2 * 3 * 20 - 3)
    assert limit(20.0, compare_unaveraged=False) == pytest.approx(600 - 1.2 * 20 - 3)
    assert limit(1000.0) == pytest.approx(60)
