"""Task-aligned assignment (Feng et al., TOOD 2021, section 3.2) as in YOLO11, for tiny boxes too.

An anchor is a candidate of a box when its centre lies strictly inside. Of its candidates a box
takes the `topk` with the highest alignment `score^alpha · overlap^beta`; an anchor that several
boxes take goes to the one it overlaps most. The target score of an anchor is its alignment over
the box's best, times the box's best overlap.

What differs, each by a setting: other candidates (candidates.py), with anchors inside the true box
first in a conflict; the overlap is CIoU mixed with the normalised Wasserstein distance, or is the
similarity distance; target scores have a floor. Alignments are kept as logarithms, because
overlap^6 of a far-off prediction underflows float32 and would leave a box with nothing to learn
from.

Only (box, candidate) pairs are ever formed.

Shape legend: B images, A anchors, C classes, N boxes of the whole batch, L levels, F assigned
anchors, M candidates in a chunk's widest box, n boxes of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rstinynet.loss.candidates import Cells, Grid, candidate_cells, in_field
from rstinynet.loss.settings import LossSettings
from rstinynet.loss.targets import Packed
from rstinynet.loss.terms import overlap, simd

PAIRS_AT_ONCE = 1 << 20
"""Most (box, candidate) pairs held at a time, which bounds memory."""
LEAST_OVERLAP = 1e-9
"""Stands for zero under the logarithm."""


class Assignment(NamedTuple):
    """The anchors that stand for a box, as F parallel entries; the rest are background."""

    image: Tensor
    anchor: Tensor
    box: Tensor
    """Index into the packed boxes."""
    score: Tensor
    """Target score of the box's class, in [0, 1]."""


class _Pairs(NamedTuple):
    box: Tensor
    anchor: Tensor
    log_alignment: Tensor
    overlap: Tensor
    inside: Tensor
    distance: Tensor


@torch.no_grad()
def assign(
    boxes_BA4: Tensor, logits_BAC: Tensor, packed: Packed, *, grid: Grid, settings: LossSettings
) -> Assignment:
    """Give anchors to boxes.

    Args:
        boxes_BA4: predicted boxes, XYXY in pixels, float32.
        logits_BAC: predicted class logits, float32.
        packed: the true boxes of the batch.
        grid: where the anchors are.
        settings: the switches above.
    """
    cells = candidate_cells(packed.boxes, grid, settings)
    counts, order = torch.sort(cells.size.prod(-1).sum(-1))
    parts = [
        _best_pairs(order[start:stop], cells, boxes_BA4, logits_BAC, packed, grid, settings)
        for start, stop in _chunks(counts.tolist())
    ]
    if not parts:
        nothing = torch.zeros(0, dtype=torch.int64, device=boxes_BA4.device)
        return Assignment(nothing, nothing, nothing, nothing.float())
    pairs = _Pairs(*(torch.cat(column) for column in zip(*parts, strict=True)))
    image = packed.image[pairs.box]
    kept = _one_box_each(image * grid.anchors + pairs.anchor, pairs)
    box = pairs.box[kept]
    log_alignment = pairs.log_alignment[kept]
    best_alignment = log_alignment.new_full((len(packed.boxes),), -torch.inf)
    best_alignment.scatter_reduce_(0, box, log_alignment, "amax")
    best_overlap = log_alignment.new_full((len(packed.boxes),), settings.score_floor)
    best_overlap.scatter_reduce_(0, box, pairs.overlap[kept], "amax")
    score = torch.exp(log_alignment - best_alignment[box]) * best_overlap[box]
    return Assignment(image[kept], pairs.anchor[kept], box, score)


def _chunks(counts: list[int]) -> Iterator[tuple[int, int]]:
    """Runs of boxes with candidate counts (sorted) alike enough to be padded to one width."""
    start = next((index for index, count in enumerate(counts) if count), len(counts))
    while start < len(counts):
        width = max(32, 2 * counts[start])
        stop = start + 1
        while (
            stop < len(counts)
            and counts[stop] <= width
            and (stop + 1 - start) * counts[stop] <= PAIRS_AT_ONCE
        ):
            stop += 1
        yield start, stop
        start = stop


