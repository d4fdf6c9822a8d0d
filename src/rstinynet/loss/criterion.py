"""YOLO11's loss: class, box overlap and distribution focal terms over assigned anchors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rstinynet.errors import UsageError
from rstinynet.loss.assign import Assignment, assign
from rstinynet.loss.candidates import Grid
from rstinynet.loss.settings import LossSettings
from rstinynet.loss.targets import Packed, Targets
from rstinynet.loss.terms import distribution_focal, overlap, varifocal
from rstinynet.loss.weights import class_weights
from rstinynet.model.decode import REG_MAX, anchors, expected_sides, sides_to_boxes, split

__all__ = ["Criterion", "LossSettings", "Losses"]


class Losses(NamedTuple):
    """Scalars. `total` is for the backward pass, the others (gains included) are for the log."""

    total: Tensor
    """(box + cls + dfl) times the number of images, as YOLO does."""
    box: Tensor
    cls: Tensor
    dfl: Tensor


class Criterion:
    """Raw maps and targets to losses, in float32 also under autocast."""

    def __init__(
        self,
        strides: Sequence[int],
        num_classes: int,
        settings: LossSettings | None = None,
        *,
        class_boxes: Sequence[int] | None = None,
        total: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Strides in pixels, finest first, and the number of classes of the maps to come.

        `class_boxes`, each class's number of training boxes, is needed where the settings weight
        the classes by it; `total` sums a number over the processes that share a batch. UsageError
        if class weights do not fit the classes.
        """
        self._total = total if total is not None else _own
        self.strides = tuple(strides)
        self.num_classes = num_classes
        self.settings = settings if settings is not None else LossSettings()
        self._weights_C = class_weights(self.settings, num_classes, boxes=class_boxes)

    def __call__(self, maps: Sequence[Tensor], targets: Targets) -> Losses:
        """The losses of one batch.

        Every term is divided by the sum of the whole batch's target scores (at least 1). Classes
        that are unknown on an image have no class term there but at the anchors of their own boxes;
        unassigned anchors in an ignored region have none. Regions are widened as boxes are when
        anchors are looked for, or one between all centres would ignore nothing.

        Args:
            maps: for each level (B, 4·16 + C, H, W).
            targets: the truth of the same B images, on any device.

        Raises:
            UsageError: the maps or targets are not of this many classes, or images differ.
            DataError: a label or box is impossible.
        """
        self._check(maps, targets)
        with torch.autocast(maps[0].device.type, enabled=False):
            return self._losses([level.float() for level in maps], targets)

    def _check(self, maps: Sequence[Tensor], targets: Targets) -> None:
        expected = 4 * REG_MAX + self.num_classes
        for level in maps:
            if level.shape[1] != expected:
                raise UsageError(
                    f"Maps for {self.num_classes} classes must have {expected} channels, "
                    f"got {level.shape[1]}; build model and criterion for the same classes."
                )
        shape = (len(maps[0]), self.num_classes)
        if tuple(targets.known.shape) != shape:
            raise UsageError(
                f"Targets.known must be (images, classes) = {shape}, "
                f"got {tuple(targets.known.shape)}."
            )

    def _losses(self, maps: Sequence[Tensor], targets: Targets) -> Losses:
        settings = self.settings
        points_A2, stride_A = anchors(maps, self.strides)
        dfl_BA64, logits_BAC = split(maps)
        # Checked before the transfer: on the CPU that costs no wait for the device.
        packed = Packed(*(column.to(points_A2.device) for column in targets.packed()))
        with torch.no_grad():
            boxes_BA4 = sides_to_boxes(expected_sides(dfl_BA64), points_A2, stride_A)
        grid = Grid(maps, self.strides)
        found = assign(boxes_BA4, logits_BAC, packed, grid=grid, settings=settings)
        scale = 1 / self._total(found.score.sum()).clamp(min=1)

        cls = self._class_loss(logits_BAC, points_A2, targets, packed, found)
        dfl_F64 = dfl_BA64[found.image, found.anchor]
        points_F2, stride_F = points_A2[found.anchor], stride_A[found.anchor]
        true_F4 = packed.boxes[found.box]
        # Only assigned anchors are decoded with a gradient: a few thousand of a hundred thousand.
        boxes_F4 = sides_to_boxes(expected_sides(dfl_F64), points_F2, stride_F)
        likeness_F = overlap(
            boxes_F4,
            true_F4,
            share=settings.loss_nwd,
            constant=settings.nwd_constant,
            kind=settings.box_loss,
        )
        box = ((1 - likeness_F) * found.score).sum()
        sides_F4 = torch.cat([points_F2 - true_F4[:, :2], true_F4[:, 2:] - points_F2], dim=1)
        focal_F = distribution_focal(dfl_F64.reshape(-1, 4, REG_MAX), sides_F4 / stride_F[:, None])
        dfl = (focal_F * found.score).sum()

        box = box * scale * settings.box_gain
        cls = cls * scale * settings.cls_gain
        dfl = dfl * scale * settings.dfl_gain
        total = (box + cls + dfl) * len(targets.boxes)
        return Losses(total, box.detach(), cls.detach(), dfl.detach())

    def _class_loss(
        self,
        logits_BAC: Tensor,
        points_A2: Tensor,
        targets: Targets,
        packed: Packed,
        found: Assignment,
    ) -> Tensor:
        """The class loss against the target scores, summed."""
        wanted_BAC = torch.zeros_like(logits_BAC)
        wanted_BAC[found.image, found.anchor, packed.labels[found.box]] = found.score
        counted_BA = torch.ones_like(logits_BAC[..., 0])
        for image, regions in enumerate(targets.ignore):
            if len(regions):
                wide = _at_least(regions, self.settings.min_candidate_px)
                counted_BA[image] = (~_covered(points_A2, wide)).float()
        counted_BA[found.image, found.anchor] = 1
        counted_BAC = counted_BA[..., None] * targets.known.to(counted_BA.device)[:, None].float()
        # A labelled object is certain even where not every object of its class is labelled.
        if self.settings.exclusive_classes:
            counted_BAC[found.image, found.anchor] = 1
        else:
            counted_BAC[found.image, found.anchor, packed.labels[found.box]] = 1
        if self._weights_C is not None:
            counted_BAC = counted_BAC * self._weights_C.to(counted_BAC.device)
        if self.settings.cls_loss == "varifocal":
            alpha, gamma = self.settings.varifocal_alpha, self.settings.varifocal_gamma
            return (varifocal(logits_BAC, wanted_BAC, alpha=alpha, gamma=gamma) * counted_BAC).sum()
        return F.binary_cross_entropy_with_logits(
            logits_BAC, wanted_BAC, weight=counted_BAC, reduction="sum"
        )


def _own(x: Tensor) -> Tensor:
    return x


def _at_least(regions_M4: Tensor, side: float) -> Tensor:
    """(M, 4) the regions, sides below `side` pixels widened to it about their middle."""
    middle = (regions_M4[:, :2] + regions_M4[:, 2:]) / 2
    half = ((regions_M4[:, 2:] - regions_M4[:, :2]) / 2).clamp(min=side / 2)
    return torch.cat([middle - half, middle + half], dim=1)


def _covered(points_A2: Tensor, regions_M4: Tensor) -> Tensor:
    """(A,) whether a point lies in any region."""
    x, y = points_A2.unbind(1)
    covered = torch.zeros_like(x, dtype=torch.bool)
    for x1, y1, x2, y2 in regions_M4.tolist():
        covered |= (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
    return covered
