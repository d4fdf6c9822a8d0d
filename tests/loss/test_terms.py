"""The overlaps and losses of single pairs, against hand values and their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rstinynet.loss.terms import ciou, distribution_focal, giou, nwd, overlap, simd, varifocal

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


def lattice_overlap(first: list[int], second: list[int]) -> tuple[int, int, int]:
    """Common cells, cells of either, and cells of the hull, counted one by one."""
    cells = [
        {(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])} for b in (first, second)
    ]
    low = [min(first[k], second[k]) for k in (0, 1)]
    high = [max(first[k], second[k]) for k in (2, 3)]
    hull = (high[0] - low[0]) * (high[1] - low[1])
    return len(cells[0] & cells[1]), len(cells[0] | cells[1]), hull


corner = st.integers(0, 12)
short_side = st.integers(1, 9)
small_box = st.builds(
    lambda x, y, w, h: [x, y, x + w, y + h], corner, corner, short_side, short_side
)


@settings(max_examples=60, deadline=None)
@given(small_box, small_box)
def test_giou_equals_counting_cells(first: list[int], second: list[int]) -> None:
    inner, union, hull = lattice_overlap(first, second)
    value = giou(torch.tensor(first).float(), torch.tensor(second).float())
    assert value.item() == pytest.approx(inner / union - (hull - union) / hull, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(box, box, st.floats(0.5, 10), st.floats(0.5, 10))
def test_similarity_distance_equals_its_formula(
    first: list[float], second: list[float], m: float, n: float
) -> None:
    w, h, p, q = (b[k + 2] - b[k] for b in (first, second) for k in (0, 1))
    dx, dy = ((first[k] + first[k + 2] - second[k] - second[k + 2]) / 2 for k in (0, 1))
    location = math.hypot(m * dx / (w + p), n * dy / (h + q))
    shape = math.hypot(m * (w - p) / (w + p), n * (h - q) / (h + q))
    value = simd(torch.tensor(first), torch.tensor(second), scale=(m, n))
    assert value.item() == pytest.approx(math.exp(-location - shape), abs=2e-4)
    assert 0 <= value.item() <= 1


def test_box_overlaps_have_finite_gradients_on_equal_and_empty_boxes() -> None:
    truth = torch.tensor([[1.0, 1, 4, 4], [2, 2, 2, 2]])
    for measure in (giou, lambda a, b: simd(a, b, scale=(6, 6))):
        found = truth.clone().requires_grad_()
        measure(found, truth).sum().backward()
        assert found.grad is not None
        assert found.grad.isfinite().all()


def test_overlap_takes_giou_where_it_is_asked_for() -> None:
    a, b = torch.tensor([0.0, 0, 5, 5]), torch.tensor([1.0, 2, 7, 6])
    mixed = overlap(a, b, share=0.5, constant=8, kind="giou").item()
    assert mixed == pytest.approx((giou(a, b).item() + nwd(a, b, constant=8).item()) / 2)


@pytest.mark.parametrize(
    ("logit", "wanted"), [(0.0, 0.0), (2.0, 0.0), (-3.0, 0.7), (1.0, 0.2), (4.0, 1.0)]
)
def test_varifocal_equals_its_formula(logit: float, wanted: float) -> None:
    p, alpha, gamma = 1 / (1 + math.exp(-logit)), 0.6, 1.5
    if wanted > 0:
        expected = -wanted * (wanted * math.log(p) + (1 - wanted) * math.log(1 - p))
    else:
        expected = -alpha * p**gamma * math.log(1 - p)
    value = varifocal(torch.tensor([logit]), torch.tensor([wanted]), alpha=alpha, gamma=gamma)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_varifocal_learns_background_from_its_own_score_too() -> None:
    """The weight alpha·p^gamma is part of the function: d/dx of -alpha p^2 log(1-p) at x = 0."""
    logit = torch.zeros(1, requires_grad=True)
    varifocal(logit, torch.zeros(1), alpha=1, gamma=2).sum().backward()
    assert logit.grad is not None
    # p = 1/2, dp/dx = 1/4: 2p·log 2·(1/4) + p²/(1-p)·(1/4)
    assert logit.grad.item() == pytest.approx(math.log(2) / 4 + 1 / 8)
