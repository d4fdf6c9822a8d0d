"""The assigner against an exhaustive one, and its promises to tiny boxes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rstinynet.loss import assign as assign_module
from rstinynet.loss.assign import Assignment, assign
from rstinynet.loss.candidates import (
    Grid,
    candidate_cells,
    candidate_counts,
    field_distance,
    in_field,
)
from rstinynet.loss.settings import LossSettings
from rstinynet.loss.targets import Packed
from rstinynet.model.decode import anchors

BASELINE = LossSettings.yolo11()
OURS = LossSettings()


def empty_maps(side: int, strides: tuple[int, ...]) -> list[Tensor]:
    return [torch.zeros(1, 1, side // stride, side // stride) for stride in strides]


def random_boxes(rng: torch.Generator, count: int, low: float, high: float, side: int) -> Tensor:
    size = low + (high - low) * torch.rand(count, 2, generator=rng)
    corner = torch.rand(count, 2, generator=rng) * (side - size)
    return torch.cat([corner, corner + size], dim=1)


def scalar_overlap(a: list[float], b: list[float], share: float, constant: float) -> float:
    """CIoU mixed with NWD, for two boxes, from the papers' formulas."""
    inner_w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    inner_h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    w, h, p, q = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    iou = inner_w * inner_h / (w * h + p * q - inner_w * inner_h)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    v = 4 / math.pi**2 * (math.atan(p / q) - math.atan(w / h)) ** 2
    complete = iou - (dx * dx + dy * dy) / hull - v * v / (v - iou + 1 + 1e-12)
    wasserstein = math.sqrt(dx * dx + dy * dy + ((w - p) / 2) ** 2 + ((h - q) / 2) ** 2)
    return max(0.0, (1 - share) * complete + share * math.exp(-wasserstein / constant))


def scalar_simd(a: list[float], b: list[float], scale: tuple[float, float]) -> float:
    """Shi et al., for two boxes."""
    location = shape = 0.0
    for axis, factor in enumerate(scale):
        side_a, side_b = a[axis + 2] - a[axis], b[axis + 2] - b[axis]
        unit = (side_a + side_b) / factor
        offset = (a[axis] + a[axis + 2]) / 2 - (b[axis] + b[axis + 2]) / 2
        location += (offset / unit) ** 2
        shape += ((side_a - side_b) / unit) ** 2
    return math.exp(-math.sqrt(location) - math.sqrt(shape))


def likeness(found: list[float], truth: list[float], options: LossSettings) -> float:
    if options.metric == "simd":
        return scalar_simd(found, truth, options.simd_units)
    return scalar_overlap(found, truth, options.metric_nwd, options.nwd_constant)


def divergence(point: list[float], radius: float, truth: list[float]) -> float:
    """KL divergence of N(point, radius² I) from the box's Gaussian: the sum of two in one
    dimension, log(s2/s1) + (s1² + (m1 - m2)²) / (2 s2²) - 1/2."""
    total = 0.0
    for axis in (0, 1):
        spread = (truth[axis + 2] - truth[axis]) / 2
        apart = point[axis] - (truth[axis] + truth[axis + 2]) / 2
        total += math.log(spread / radius) + (radius**2 + apart**2) / (2 * spread**2) - 0.5
    return total


def nearest_fields(
    points: list[list[float]], strides: list[float], truth: list[float], options: LossSettings
) -> set[int]:
    """RFLA's candidates, by looking at every anchor: the nearest, and one by smaller fields."""
    chosen: list[int] = []
    for shrink, count in ((1.0, options.field_topk), (options.field_decay, 1)):
        ranked = sorted(
            (divergence(point, stride * options.field_strides / 2 * shrink, truth), anchor)
            for anchor, (point, stride) in enumerate(zip(points, strides, strict=True))
            if anchor not in chosen
        )
        chosen += [anchor for _, anchor in ranked[:count]]
    return set(chosen)


def centres_within(
    points: list[list[float]], strides: list[float], truth: list[float], options: LossSettings
) -> set[int]:
    wide = list(truth)
    for axis in (0, 1):
        if truth[axis + 2] - truth[axis] < options.min_candidate_px:
            middle = (truth[axis] + truth[axis + 2]) / 2
            wide[axis] = middle - options.min_candidate_px / 2
            wide[axis + 2] = middle + options.min_candidate_px / 2
    return {
        anchor
        for anchor, (x, y) in enumerate(points)
        if wide[0] < x < wide[2] and wide[1] < y < wide[3]
    }


