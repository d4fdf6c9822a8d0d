"""Average precision in AI-TOD's protocol, on fully and on partly labelled sets.

The protocol is that of aitodpycocotools (Wang et al., "Tiny Object Detection in Aerial Images",
ICPR 2020): COCO's, with size ranges for tiny objects and up to 1500 detections of each class on
an image. Matching is done by faster-coco-eval; its arrays are read here, since the summaries of
the stock tools use at most 100 detections and know no tiny sizes.

Partly labelled sets are scored as LVIS does (Gupta et al., CVPR 2019, section 3.2): detections of
a class that is not known on an image are dropped, and where a class is not exhaustively labelled
an unmatched detection is ignored instead of counted as false.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.detections import Detections
from rstinynet.errors import DataError, UsageError
from rstinynet.evaluate.results import CocoDetections

PROTOCOL = "AI-TOD"
MAX_DET = 1500
"""Most detections of one class on one image."""
IOU_THRESHOLDS: npt.NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
RECALL_POINTS: npt.NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
AREA_RANGES: Mapping[str, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "verytiny": (0.0, 8.0**2),
    "tiny": (8.0**2, 16.0**2),
    "small": (16.0**2, 32.0**2),
    "medium": (32.0**2, 1e10),
}
"""Square pixels of the annotation's own `area`; both ends belong to the range."""

_ALL, _VERYTINY, _TINY, _SMALL, _MEDIUM = range(5)
_AT_50, _AT_75 = 0, 5
Found = Detections | CocoDetections
FloatArray = npt.NDArray[np.float64]
FIGURES = ("ap", "ap50", "ap75", "ap_vt", "ap_t", "ap_s", "ap_m")
"""The seven numbers of AI-TOD's tables."""
_RECALLS = ("ar", "ar_vt", "ar_t", "ar_s", "ar_m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Average precision and recall in [0, 1]; NaN where there is no ground truth to find."""

    ap: float
    """Mean over IoU .50:.05:.95."""
    ap50: float
    ap75: float
    ap_vt: float
    """Very tiny: area up to 8² pixels."""
    ap_t: float
    """Tiny: 8² to 16²."""
    ap_s: float
    """Small: 16² to 32²."""
    ap_m: float
    """Medium and all above: from 32²."""
    ar: float
    """Recall at the largest number of detections, mean over the same IoU."""
    ar_vt: float
    ar_t: float
    ar_s: float
    ar_m: float
    ar_by_max_det: Mapping[int, float]
    """The same recall with fewer detections of each class on an image."""

    def as_dict(self) -> dict[str, Any]:
        """JSON's types; None where there is no ground truth."""
        return {name: _json(getattr(self, name)) for name in FIGURES + _RECALLS} | {
            "ar_by_max_det": {str(n): _json(ar) for n, ar in self.ar_by_max_det.items()}
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores(Scores):
    """Scores of one class."""

    objects: int
    """Ground truth without crowd regions."""
    detections: int
    """Detections that took part, before the limit to `max_det`."""

    def as_dict(self) -> dict[str, Any]:
        """JSON's types; None where there is no ground truth."""
        return Scores.as_dict(self) | {"objects": self.objects, "detections": self.detections}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Scores):
    """Means over the classes that have ground truth, each class, and how it was measured."""

    per_class: Mapping[str, ClassScores]
    images: int
    dropped_unknown: int
    """Detections left out since their class is not labelled on their image."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON's types; None where there is no ground truth."""
        return Scores.as_dict(self) | {
            "per_class": {name: scores.as_dict() for name, scores in self.per_class.items()},
            "images": self.images,
            "dropped_unknown": self.dropped_unknown,
            "settings": dict(self.settings),
        }


def evaluate(
    labelled: LabelledSet, found: Mapping[int, Found], *, max_det: int = MAX_DET
) -> Evaluation:
    """Score the objects `found`, by image id, against all images of `labelled`.

    An image that `found` lacks has no detections. `max_det` limits the detections of each class
    on an image, best first. Raises DataError for an image id or label that `labelled` lacks and
    for values that are not finite, UsageError for a `max_det` below 1.
    """
    if max_det < 1:
        raise UsageError(f"max_det must be at least 1, not {max_det}")
    _check(labelled, found)
    truth, results, dropped = _annotations(labelled, found)
    limits = sorted({1, 100, max_det} & set(range(max_det + 1)))
    classes = len(labelled.categories)
    precision, recall = _match(labelled, truth, results, limits)
    objects = np.bincount(
        [entry["category_id"] - 1 for entry in truth if not entry["iscrowd"]], minlength=classes
    )
    kept = np.bincount([entry["category_id"] - 1 for entry in results], minlength=classes)
    per_class = {
        name: ClassScores(
            **_scores(precision[:, :, [k]], recall[:, [k]], limits),
            objects=int(objects[k]),
            detections=int(kept[k]),
        )
        for k, name in enumerate(labelled.names)
    }
    return Evaluation(
        **_scores(precision, recall, limits),
        per_class=per_class,
        images=len(labelled),
        dropped_unknown=dropped,
        settings=_settings(limits),
    )


def _settings(limits: list[int]) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "iou_thresholds": [round(float(t), 2) for t in IOU_THRESHOLDS],
        "recall_points": len(RECALL_POINTS),
        "max_det": limits[-1],
        "max_det_counts": "each class on each image",
        "area_ranges": {name: list(limits) for name, limits in AREA_RANGES.items()},
        "area_of": "the annotation's area, both ends included",
        "partial_labels": "LVIS: detections of unknown classes dropped; "
        "unmatched ones of classes not exhaustively labelled ignored",
        "crowd": "ignored",
        "mean_over": "classes with ground truth",
    }


