"""Samples put together to batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from rstinynet.data.augment import AugmentCounts
from rstinynet.data.colour import Colour
from rstinynet.data.colour_batch import recoloured_batch
from rstinynet.data.dataset import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B training images and what is known about them."""

    images: Tensor
    """(B, 3, H, W) uint8 RGB."""
    boxes: list[Tensor]
    """B of (N, 4) float32 XYXY pixels."""
    labels: list[Tensor]
    """B of (N,) int64."""
    crowds: list[Tensor]
    """B of (M, 4) float32 XYXY pixels, regions to ignore."""
    known: Tensor
    """(B, C) bool, classes of which every object is labelled."""
    ids: list[int]
    """Image ids."""
    counts: AugmentCounts
    """Summed over the samples."""
    colours: list[Colour] | None = None
    """B changes of colour that are still to be made; None: made already."""
    replaced: int = 0
    """Samples that stand in for others whose image cannot be read."""

    def __len__(self) -> int:
        return len(self.ids)

    def images_on(self, device: torch.device) -> Tensor:
        """(B, 3, H, W) uint8 RGB on `device`, the changes of colour made there."""
        images = self.images.to(device, non_blocking=True)
        return images if self.colours is None else recoloured_batch(images, self.colours)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one size as a batch."""
    colours = [sample.colour for sample in samples if sample.colour is not None]
    planes = np.stack([plane for sample in samples for plane in cv2.split(sample.image)])
    return Batch(
        images=torch.from_numpy(planes).view(len(samples), 3, *planes.shape[1:]),
        boxes=[torch.from_numpy(sample.boxes) for sample in samples],
        labels=[torch.from_numpy(sample.labels) for sample in samples],
        crowds=[torch.from_numpy(sample.crowds) for sample in samples],
        known=torch.from_numpy(np.stack([sample.known for sample in samples])),
        ids=[sample.id for sample in samples],
        counts=sum((sample.counts for sample in samples), AugmentCounts()),
        colours=colours if len(colours) == len(samples) else None,
    )