def exhaustive(
    boxes: Tensor,
    logits: Tensor,
    packed: Packed,
    places: tuple[Tensor, Tensor],
    options: LossSettings,
) -> dict[tuple[int, int], tuple[int, float]]:
    """(image, anchor) -> (box, target score), by looking at every anchor of every box."""
    points, strides = places
    takers: dict[tuple[int, int], list[tuple[bool, float, int, float]]] = {}
    for n, (truth, label, image) in enumerate(
        zip(packed.boxes.tolist(), packed.labels.tolist(), packed.image.tolist(), strict=True)
    ):
        choose = nearest_fields if options.candidates == "receptive_field" else centres_within
        candidates = []
        for anchor in choose(points.tolist(), strides.tolist(), truth, options):
            x, y = points[anchor].tolist()
            value = likeness(boxes[image, anchor].tolist(), truth, options)
            score = 1 / (1 + math.exp(-float(logits[image, anchor, label])))
            metric = score**options.alpha * max(value, 1e-9) ** options.beta
            inside = truth[0] < x < truth[2] and truth[1] < y < truth[3]
            candidates.append((metric, anchor, inside, value))
        for metric, anchor, inside, value in sorted(candidates, reverse=True)[: options.topk]:
            takers.setdefault((image, anchor), []).append((inside, value, n, metric))
    winners = {slot: max(taking) for slot, taking in takers.items()}
    best: dict[int, tuple[float, float]] = {}
    for _, value, n, metric in winners.values():
        top = best.get(n, (0.0, options.score_floor))
        best[n] = (max(top[0], metric), max(top[1], value))
    return {
        slot: (n, metric / best[n][0] * best[n][1]) for slot, (_, _, n, metric) in winners.items()
    }


def as_dict(found: Assignment) -> dict[tuple[int, int], tuple[int, float]]:
    columns = [column.tolist() for column in found]
    result = {(i, a): (n, score) for i, a, n, score in zip(*columns, strict=True)}
    assert len(result) == len(columns[0]), "an anchor stands for two boxes"
    return result


SIMD = LossSettings(metric="simd", simd_scale=(4.0, 2.5))
FIELDS_5 = LossSettings(candidates="receptive_field")
FIELDS = LossSettings(candidates="receptive_field", field_strides=3)


@pytest.mark.parametrize(
    "options",
    [
        BASELINE,
        OURS,
        LossSettings(topk=3, nwd_weight=1),
        SIMD,
        FIELDS,
        replace(SIMD, candidates="receptive_field", field_topk=6, field_decay=0.6),
    ],
)
@pytest.mark.parametrize("pairs_at_once", [1 << 20, 64])
@pytest.mark.parametrize("seed", range(4))
def test_equals_an_exhaustive_assigner(
    options: LossSettings, pairs_at_once: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assign_module, "PAIRS_AT_ONCE", pairs_at_once)
    rng = torch.Generator().manual_seed(seed)
    strides, side, images, classes = (4, 8, 16), 64, 2, 3
    maps = empty_maps(side, strides)
    points, stride_of = anchors(maps, strides)
    count = 14
    packed = Packed(
        random_boxes(rng, count, 3, 40, side),
        torch.randint(classes, (count,), generator=rng),
        torch.arange(count) % images,
    )
    # Predictions shaped like the boxes around them, so that overlaps of all sizes occur.
    half = 2 + 14 * torch.rand(images, len(points), 2, generator=rng)
    shift = 4 * torch.randn(images, len(points), 2, generator=rng)
    boxes = torch.cat([points + shift - half, points + shift + half], dim=2)
    logits = torch.randn(images, len(points), classes, generator=rng)
    found = as_dict(assign(boxes, logits, packed, grid=Grid(maps, strides), settings=options))
    expected = exhaustive(boxes, logits, packed, (points, stride_of), options)
    assert {slot: n for slot, (n, _) in found.items()} == {
        slot: n for slot, (n, _) in expected.items()
    }
    for slot, (_, score) in expected.items():
        assert found[slot][1] == pytest.approx(score, rel=2e-3, abs=1e-5)


coordinate = st.floats(-20, 90, width=32)
length = st.floats(0, 80, width=32)