def _check(labelled: LabelledSet, found: Mapping[int, Found]) -> None:
    unknown = sorted(set(found) - {image.id for image in labelled.images})
    if unknown:
        raise DataError(
            f"detections must belong to images of the set; {len(unknown)} image ids do not, such "
            f"as {unknown[0]}: were they made on another split?"
        )
    classes = len(labelled.categories)
    for image_id, detections in found.items():
        if not len(detections):
            continue
        low, high = int(detections.labels.min()), int(detections.labels.max())
        if low < 0 or high >= classes:
            raise DataError(
                f"labels must lie in 0 to {classes - 1}; image {image_id} has {low} to {high}"
            )
        boxes = _xywh(detections)
        if not (np.isfinite(boxes).all() and np.isfinite(detections.scores).all()):
            raise DataError(
                f"boxes and scores must be finite; detections of image {image_id} are not: was "
                "the model trained to NaN?"
            )


def _xywh(detections: Found) -> FloatArray:
    """(N, 4) left, top, width, height in double precision, as the matcher reads them."""
    if isinstance(detections, CocoDetections):
        return detections.boxes_xywh
    boxes = detections.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _annotations(
    labelled: LabelledSet, found: Mapping[int, Found]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Ground truth and detections as the matcher's records, and how many were dropped."""
    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    dropped = 0
    for image in labelled.images:
        truth.extend(_truth_of(image, first_id=len(truth) + 1))
        detections = found.get(image.id)
        if detections is None or not len(detections):
            continue
        known = image.known.copy()
        known[image.labels] = True
        boxes = _xywh(detections)
        for at in np.flatnonzero(known[detections.labels]).tolist():
            label = int(detections.labels[at])
            bbox = boxes[at].tolist()
            results.append(
                {
                    # Id 0 means "unmatched" to the matcher.
                    "id": len(results) + 1,
                    "image_id": image.id,
                    "category_id": label + 1,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": 0,
                    "score": float(detections.scores[at]),
                    # The matcher ignores such a detection where it stays unmatched.
                    "lvis_mark": not bool(image.exhaustive[label]),
                }
            )
        dropped += int((~known[detections.labels]).sum())
    return truth, results, dropped


def _truth_of(image: LabelledImage, first_id: int) -> list[dict[str, Any]]:
    boxes = image.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {
            "id": first_id + at,
            "image_id": image.id,
            "category_id": int(image.labels[at]) + 1,
            "bbox": boxes[at].tolist(),
            "area": float(image.areas[at]),
            "iscrowd": int(image.crowd[at]),
        }
        for at in range(len(boxes))
    ]


def _match(
    labelled: LabelledSet,
    truth: list[dict[str, Any]],
    results: list[dict[str, Any]],
    limits: list[int],
) -> tuple[FloatArray, FloatArray]:
    """Precision (T, R, C, A, M) and recall (T, C, A, M) arrays, -1 without ground truth."""
    shape = (len(IOU_THRESHOLDS), len(labelled.categories), len(AREA_RANGES), len(limits))
    if not truth:
        empty = np.full(shape, -1.0)
        return np.repeat(empty[:, None], len(RECALL_POINTS), axis=1), empty
    images = [{"id": image.id} for image in labelled.images]
    categories = [{"id": at + 1, "name": name} for at, name in enumerate(labelled.names)]
    sides = []
    for records in (truth, results):
        side = COCO(print_function=_silent)
        side.dataset = {"images": images, "categories": categories, "annotations": records}
        side.createIndex()
        sides.append(side)
    matcher = COCOeval_faster(*sides, iouType="bbox", print_function=_silent)
    matcher.params.iouThrs = IOU_THRESHOLDS
    matcher.params.recThrs = RECALL_POINTS
    matcher.params.maxDets = limits
    matcher.params.areaRng = [list(limit) for limit in AREA_RANGES.values()]
    matcher.params.areaRngLbl = list(AREA_RANGES)
    matcher.evaluate()
    matcher.accumulate()
    return np.asarray(matcher.eval["precision"]), np.asarray(matcher.eval["recall"])


def _silent(*_: object, **__: object) -> None:
    """Takes the library's messages."""


def _scores(precision: FloatArray, recall: FloatArray, limits: list[int]) -> dict[str, Any]:
    full = precision[..., -1]
    return {
        "ap": _mean(full[..., _ALL]),
        "ap50": _mean(full[_AT_50, ..., _ALL]),
        "ap75": _mean(full[_AT_75, ..., _ALL]),
        "ap_vt": _mean(full[..., _VERYTINY]),
        "ap_t": _mean(full[..., _TINY]),
        "ap_s": _mean(full[..., _SMALL]),
        "ap_m": _mean(full[..., _MEDIUM]),
        "ar": _mean(recall[..., _ALL, -1]),
        "ar_vt": _mean(recall[..., _VERYTINY, -1]),
        "ar_t": _mean(recall[..., _TINY, -1]),
        "ar_s": _mean(recall[..., _SMALL, -1]),
        "ar_m": _mean(recall[..., _MEDIUM, -1]),
        "ar_by_max_det": {n: _mean(recall[..., _ALL, at]) for at, n in enumerate(limits)},
    }


def _mean(values: FloatArray) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else math.nan


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value
