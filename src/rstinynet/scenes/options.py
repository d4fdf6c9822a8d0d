"""How to search an image or scene: every option, its default and its check."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rstinynet.errors import UsageError
from rstinynet.scenes.merge import MERGE_IOU
from rstinynet.suppress import Metric

if TYPE_CHECKING:
    from rstinynet.scenes.detector import Detector

DEFAULT_OVERLAP = 64
"""Pixels that neighbouring tiles share; at least twice the largest tiny object."""
DEFAULT_IOU = 0.6
"""Overlap above which the weaker of two boxes of one class in one tile is dropped."""
DEFAULT_MAX_DET = 1500
"""Most objects of one tile, as AI-TOD's protocol counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    """How to search an image or scene. What is None comes from the weights' metadata."""

    conf: float | None = None
    """Lowest confidence reported."""
    iou: float = DEFAULT_IOU
    """Overlap above which the weaker of two boxes of one class in one tile is dropped."""
    max_det: int = DEFAULT_MAX_DET
    """Most objects of one tile."""
    tile: int | None = None
    """Side of a tile in pixels of the source."""
    overlap: int = DEFAULT_OVERLAP
    """Pixels that neighbouring tiles share."""
    scale: float | None = None
    """Factor by which tiles are resized before the model sees them."""
    bands: Sequence[int] | None = None
    """Three bands as red, green, blue, or one that is repeated; counted from 1."""
    classes: Sequence[str] | None = None
    """Names of the classes to report."""
    metric: Metric = "iou"
    """What decides that boxes of two tiles are one object."""
    merge_iou: float = MERGE_IOU
    """And above which value of it."""

    def __post_init__(self) -> None:
        for name, value in (("conf", self.conf), ("iou", self.iou), ("merge_iou", self.merge_iou)):
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} must lie in [0, 1], not {value}")
        if self.max_det < 1:
            raise UsageError(f"max_det must be at least 1, not {self.max_det}")
        if self.tile is not None and self.tile < 32:
            raise UsageError(f"tile must be at least 32 pixels, not {self.tile}")
        if self.scale is not None and not 0 < self.scale <= 16:
            raise UsageError(f"scale must be over 0 and at most 16, not {self.scale}")
        if self.metric not in ("iou", "ios"):
            raise UsageError(f"metric must be 'iou' or 'ios', not {self.metric!r}")

    def used_overlap(self, detector: Detector) -> int:
        """The overlap in pixels; the default becomes less where tiles are small."""
        if self.overlap != DEFAULT_OVERLAP:
            return self.overlap
        return min(self.overlap, (self.tile or detector.metadata.imgsz) // 2)

    def settled(self, detector: Detector) -> dict[str, Any]:
        """Every option by name, with what the weights fill in, as plain values."""
        own = detector.metadata
        chosen = asdict(self) | {
            "tile": self.tile or own.imgsz,
            "overlap": self.used_overlap(detector),
            "scale": own.scale if self.scale is None else self.scale,
            "bands": None if self.bands is None else list(self.bands),
            "classes": None if self.classes is None else sorted(self.classes),
        }
        return chosen | {"device": detector.device.type}


def wanted_labels(
    names: Sequence[str], classes: Sequence[str] | None
) -> npt.NDArray[np.int64] | None:
    """Labels of the classes named; None for all. UsageError for a class there is not."""
    if classes is None:
        return None
    labels = []
    for name in classes:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            known = ", ".join(names)
            raise UsageError(f"no class {name!r}: {hint}the model's are {known}")
        labels.append(names.index(name))
    return np.array(labels, np.int64)