def _best_pairs(
    box_n: Tensor,
    cells: Cells,
    boxes_BA4: Tensor,
    logits_BAC: Tensor,
    packed: Packed,
    grid: Grid,
    settings: LossSettings,
) -> _Pairs:
    """The `topk` best aligned candidates of each of some boxes, flat."""
    size_nL2 = cells.size[box_n]
    end_nL = size_nL2.prod(-1).cumsum(1)
    number_M = torch.arange(int(end_nL[:, -1].max()), device=box_n.device)
    valid_nM = number_M < end_nL[:, -1:]
    level_nM = (number_M >= end_nL[:, :-1, None]).sum(1)
    within_nM = number_M - F.pad(end_nL, (1, 0)).gather(1, level_nM)
    width_nM = size_nL2[..., 0].gather(1, level_nM).clamp(min=1)
    low_nL2 = cells.low[box_n]
    column_nM = low_nL2[..., 0].gather(1, level_nM) + within_nM % width_nM
    row_nM = low_nL2[..., 1].gather(1, level_nM) + within_nM // width_nM
    anchor_nM = grid.start_L[level_nM] + row_nM * grid.size_L2[level_nM, 0] + column_nM
    anchor_nM = torch.where(valid_nM, anchor_nM, 0)

    true_n14 = packed.boxes[box_n][:, None]
    image_n1 = packed.image[box_n][:, None]
    stride_nM = grid.stride_L[level_nM]
    points_nM2 = (torch.stack([column_nM, row_nM], dim=-1) + 0.5) * stride_nM[..., None]
    if settings.candidates == "receptive_field":
        valid_nM = in_field(points_nM2, stride_nM, valid_nM, packed.boxes[box_n], settings)
    overlap_nM = _likeness(boxes_BA4[image_n1, anchor_nM], true_n14, settings)
    logit_nM = logits_BAC[image_n1, anchor_nM, packed.labels[box_n][:, None]]
    log_nM = settings.alpha * F.logsigmoid(logit_nM)
    log_nM = log_nM + settings.beta * overlap_nM.clamp(min=LEAST_OVERLAP).log()
    log_nM = log_nM.masked_fill(~valid_nM, -torch.inf)
    log_nK, top_nK = log_nM.topk(min(settings.topk, len(number_M)), dim=1)

    x, y = (points_nM2[..., axis].gather(1, top_nK) for axis in (0, 1))
    x1, y1, x2, y2 = true_n14.unbind(-1)
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    distance = (x - (x1 + x2) / 2).square() + (y - (y1 + y2) / 2).square()
    taken = log_nK > -torch.inf
    return _Pairs(
        box_n[:, None].expand_as(top_nK)[taken],
        anchor_nM.gather(1, top_nK)[taken],
        log_nK[taken],
        overlap_nM.gather(1, top_nK)[taken],
        inside[taken],
        distance[taken],
    )


def _likeness(found: Tensor, truth: Tensor, settings: LossSettings) -> Tensor:
    """What the alignment metric takes for the overlap of boxes (..., 4), in [0, 1]."""
    if settings.metric == "simd":
        return simd(found, truth, scale=settings.simd_units)
    mixed = overlap(found, truth, share=settings.metric_nwd, constant=settings.nwd_constant)
    return mixed.clamp(0, 1)


def _one_box_each(slot_P: Tensor, pairs: _Pairs) -> Tensor:
    """Indices of the pairs that win their anchor: inside the true box, then overlap, then near."""
    order = torch.argsort(pairs.distance, stable=True)
    rank = torch.where(pairs.inside, pairs.overlap, pairs.overlap - 2)
    order = order[torch.argsort(rank[order], descending=True, stable=True)]
    order = order[torch.argsort(slot_P[order], stable=True)]
    sorted_slot = slot_P[order]
    wins = torch.ones_like(sorted_slot, dtype=torch.bool)
    wins[1:] = sorted_slot[1:] != sorted_slot[:-1]
    return order[wins]
