"""Whether a score is the share of its detections that are right, and a temperature that mends it.

Reliability and expected calibration error as Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017, with COCO's matching deciding what is right: over detections, so that what
was not found does not count here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import LabelledSet
from rstinynet.detections import Detections
from rstinynet.errors import DataError
from rstinynet.evaluate.thresholds import judged

BINS = 10
LEAST_SCORE = 0.05
"""Detections below are left out: nobody reads them, and they are most of all."""
TEMPERATURES = (0.2, 5.0)
"""Where the temperature is looked for."""

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Outcomes = tuple[Float64Array, BoolArray]
"""Scores (N,) and whether each detection is right (N,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Detections whose score lies in (low, high]."""

    low: float
    high: float
    count: int
    score: float
    """Mean score; 0 where there are none."""
    precision: float
    """Share that is right; 0 where there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How far scores are from precision."""

    bins: tuple[Bin, ...]
    ece: float
    """Expected calibration error: mean of |score - precision| over bins, by their counts."""
    """0 where there are no detections."""
    detections: int

    @property
    def score(self) -> float:
        """Mean score; NaN without detections."""
        return self._mean([each.score for each in self.bins])

    @property
    def precision(self) -> float:
        """Share that is right; NaN without detections."""
        return self._mean([each.precision for each in self.bins])

    def _mean(self, values: list[float]) -> float:
        total = sum(each.count * value for each, value in zip(self.bins, values, strict=True))
        return total / self.detections if self.detections else math.nan

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def outcomes(
    labelled: LabelledSet,
    found: Mapping[int, Detections],
    *,
    iou: float = 0.5,
    least: float = LEAST_SCORE,
) -> Outcomes:
    """Scores (N,) above `least` of all classes, and whether each detection is right (N,).

    Classes that an image does not know, and detections on regions to ignore, are left out.
    """
    return together(outcomes_by_class(labelled, found, iou=iou, least=least))


def outcomes_by_class(
    labelled: LabelledSet,
    found: Mapping[int, Detections],
    *,
    iou: float = 0.5,
    least: float = LEAST_SCORE,
) -> list[Outcomes]:
    """The same of each class."""
    made = []
    for label in range(len(labelled.categories)):
        mine, hits, _ = judged(labelled, found, label, iou)
        keep = mine > least
        made.append((mine[keep].astype(np.float64), hits[keep]))
    return made


def together(parts: Sequence[Outcomes]) -> Outcomes:
    """The outcomes of several classes as one."""
    return (
        np.concatenate([np.zeros(0), *(scores for scores, _ in parts)]),
        np.concatenate([np.zeros(0, np.bool_), *(right for _, right in parts)]),
    )


def reliability(scores: Float64Array, right: BoolArray, *, bins: int = BINS) -> Reliability:
    """The reliability curve of scores (N,) in [0, 1] with outcomes (N,), in equal bins."""
    at = np.clip(np.ceil(scores * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    whole = np.maximum(count, 1)
    score = np.bincount(at, scores, minlength=bins) / whole
    precision = np.bincount(at, right, minlength=bins) / whole
    error = float((np.abs(score - precision) * count).sum() / max(len(scores), 1))
    return Reliability(
        bins=tuple(
            Bin(
                low=i / bins,
                high=(i + 1) / bins,
                count=int(count[i]),
                score=float(score[i]),
                precision=float(precision[i]),
            )
            for i in range(bins)
        ),
        ece=error,
        detections=len(scores),
    )


def tempered(scores: npt.ArrayLike, temperature: float | Float64Array) -> Float64Array:
    """Scores after their logits are divided by the temperature, or each by its own (N,)."""
    p = np.clip(np.asarray(scores, np.float64), 1e-12, 1 - 1e-12)
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + ((1 - p) / p) ** (1 / temperature)))


def before_temperature(conf: float, temperature: float) -> float:
    """A raw score at or below the one that the temperature turns into `conf`."""
    if temperature == 1:
        return conf
    return max(0.0, float(tempered(np.array([conf]), 1 / temperature)[0]) * (1 - 1e-5))


def best_temperature(scores: Float64Array, right: BoolArray) -> float:
    """The temperature with the least negative log-likelihood of the outcomes.

    The loss is convex in 1/T, so a golden-section search finds its one minimum.

    Raises:
        DataError: all detections are right, or none is: any temperature would be arbitrary.
    """
    _need_both(right)
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    ratio = (5**0.5 - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    while high - low > 1e-5:
        if _loss(scores, right, 1 / a) <= _loss(scores, right, 1 / b):
            high, b = b, a
            a = high - ratio * (high - low)
        else:
            low, a = a, b
            b = low + ratio * (high - low)
    return float(2 / (low + high))


def platt_scaling(scores: Float64Array, right: BoolArray) -> tuple[float, float]:
    """A temperature T and a shift s: the sigmoid of (logit + s) / T has the least negative
    log-likelihood of the outcomes (Platt, 1999).

    For scores that are too low or too high as a whole, which a temperature leaves where they are.
    T is kept within `TEMPERATURES`. Raises DataError as `best_temperature` does.
    """
    _need_both(right)
    p = np.clip(scores, 1e-12, 1 - 1e-12)
    inputs_N2 = np.stack([np.log(p / (1 - p)), np.ones(len(p))], axis=1)
    line = np.array([1.0, 0.0])
    for _ in range(50):  # Newton's steps: the loss is convex, and two numbers are found
        q = 1 / (1 + np.exp(-np.clip(inputs_N2 @ line, -30, 30)))
        gradient = inputs_N2.T @ (q - right)
        curvature = (inputs_N2 * (q * (1 - q))[:, None]).T @ inputs_N2 + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        line = line - step
        if np.abs(step).max() < 1e-9:
            break
    temperature = float(np.clip(1 / max(line[0], 1e-9), *TEMPERATURES))
    return temperature, float(line[1] * temperature)


def shifted(scores: npt.ArrayLike, shift: float | Float64Array) -> Float64Array:
    """Scores after `shift`, or each one's own (N,), is added to their logits."""
    p = np.clip(np.asarray(scores, np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(p / (p + (1 - p) * np.exp(-shift)))


def _need_both(right: BoolArray) -> None:
    if right.all() or not right.any():
        raise DataError(
            f"{int(right.sum())} of {len(right)} detections are right: a temperature needs both "
            "right and wrong ones; take more images or better weights"
        )


def _loss(scores: Float64Array, right: BoolArray, temperature: float) -> float:
    p = np.clip(tempered(scores, temperature), 1e-12, 1 - 1e-12)
    return float(-np.where(right, np.log(p), np.log1p(-p)).mean())
