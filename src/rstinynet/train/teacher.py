"""The teacher of a run that distils: trained weights that say what they see in each batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rstinynet.agree import OWN_IOU, agreed
from rstinynet.detections import Detections
from rstinynet.errors import WeightsError
from rstinynet.loss.distill import Soft
from rstinynet.model.decode import REG_MAX, anchors, expected_sides, find, sides_to_boxes, split
from rstinynet.model.detector import DetectorModel
from rstinynet.model.located import parted
from rstinynet.model.weights import find_weights, load_weights
from rstinynet.scenes.views import unseen
from rstinynet.suppress import suppress
from rstinynet.train.committee import LEAST_SCORE, corrected, grown

FLIPS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((),),
    2: ((), (3,)),
    4: ((), (3,), (2,), (2, 3)),
}
"""Axes of (B, C, H, W) that are mirrored in each view of `scenes.views`, by the number of views."""


class Teacher:
    """One model or several, asked without gradients for the levels and classes of a student."""

    def __init__(
        self,
        weights: str,
        *,
        names: Sequence[str],
        strides: Sequence[int],
        device: torch.device,
        views: int = 1,
    ) -> None:
        """Read `weights`: a file or the name of shipped weights, or several (`located.parted`).

        Raises WeightsError where one of them lacks one of the classes `names`, or the first one all
        of the `strides`.
        """
        self._models = [_Model(one, names=names, device=device) for one in parted(weights)]
        first = self._models[0]
        self.digest = ",".join(model.digest for model in self._models)
        """SHA-256 of the files, by which a resumed run knows them again."""
        self.strides = tuple(stride for stride in first.strides if stride in strides)
        if not self.strides:
            raise WeightsError(
                f"the teacher {first.name} has levels of strides {list(first.strides)}, "
                f"the model {list(strides)}: distill needs one in common"
            )
        self._levels = [first.strides.index(stride) for stride in self.strides]
        self._views = FLIPS[views]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Soft:
        """What they say of (B, 3, H, W) in [0, 1]: the first one's maps, scores as the mean over
        its mirrored views, corrected by what all models agree on in all views where they are
        several.
        """
        first, *others = self._models
        maps = [first(images.flip(axes)) for axes in self._views]
        shared = [
            [view[level].flip(axes) for level in self._levels]
            for view, axes in zip(maps, self._views, strict=True)
        ]
        # Sides are of the image as it is: those of a mirrored one are other sides.
        sides = split(shared[0])[0]
        scores = torch.stack([split(view)[1].sigmoid() for view in shared]).mean(0)
        if not others:
            return Soft(self.strides, scores, sides)
        size = (images.shape[2], images.shape[3])
        looks = [first.objects(one, view, size) for view, one in enumerate(maps)]
        for other in others:
            for view, axes in enumerate(self._views):
                looks.append(other.objects(other(images.flip(axes)), view, size))
        points, steps = anchors(shared[0], self.strides)
        with _exact(sides):
            boxes = sides_to_boxes(expected_sides(sides), points, steps).cpu().numpy()
        parts = [
            corrected(own, around, steps.cpu().numpy(), agreed(of_image))
            for own, around, of_image in zip(
                scores.cpu().numpy(), boxes, zip(*looks, strict=True), strict=True
            )
        ]
        better, growth = (torch.from_numpy(np.stack(each)) for each in zip(*parts, strict=True))
        return Soft(self.strides, better.to(scores), grown(sides, growth.to(sides)))


def _exact(maps: Tensor) -> torch.autocast:
    """Without autocast, under which a step asks: it would round boxes to parts of a pixel."""
    return torch.autocast(maps.device.type, enabled=False)


class _Model:
    """The fused weights of one teacher."""

    def __init__(self, weights: str, *, names: Sequence[str], device: torch.device) -> None:
        path = find_weights(weights)
        self.name = Path(weights).name
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        model, metadata = load_weights(path)
        missing = [name for name in names if name not in metadata.names]
        if missing:
            raise WeightsError(
                f"the teacher {self.name} does not know the classes "
                f"{', '.join(missing)} (it knows {', '.join(metadata.names)}): give weights of the "
                "student's classes as distill"
            )
        self.strides = model.strides
        sides = 4 * REG_MAX
        self._channels = [*range(sides), *(sides + metadata.names.index(name) for name in names)]
        self._model: DetectorModel = model.deployed().to(  # type: ignore[call-overload]
            device, memory_format=torch.channels_last
        )

    def __call__(self, images: Tensor) -> list[Tensor]:
        """The maps of all levels, with the student's classes in its order."""
        return [level.float()[:, self._channels] for level in self._model(images).main]

    def objects(self, maps: Sequence[Tensor], view: int, size: tuple[int, int]) -> list[Detections]:
        """What each image of `size` (H, W) holds by the maps of one view of it."""
        height, width = size
        with _exact(maps[0]):
            seen = find(maps, self.strides, conf=LEAST_SCORE)
        found = []
        for one in seen:
            boxes = unseen(one.boxes, view, width=width, height=height)
            # What float16 let overflow: the loss says so, and of which images.
            there = np.flatnonzero(np.isfinite(boxes).all(axis=1))
            own = Detections(boxes, one.scores, one.labels)[there]
            found.append(suppress(own, iou=OWN_IOU))
        return found
