"""The overlaps and losses of single pairs, against hand values and their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rstinynet.loss.terms import ciou, distribution_focal, nwd, overlap

coordinate = st.floats(0, 200, width=32)
side = st.floats(0.5, 100, width=32)
box = st.builds(lambda x, y, w, h: [x, y, x + w, y + h], coordinate, coordinate, side, side)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # The same box.
        ([3, 4, 13, 9], [3, 4, 13, 9], 1.0),
        # IoU 1/7; centres √2 apart in a hull of 3×3; equal aspect.
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7 - 2 / 18),
        # IoU 1/3; centres √2 apart, hull 4×4; v = 4/π²·(atan 2 - atan .5)², v²/(v + 1 - IoU).
        ([0, 0, 4, 2], [0, 0, 2, 4], 1 / 3 - 2 / 32 - 0.167826**2 / (0.167826 + 2 / 3)),
        # Apart: only the distance counts, (6² + 0) / (8² + 2²).
        ([0, 0, 2, 2], [6, 0, 8, 2], -36 / 68),
    ],
)
def test_ciou_equals_hand_values(first: list[float], second: list[float], expected: float) -> None:
    value = ciou(torch.tensor(first).float(), torch.tensor(second).float())
    assert value.item() == pytest.approx(expected, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(box, box)
def test_overlaps_are_symmetric_and_bounded(first: list[float], second: list[float]) -> None:
    a, b = torch.tensor(first), torch.tensor(second)
    assert -1.5 < ciou(a, b).item() <= 1 + 1e-5
    assert ciou(a, b).item() == pytest.approx(ciou(b, a).item(), abs=1e-4)
    assert 0 <= nwd(a, b, constant=12.8).item() <= 1
    assert nwd(a, b, constant=12.8).item() == pytest.approx(nwd(b, a, constant=12.8).item())


@settings(max_examples=60, deadline=None)
@given(box, box, st.floats(2, 60))
def test_nwd_equals_its_formula(first: list[float], second: list[float], constant: float) -> None:
    def gaussian(b: list[float]) -> list[float]:
        return [(b[0] + b[2]) / 2, (b[1] + b[3]) / 2, (b[2] - b[0]) / 2, (b[3] - b[1]) / 2]

    expected = math.exp(-math.dist(gaussian(first), gaussian(second)) / constant)
    value = nwd(torch.tensor(first), torch.tensor(second), constant=constant)
    assert value.item() == pytest.approx(expected, abs=2e-3)


def test_nwd_pulls_boxes_that_do_not_touch() -> None:
    moved = torch.tensor([20.0, 20, 24, 24], requires_grad=True)
    nwd(moved, torch.tensor([4.0, 4, 8, 8]), constant=12.8).backward()
    assert moved.grad is not None
    assert (moved.grad < 0).all()  # more overlap lies up and to the left


def test_gradients_are_finite_on_equal_and_empty_boxes() -> None:
    truth = torch.tensor([[1.0, 1, 4, 4], [2, 2, 2, 2]])
    found = truth.clone().requires_grad_()
    overlap(found, truth, share=0.5, constant=12.8).sum().backward()
    assert found.grad is not None
    assert found.grad.isfinite().all()


def test_overlap_mixes_by_its_share() -> None:
    a, b = torch.tensor([0.0, 0, 5, 5]), torch.tensor([1.0, 2, 7, 6])
    plain, distance = ciou(a, b), nwd(a, b, constant=8)
    assert overlap(a, b, share=0, constant=8) == plain
    assert overlap(a, b, share=1, constant=8) == distance
    mixed = overlap(a, b, share=0.25, constant=8).item()
    assert mixed == pytest.approx(0.75 * plain.item() + 0.25 * distance.item())


def test_focal_of_uniform_bins_is_the_entropy() -> None:
    sides = torch.tensor([[0.0, 3.5, 14.99, 7]])
    assert distribution_focal(torch.zeros(1, 4, 16), sides).item() == pytest.approx(math.log(16))


def test_focal_is_cross_entropy_of_the_two_bins_around() -> None:
    logits = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(1))
    p = logits.double().softmax(-1)[0]
    wanted = [(2, 0.7, 0.3), (0, 1.0, 0.0), (5, 0.5, 0.5), (9, 0.9, 0.1)]
    sides = torch.tensor([[low + high_share for low, _, high_share in wanted]])
    expected = -sum(
        low_share * math.log(p[row, low]) + high_share * math.log(p[row, low + 1])
        for row, (low, low_share, high_share) in enumerate(wanted)
    )
    assert distribution_focal(logits, sides).item() == pytest.approx(expected / 4, rel=1e-5)


def test_focal_clamps_sides_that_no_bin_stands_for() -> None:
    logits = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(2))
    beyond = distribution_focal(logits, torch.tensor([[-3.0, 99, -0.1, 15]]))
    edge = distribution_focal(logits, torch.tensor([[0.0, 14.99, 0, 14.99]]))
    assert torch.equal(beyond, edge)
