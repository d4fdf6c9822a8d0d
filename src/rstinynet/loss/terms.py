"""The overlaps and losses of single pairs, elementwise over any leading shape.

Sources: CIoU, Zheng et al. 2020, equations 8-11; normalised Wasserstein distance, Wang et al.
2021, equations 7-8; generalised IoU, Rezatofighi et al. 2019, algorithm 1; similarity distance,
Shi et al. 2024, section III; distribution focal loss, Li et al. 2020 (Generalized Focal Loss),
equation 6; varifocal loss, Zhang et al. 2021, equation 2.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-7


def ciou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Complete IoU in (-1.5, 1] of boxes (..., 4), broadcast against each other.

    The trade-off factor of the aspect term carries no gradient, as in the paper.
    """
    x1, y1, x2, y2 = first_xyxy.unbind(-1)
    u1, v1, u2, v2 = second_xyxy.unbind(-1)
    w, h = x2 - x1, y2 - y1 + EPS
    p, q = u2 - u1, v2 - v1 + EPS
    inner_w = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    inner_h = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    inner = inner_w * inner_h
    iou = inner / (w * h + p * q - inner + EPS)
    hull_w = torch.maximum(x2, u2) - torch.minimum(x1, u1)
    hull_h = torch.maximum(y2, v2) - torch.minimum(y1, v1)
    diagonal = hull_w.square() + hull_h.square() + EPS
    centres = ((u1 + u2 - x1 - x2).square() + (v1 + v2 - y1 - y2).square()) / 4
    aspect = (4 / math.pi**2) * (torch.atan(p / q) - torch.atan(w / h)).square()
    with torch.no_grad():
        trade = aspect / (aspect - iou + (1 + EPS))
    return iou - (centres / diagonal + aspect * trade)


def giou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Generalised IoU in (-1, 1]: IoU less the share of the hull that neither box covers."""
    x1, y1, x2, y2 = first_xyxy.unbind(-1)
    u1, v1, u2, v2 = second_xyxy.unbind(-1)
    inner_w = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    inner_h = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    inner = inner_w * inner_h
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - inner
    hull_w = torch.maximum(x2, u2) - torch.minimum(x1, u1)
    hull_h = torch.maximum(y2, v2) - torch.minimum(y1, v1)
    hull = hull_w * hull_h
    return inner / (union + EPS) - (hull - union) / (hull + EPS)


def simd(first_xyxy: Tensor, second_xyxy: Tensor, *, scale: tuple[float, float]) -> Tensor:
    """Similarity distance in (0, 1]: exp(-(location + shape)), 1 for equal boxes.

    Location is the length of the centres' offset, shape that of the sides' difference, both with x
    in units of the summed widths over `scale[0]` and y of the summed heights over `scale[1]`: the
    paper's m and n, which train/simd_scale.py takes from the training set. There SimD compares
    true boxes with anchors against thresholds, and detections in NMS; here it compares true with
    predicted boxes in the task-aligned metric, and NMS is left alone.
    """
    low, high = first_xyxy - second_xyxy, first_xyxy + second_xyxy
    sides = (high[..., 2:] - high[..., :2]).clamp(min=EPS)
    unit = sides / torch.tensor(scale, device=sides.device, dtype=sides.dtype)
    centres = (low[..., :2] + low[..., 2:]) / (2 * unit)
    shapes = (low[..., 2:] - low[..., :2]) / unit
    location = (centres.square().sum(-1) + EPS**2).sqrt()
    return torch.exp(-location - (shapes.square().sum(-1) + EPS**2).sqrt())


def nwd(first_xyxy: Tensor, second_xyxy: Tensor, *, constant: float) -> Tensor:
    """Normalised Wasserstein distance in (0, 1]: exp(-W2 / constant), 1 for equal boxes.

    A box counts as the Gaussian with its centre and half sides; unlike IoU it stays above 0, and
    has a gradient, where boxes do not touch. `constant` is in pixels.
    """
    x1, y1, x2, y2 = first_xyxy.unbind(-1)
    u1, v1, u2, v2 = second_xyxy.unbind(-1)
    # |centre difference|² + |half side difference|², written with corners:
    # ((a+b)/2)² + ((b-a)/2)² = (a² + b²)/2 for a, b the differences of the two corners.
    squared = ((x1 - u1).square() + (y1 - v1).square()) / 2
    squared = squared + ((x2 - u2).square() + (y2 - v2).square()) / 2
    return torch.exp(-(squared + EPS).sqrt() / constant)


def overlap(
    first_xyxy: Tensor,
    second_xyxy: Tensor,
    *,
    share: float,
    constant: float,
    kind: Literal["ciou", "giou"] = "ciou",
) -> Tensor:
    """CIoU or GIoU with `share` of it replaced by the normalised Wasserstein distance."""
    plain = ciou if kind == "ciou" else giou
    if share == 0:
        return plain(first_xyxy, second_xyxy)
    distance = nwd(first_xyxy, second_xyxy, constant=constant)
    if share == 1:
        return distance
    return (1 - share) * plain(first_xyxy, second_xyxy) + share * distance


def varifocal(logits: Tensor, wanted: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Varifocal loss, elementwise: cross-entropy weighted by the wanted score where there is one.

    Elsewhere (wanted 0) it is weighted by alpha·p^gamma, so that the many easy background anchors
    count little and those that look like objects count fully.
    """
    weight = torch.where(wanted > 0, wanted, alpha * logits.sigmoid() ** gamma)
    return weight * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def distribution_focal(logits_F4R: Tensor, sides_F4: Tensor) -> Tensor:
    """(F,) cross-entropy between the bins' distribution and the two bins next to the true side.

    Args:
        logits_F4R: R logits for each of four sides.
        sides_F4: true distances in units of the stride; clamped into the bins' range, since an
            anchor outside its box has a negative side, which no bin stands for.
    """
    bins = logits_F4R.shape[-1]
    side = sides_F4.clamp(0, bins - 1 - 0.01)
    low = side.floor()
    high_share = side - low
    index = low.long().unsqueeze(-1)
    log_p = F.log_softmax(logits_F4R, dim=-1)
    at_low = log_p.gather(-1, index).squeeze(-1)
    at_high = log_p.gather(-1, index + 1).squeeze(-1)
    return -(at_low * (1 - high_share) + at_high * high_share).mean(-1)
