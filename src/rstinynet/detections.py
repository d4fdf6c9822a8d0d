"""The one form in which found objects travel inside the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Detections:
    """Objects found in one image or scene."""

    boxes: Float32Array
    """(N, 4) XYXY in pixels of the source; x grows to the right, y downwards."""
    scores: Float32Array
    """(N,) confidence in [0, 1]."""
    labels: Int64Array
    """(N,) class index, 0 to number of classes - 1 (not the category id)."""

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.shape != (n, 4) or self.scores.shape != (n,) or self.labels.shape != (n,):
            raise ValueError(
                "boxes, scores and labels must have shapes (N, 4), (N,) and (N,), not "
                f"{self.boxes.shape}, {self.scores.shape} and {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: npt.NDArray[np.bool_] | Int64Array | slice) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.labels[index])

    @staticmethod
    def empty() -> Detections:
        """No objects."""
        return Detections(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        )

    @staticmethod
    def concatenate(parts: Sequence[Detections]) -> Detections:
        """All parts, in order."""
        if not parts:
            return Detections.empty()
        return Detections(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )

    def shifted(self, x: float, y: float) -> Detections:
        """The same objects, `x` pixels further right and `y` further down."""
        offset = np.array([x, y, x, y], np.float32)
        return Detections(self.boxes + offset, self.scores, self.labels)

    def sorted_by_score(self) -> Detections:
        """Highest score first; ties keep their order."""
        return self[np.argsort(-self.scores, kind="stable")]
