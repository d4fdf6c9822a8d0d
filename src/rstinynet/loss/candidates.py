"""Which anchors may stand for a box, before any prediction is looked at.

`inside`: those whose centre lies strictly inside the box, enlarged where it is small. They are a
rectangle of cells on each level, known without looking at any anchor.

`receptive_field`: those whose receptive field is most like the box, whether inside or not (RFLA:
Xu et al., ECCV 2022, sections 3.1 to 3.3). Box and field are Gaussians, compared by the
Kullback-Leibler divergence of the field's from the box's. The `field_topk` nearest are taken, and
after the fields have shrunk by `field_decay` the nearest other one. Three things differ from the
paper: the candidates still go through the task-aligned metric, a level's field is a multiple of
its stride (there: half the network's theoretical field), and only cells close enough to be among
the nearest are compared, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rstinynet.loss.settings import LossSettings

LEAST_SIDE = 1e-2
"""Pixels that a box's side has at least, where it is divided by."""


class Cells(NamedTuple):
    """The cells of every level that are candidates, as rectangles."""

    low: Tensor
    """(N, L, 2) first column and row, int64."""
    size: Tensor
    """(N, L, 2) columns and rows, int64; 0 where the level has none."""


class Grid:
    """The levels' sizes in cells and their strides in pixels, finest first."""

    def __init__(self, maps: Sequence[Tensor], strides: Sequence[int]) -> None:
        device = maps[0].device
        sizes = [(level.shape[-1], level.shape[-2]) for level in maps]
        starts = [0]
        for columns, rows in sizes:
            starts.append(starts[-1] + columns * rows)
        self.anchors = starts[-1]
        self.size_L2 = torch.tensor(sizes, device=device)
        self.start_L = torch.tensor(starts[:-1], device=device)
        self.stride_L = torch.tensor(strides, device=device, dtype=torch.float32)


def candidate_cells(boxes_N4: Tensor, grid: Grid, settings: LossSettings) -> Cells:
    """The rectangles of cells that hold each box's candidates; all are, unless `in_field` says."""
    if settings.candidates == "receptive_field":
        return _near_cells(boxes_N4, grid, reach=settings.field_topk)
    middle = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    half = settings.min_candidate_px / 2
    small = boxes_N4[:, 2:] - boxes_N4[:, :2] < settings.min_candidate_px
    low = torch.where(small, middle - half, boxes_N4[:, :2])
    high = torch.where(small, middle + half, boxes_N4[:, 2:])

    # Cell i has its centre at (i + .5)·stride; strictly inside means low < centre < high.
    stride_L1 = grid.stride_L[:, None]
    first = (torch.floor(low[:, None] / stride_L1 - 0.5) + 1).clamp(min=0).long()
    end = torch.ceil(high[:, None] / stride_L1 - 0.5).long()
    size = (torch.minimum(end, grid.size_L2) - first).clamp(min=0)
    if settings.nearest_fallback:
        nearest = _near_cells(boxes_N4, grid, reach=0)
        lost = (size.prod(-1).sum(-1) == 0)[:, None, None]
        first = torch.where(lost, nearest.low, first)
        size = torch.where(lost, nearest.size, size)
    return Cells(first, size)


def candidate_counts(boxes_N4: Tensor, grid: Grid, settings: LossSettings) -> Tensor:
    """(N,) anchors that may stand for each box: its cells, or as many as `in_field` keeps."""
    count_N = candidate_cells(boxes_N4, grid, settings).size.prod(-1).sum(-1)
    if settings.candidates == "receptive_field":
        return count_N.clamp(max=settings.field_topk + 1)
    return count_N


def _near_cells(boxes_N4: Tensor, grid: Grid, *, reach: int) -> Cells:
    """The cell at each box's centre, or the nearest to it, and `reach` more on every side."""
    middle = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    cell = torch.floor(middle[:, None] / grid.stride_L[:, None]).long().clamp(min=0)
    cell = torch.minimum(cell, grid.size_L2 - 1)
    low = (cell - reach).clamp(min=0)
    high = torch.minimum(cell + reach, grid.size_L2 - 1)
    return Cells(low, high - low + 1)


def field_distance(points: Tensor, radius: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Kullback-Leibler divergence of receptive fields from boxes, elementwise.

    Args:
        points: (..., 2) centres of the fields, pixels.
        radius: (...) standard deviations of the fields, which are round.
        boxes_xyxy: (..., 4); a box's standard deviations are its half sides.
    """
    middle = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2
    spread = ((boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]) / 2).clamp(min=LEAST_SIDE)
    apart = ((points - middle) / spread).square().sum(-1)
    shape = (radius[..., None] / spread).square()
    return (shape.sum(-1) + apart - 2 - shape.log().sum(-1)) / 2


def in_field(
    points_nM2: Tensor,
    stride_nM: Tensor,
    valid_nM: Tensor,
    boxes_n4: Tensor,
    settings: LossSettings,
) -> Tensor:
    """(n, M) bool: the nearest of each box's valid cells, by the rule above."""
    radius_nM = stride_nM * (settings.field_strides / 2)
    boxes_n14 = boxes_n4[:, None]
    chosen_nM = torch.zeros_like(valid_nM)
    for shrink, count in ((1.0, settings.field_topk), (settings.field_decay, 1)):
        distance_nM = field_distance(points_nM2, radius_nM * shrink, boxes_n14)
        open_nM = valid_nM & ~chosen_nM
        distance_nM = distance_nM.masked_fill(~open_nM, torch.inf)
        nearest = distance_nM.topk(min(count, distance_nM.shape[1]), dim=1, largest=False).indices
        chosen_nM = chosen_nM.scatter(1, nearest, True) & valid_nM
    return chosen_nM