@settings(max_examples=80, deadline=None)
@given(coordinate, coordinate, length, length, st.sampled_from([(4, 8, 16), (8, 16, 32)]))
def test_candidates_are_the_centres_strictly_inside(
    x: float, y: float, w: float, h: float, strides: tuple[int, ...]
) -> None:
    truth = torch.tensor([[x, y, x + w, y + h]])
    maps = empty_maps(64, strides)
    grid = Grid(maps, strides)
    points, _ = anchors(maps, strides)
    inside = ((points > truth[:, :2]) & (points < truth[:, 2:])).all(1)
    cells = candidate_cells(truth, grid, BASELINE)
    listed = {
        int(grid.start_L[level]) + row * int(grid.size_L2[level, 0]) + column
        for level in range(3)
        for column in range(int(cells.low[0, level, 0]), int((cells.low + cells.size)[0, level, 0]))
        for row in range(int(cells.low[0, level, 1]), int((cells.low + cells.size)[0, level, 1]))
    }
    assert listed == set(torch.nonzero(inside)[:, 0].tolist())


@pytest.mark.parametrize(
    ("strides", "side", "lost_share"),
    [
        # Of boxes at random positions, the part that holds no anchor centre: by inclusion and
        # exclusion of the levels' lattices, whose centres lie half a stride apart.
        ((8, 16, 32), 3, 1 - 9 / 64 - 9 / 256 - 9 / 1024),
        ((8, 16, 32), 4, 1 - 16 / 64 - 16 / 256 - 16 / 1024),
        ((4, 8, 16), 3, 1 - 9 / 16 - 5 / 64 - 5 / 256),
        ((4, 8, 16), 4, 0),
        ((4, 8, 16), 6, 0),
    ],
)
def test_every_tiny_box_has_candidates(
    strides: tuple[int, ...], side: int, lost_share: float
) -> None:
    rng = torch.Generator().manual_seed(side)
    truth = random_boxes(rng, 4000, side, side, 320)
    grid = Grid(empty_maps(320, strides), strides)
    enlarged = LossSettings(min_candidate_px=8, nearest_fallback=False)
    assert (candidate_cells(truth, grid, enlarged).size.prod(-1).sum(1) > 0).all()
    nearest = LossSettings(min_candidate_px=0, nearest_fallback=True)
    assert (candidate_cells(truth, grid, nearest).size.prod(-1).sum(1) > 0).all()
    lost = (candidate_cells(truth, grid, BASELINE).size.prod(-1).sum(1) == 0).float().mean()
    assert lost.item() == pytest.approx(lost_share, abs=0.03)


@settings(max_examples=60, deadline=None)
@given(coordinate, coordinate, length, length, st.integers(1, 5))
def test_cells_near_a_box_hold_its_nearest_fields(
    x: float, y: float, w: float, h: float, count: int
) -> None:
    """Also of boxes that are flat, or lie outside the image."""
    truth = torch.tensor([[x, y, x + w, y + h]])
    strides = (4, 8, 16)
    maps = empty_maps(64, strides)
    grid = Grid(maps, strides)
    points, stride_of = anchors(maps, strides)
    options = LossSettings(candidates="receptive_field", field_topk=count)
    cells = candidate_cells(truth, grid, options)
    listed = [
        int(grid.start_L[level]) + row * int(grid.size_L2[level, 0]) + column
        for level in range(3)
        for column in range(int(cells.low[0, level, 0]), int((cells.low + cells.size)[0, level, 0]))
        for row in range(int(cells.low[0, level, 1]), int((cells.low + cells.size)[0, level, 1]))
    ]
    everything = torch.ones(1, len(points), dtype=torch.bool)
    of_all = in_field(points[None], stride_of[None], everything, truth, options)[0]
    of_near = in_field(points[listed][None], stride_of[listed][None], everything[:, listed], truth,
                       options)[0]  # fmt: skip
    radius = stride_of * options.field_strides / 2
    assert of_all.sum() == of_near.sum() == count + 1
    assert candidate_counts(truth, grid, options).tolist() == [count + 1]
    # Equally near ones may be exchanged, so the distances are compared.
    distance = field_distance(points, radius, truth)
    first = distance[of_all].sort().values[:count]
    assert torch.equal(first, distance[listed][of_near].sort().values[:count])


