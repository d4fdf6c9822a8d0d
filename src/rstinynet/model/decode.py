"""Raw maps to boxes: distribution focal decoding (Li et al., Generalized Focal Loss) as in YOLO11.

Each level's map is (B, 4·16 + C, H, W): 16 bins of logits for each side in the order left, top,
right, bottom, then one logit a class. A side's distance is the softmax expectation over its bins,
times the level's stride, measured from the cell's centre.

Shape legend: B images, A anchors (all cells of all levels, finest level first), C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rstinynet.detections import Detections

REG_MAX = 16
"""Bins of one side's distance distribution."""


def anchors(maps: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cell centres (A, 2) in input pixels and their strides (A,), float32."""
    points, steps = [], []
    for level, stride in zip(maps, strides, strict=True):
        height, width = level.shape[-2:]
        x = (torch.arange(width, device=level.device, dtype=torch.float32) + 0.5) * stride
        y = (torch.arange(height, device=level.device, dtype=torch.float32) + 0.5) * stride
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([grid_x.reshape(-1), grid_y.reshape(-1)], dim=1))
        steps.append(torch.full((height * width,), float(stride), device=level.device))
    return torch.cat(points), torch.cat(steps)


def split(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Distance logits (B, A, 64) and class logits (B, A, C)."""
    flat = torch.cat([level.flatten(2) for level in maps], dim=2).transpose(1, 2)
    return flat[..., : 4 * REG_MAX], flat[..., 4 * REG_MAX :]


def expected_sides(dfl_BA64: Tensor) -> Tensor:
    """(B, A, 4) expected distances left, top, right, bottom in units of the stride."""
    bins = torch.arange(REG_MAX, device=dfl_BA64.device, dtype=dfl_BA64.dtype)
    sides: Tensor = dfl_BA64.reshape(*dfl_BA64.shape[:-1], 4, REG_MAX).softmax(-1) @ bins
    return sides


def sides_to_boxes(sides_BA4: Tensor, points_A2: Tensor, stride_A: Tensor) -> Tensor:
    """(B, A, 4) XYXY in input pixels from distances in units of the stride."""
    low, high = (sides_BA4 * stride_A[:, None]).chunk(2, dim=-1)
    return torch.cat([points_A2 - low, points_A2 + high], dim=-1)


def decode(maps: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Boxes (B, A, 4) XYXY in input pixels and scores (B, A, C) in [0, 1]."""
    points, stride = anchors(maps, strides)
    dfl, classes = split(maps)
    boxes = sides_to_boxes(expected_sides(dfl.float()), points, stride)
    return boxes, classes.float().sigmoid()


def select(
    boxes_A4: Tensor, scores_AC: Tensor, *, conf: float, max_candidates: int = 30_000
) -> Detections:
    """Every (anchor, class) of one image that scores over `conf`, best first; overlaps remain.

    At most `max_candidates` are kept, so that a very low threshold cannot exhaust memory.
    """
    flat = scores_AC.reshape(-1)
    index = torch.nonzero(flat > conf).squeeze(1)
    chosen = flat[index]
    order = torch.argsort(chosen, descending=True, stable=True)[:max_candidates]
    index, chosen = index[order], chosen[order]
    classes = scores_AC.shape[1]
    boxes = boxes_A4[index // classes]
    return Detections(
        boxes.float().cpu().numpy(),
        chosen.float().cpu().numpy(),
        (index % classes).cpu().numpy().astype(np.int64),
    )


def find(
    maps: Sequence[Tensor], strides: Sequence[int], *, conf: float, max_candidates: int = 30_000
) -> list[Detections]:
    """`decode` and `select` for each image, taking the expectation of the chosen anchors only."""
    points, stride = anchors(maps, strides)
    dfl_BA64, classes_BAC = split(maps)
    found = []
    for dfl_A64, classes_AC in zip(dfl_BA64, classes_BAC, strict=True):
        scores_AC = classes_AC.float().sigmoid()
        index = torch.nonzero((scores_AC > conf).any(dim=1)).squeeze(1)
        sides = expected_sides(dfl_A64[index].float())
        boxes = sides_to_boxes(sides, points[index], stride[index])
        found.append(select(boxes, scores_AC[index], conf=conf, max_candidates=max_candidates))
    return found
