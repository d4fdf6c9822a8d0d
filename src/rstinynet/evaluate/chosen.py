"""The detections of a results file that a user would be shown: those over a confidence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import LabelledSet
from rstinynet.detections import Detections
from rstinynet.evaluate.results import read_results
from rstinynet.evaluate.thresholds import best_thresholds

_UNLIKELY = 0.02
"""Detections below take no part in the search for the best confidence: most of a file is there."""


def read_chosen(
    path: Path | str, labelled: LabelledSet, *, conf: float | None = None
) -> dict[int, Detections]:
    """Detections by image id that score more than `conf`.

    None: more than the confidence at which F1 of their class is largest on `labelled`, so that
    detectors that rate themselves differently are compared fairly. Raises DataError as
    `read_results` does.
    """
    found = {}
    for image_id, each in read_results(path, labelled).items():
        boxes = each.boxes_xywh.copy()
        boxes[:, 2:] += boxes[:, :2]
        found[image_id] = Detections(
            boxes.astype(np.float32), each.scores.astype(np.float32), each.labels
        )
    least = _best(found, labelled) if conf is None else np.full(len(labelled.categories), conf)
    return {at: dets[dets.scores > least[dets.labels]] for at, dets in found.items()}


def _best(found: Mapping[int, Detections], labelled: LabelledSet) -> npt.NDArray[np.float64]:
    top = np.zeros(len(labelled.categories), np.float32)
    for dets in found.values():
        np.maximum.at(top, dets.labels, dets.scores)
    # A class that scores no higher has all of them: its likely ones are among those. Logits, told
    # by their sign, are likely or not wherever they lie.
    logits = any((dets.scores < 0).any() for dets in found.values())
    floor = np.where(top > _UNLIKELY, _UNLIKELY, 0) if not logits else np.full_like(top, -np.inf)
    likely = {at: dets[dets.scores > floor[dets.labels]] for at, dets in found.items()}
    return np.array([point.conf for point in best_thresholds(labelled, likely)])