def test_field_distance_is_the_divergence_of_the_two_gaussians() -> None:
    truth, point, radius = [3.0, 4, 9, 20], [7.0, 11], 5.0
    box = torch.distributions.MultivariateNormal(
        torch.tensor([6.0, 12]), torch.diag(torch.tensor([9.0, 64]))
    )
    field = torch.distributions.MultivariateNormal(torch.tensor(point), torch.eye(2) * radius**2)
    expected = float(torch.distributions.kl_divergence(field, box))
    found = field_distance(torch.tensor(point), torch.tensor(radius), torch.tensor(truth))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert divergence(point, radius, truth) == pytest.approx(expected, rel=1e-5)


def test_fields_prefer_the_level_of_their_size() -> None:
    strides = (4, 8, 16)
    maps = empty_maps(256, strides)
    grid = Grid(maps, strides)
    points, stride_of = anchors(maps, strides)
    sides = torch.tensor([4.0, 20, 40, 80])
    truth = torch.cat([128.3 - sides[:, None] / 2, 128.3 + sides[:, None] / 2], 1)[:, [0, 0, 1, 1]]
    everything = torch.ones(4, len(points), dtype=torch.bool)
    chosen = in_field(points[None], stride_of[None].expand(4, -1), everything, truth, FIELDS_5)
    assert [stride_of[row].unique().tolist() for row in chosen] == [[4], [4], [8], [16]]
    assert grid.anchors == len(points)


def test_a_box_between_centres_gets_the_nearest_of_each_level() -> None:
    maps = empty_maps(64, (8, 16, 32))
    grid = Grid(maps, (8, 16, 32))
    truth = torch.tensor([[7.0, 15, 10, 17], [60, 60, 64, 64], [70, -9, 72, -7]])
    cells = candidate_cells(truth, grid, LossSettings(min_candidate_px=0))
    assert (cells.size == 1).all()
    assert cells.low.tolist() == [
        [[1, 2], [0, 1], [0, 0]],
        [[7, 7], [3, 3], [1, 1]],
        [[7, 0], [3, 0], [1, 0]],
    ]


@pytest.mark.parametrize("reach", [1e-3, 500.0])
def test_boxes_that_no_prediction_overlaps_still_have_something_to_learn(reach: float) -> None:
    """At the start predictions may be specks or far too large; each box must keep a target."""
    strides = (4, 8, 16)
    maps = empty_maps(128, strides)
    points, _ = anchors(maps, strides)
    x, y = torch.meshgrid(torch.arange(8) * 16.0, torch.arange(8) * 16.0, indexing="ij")
    corner = torch.stack([x, y], dim=-1).reshape(-1, 2) + 5.3
    truth = torch.cat([corner, corner + 3], dim=1)
    packed = Packed(truth, torch.zeros(64, dtype=torch.int64), torch.zeros(64, dtype=torch.int64))
    boxes = torch.cat([points - reach, points + reach], dim=1)[None]
    logits = torch.full((1, len(points), 1), -7.0)
    for options in (OURS, LossSettings(nwd_weight=0), FIELDS, SIMD):
        found = assign(boxes, logits, packed, grid=Grid(maps, strides), settings=options)
        best = torch.zeros(64).scatter_reduce(0, found.box, found.score, "amax")
        assert (best >= options.score_floor - 1e-6).all()


def test_an_enlarged_neighbour_does_not_take_an_anchor_from_the_box_it_lies_in() -> None:
    strides = (8,)
    maps = empty_maps(32, strides)
    points, _ = anchors(maps, strides)
    truth = torch.tensor([[10.0, 10, 14, 14], [13.0, 8, 17, 16]])
    packed = Packed(truth, torch.tensor([0, 0]), torch.tensor([0, 0]))
    boxes = truth[1].expand(1, len(points), 4).clone()
    logits = torch.zeros(1, len(points), 1)
    found = as_dict(assign(boxes, logits, packed, grid=Grid(maps, strides), settings=OURS))
    assert found[0, 5][0] == 0  # its centre (12, 12) lies in the first box only


def test_no_boxes_no_assignment() -> None:
    maps = empty_maps(32, (8,))
    packed = Packed(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).long())
    found = assign(
        torch.zeros(2, 16, 4),
        torch.zeros(2, 16, 3),
        packed,
        grid=Grid(maps, (8,)),
        settings=OURS,
    )
    assert as_dict(found) == {}
