"""The teacher of a run that distils: trained weights that say what they see in each batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rstinynet.errors import WeightsError
from rstinynet.loss.distill import Soft
from rstinynet.model.decode import split
from rstinynet.model.detector import DetectorModel
from rstinynet.model.weights import find_weights, load_weights

FLIPS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((),),
    2: ((), (3,)),
    4: ((), (3,), (2,), (2, 3)),
}
"""Axes of (B, C, H, W) that are mirrored in each view, by the number of views."""


class Teacher:
    """Weights in eval mode, asked without gradients for the levels and classes of a student."""

    def __init__(
        self,
        weights: str,
        *,
        names: Sequence[str],
        strides: Sequence[int],
        device: torch.device,
        views: int = 1,
    ) -> None:
        """Read `weights`, a file or the name of shipped weights.

        Raises WeightsError where they lack one of the classes `names` or all of the `strides`.
        """
        path = find_weights(weights)
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        """SHA-256 of the file, by which a resumed run knows it again."""
        model, metadata = load_weights(path)
        missing = [name for name in names if name not in metadata.names]
        if missing:
            raise WeightsError(
                f"the teacher {Path(weights).name} does not know the classes "
                f"{', '.join(missing)} (it knows {', '.join(metadata.names)}): give weights of the "
                "student's classes as distill"
            )
        self.strides = tuple(stride for stride in model.strides if stride in strides)
        if not self.strides:
            raise WeightsError(
                f"the teacher {Path(weights).name} has levels of strides {list(model.strides)}, "
                f"the model {list(strides)}: distill needs one in common"
            )
        self._levels = [model.strides.index(stride) for stride in self.strides]
        self._classes = [metadata.names.index(name) for name in names]
        self._views = FLIPS[views]
        self._model: DetectorModel = model.deployed().to(  # type: ignore[call-overload]
            device, memory_format=torch.channels_last
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Soft:
        """What it says of (B, 3, H, W) in [0, 1]; scores are the mean over its mirrored views."""
        maps = [self._maps(images.flip(axes), axes) for axes in self._views]
        # Sides are of the image as it is: those of a mirrored one are other sides.
        sides_BA64 = split(maps[0])[0]
        scores = [split(view)[1][..., self._classes].sigmoid() for view in maps]
        return Soft(self.strides, torch.stack(scores).mean(0), sides_BA64)

    def _maps(self, images: Tensor, axes: tuple[int, ...]) -> list[Tensor]:
        """The shared levels' maps of images mirrored along `axes`, mirrored back."""
        maps = self._model(images).main
        return [maps[level].float().flip(axes) for level in self._levels]
