"""What one batch should have been detected as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rstinynet.errors import DataError


class Packed(NamedTuple):
    """All boxes of a batch in one list of N."""

    boxes: Tensor
    """(N, 4) XYXY in input pixels, float32."""
    labels: Tensor
    """(N,) int64."""
    image: Tensor
    """(N,) which image of the batch each box belongs to, int64."""


@dataclass(slots=True)
class Targets:
    """The truth of B images. Any list entry may be empty."""

    boxes: list[Tensor]
    """For each image (N, 4) XYXY in input pixels."""
    labels: list[Tensor]
    """For each image (N,) class numbers, int64."""
    known: Tensor
    """(B, C) bool: False where nobody looked for the class in the image, or not for all of it
    (partial labels): then only its labelled boxes teach it."""
    ignore: list[Tensor]
    """For each image (M, 4) XYXY regions where unmatched detections are no mistakes (crowds)."""

    def __post_init__(self) -> None:
        lengths = (len(self.boxes), len(self.labels), len(self.known), len(self.ignore))
        if len(set(lengths)) != 1:
            raise DataError(
                "Targets need boxes, labels, known and ignore for the same images, got lengths "
                f"{lengths}; give empty tensors for images without boxes."
            )
        for image, (boxes, labels) in enumerate(zip(self.boxes, self.labels, strict=True)):
            if len(boxes) != len(labels):
                raise DataError(
                    f"Every box needs one label: image {image} of the batch has {len(boxes)} "
                    f"boxes and {len(labels)} labels."
                )

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on a device."""
        return Targets(
            boxes=[boxes.to(device) for boxes in self.boxes],
            labels=[labels.to(device) for labels in self.labels],
            known=self.known.to(device),
            ignore=[regions.to(device) for regions in self.ignore],
        )

    def packed(self) -> Packed:
        """All boxes as float32 with the number of their image.

        Raises:
            DataError: a label is not a column of `known`, or a box is not finite.
        """
        device = self.known.device
        counts = torch.tensor([len(boxes) for boxes in self.boxes], dtype=torch.int64)
        image = torch.repeat_interleave(torch.arange(len(counts)), counts).to(device)
        boxes = torch.cat([boxes.reshape(-1, 4).float().to(device) for boxes in self.boxes])
        labels = torch.cat([labels.to(device, torch.int64) for labels in self.labels])
        classes = self.known.shape[1]
        if len(labels) and not bool(((labels >= 0) & (labels < classes)).all()):
            raise DataError(
                f"Labels must lie in 0..{classes - 1}, got {sorted(set(labels.tolist()))}; "
                "the model must have as many classes as the data."
            )
        if not bool(boxes.isfinite().all()):
            raise DataError("Boxes must be finite, got NaN or infinity; check the annotations.")
        return Packed(boxes, labels, image)
