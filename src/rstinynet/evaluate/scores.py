"""The numbers of an evaluation, of each class and of their mean, and what they rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rstinynet.evaluate.columns import FloatArray
from rstinynet.evaluate.protocols import INTERPOLATIONS, Protocol
from rstinynet.evaluate.records import ClassRecords
from rstinynet.evaluate.summary import ClassLanes, Lrp, optimal_lrp

_LRP = ("olrp", "olrp_localisation", "olrp_false_positive", "olrp_false_negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Average precision and recall in [0, 1]; NaN where there is no ground truth to find.

    Numbers that a protocol does not have are NaN.
    """

    protocol: Protocol
    values: Mapping[str, float]
    """Every number by its key: `ap`, `ap50`, `ap_vt`, `ar_vt`, `olrp`, `ap50_area`, ..."""
    ar_by_max_det: Mapping[int, float]
    """Recall with fewer detections of each class on an image."""

    def value(self, key: str) -> float:
        """One number by its key; NaN for what the protocol does not have."""
        return self.values.get(key, math.nan)

    @property
    def ap(self) -> float:
        """Mean over the protocol's IoU, in its first interpolation."""
        return self.value("ap")

    @property
    def ap50(self) -> float:
        """At IoU .5."""
        return self.value("ap50")

    @property
    def ap75(self) -> float:
        """At IoU .75."""
        return self.value("ap75")

    @property
    def ap_vt(self) -> float:
        """Very tiny: area up to 8² pixels, in AI-TOD's protocol."""
        return self.value("ap_vt")

    @property
    def ap_t(self) -> float:
        """Tiny: 8² to 16², in AI-TOD's protocol."""
        return self.value("ap_t")

    @property
    def ap_s(self) -> float:
        """Small: 16² to 32² in AI-TOD's protocol, up to 32² in COCO's."""
        return self.value("ap_s")

    @property
    def ap_m(self) -> float:
        """Medium: from 32² in AI-TOD's protocol, 32² to 96² in COCO's."""
        return self.value("ap_m")

    @property
    def ap_l(self) -> float:
        """Large: from 96², in COCO's protocol."""
        return self.value("ap_l")

    @property
    def ar(self) -> float:
        """Recall at the largest number of detections, mean over the protocol's IoU."""
        return self.value("ar")

    @property
    def ar_vt(self) -> float:
        """Recall of the sizes, as `ap_vt`."""
        return self.value("ar_vt")

    @property
    def ar_t(self) -> float:
        """As `ap_t`."""
        return self.value("ar_t")

    @property
    def ar_s(self) -> float:
        """As `ap_s`."""
        return self.value("ar_s")

    @property
    def ar_m(self) -> float:
        """As `ap_m`."""
        return self.value("ar_m")

    @property
    def olrp(self) -> float:
        """Optimal localisation-recall-precision error at IoU .5: 0 is perfect."""
        return self.value("olrp")

    def as_dict(self) -> dict[str, Any]:
        """JSON's types; None where there is no ground truth."""
        return {key: number(value) for key, value in self.values.items()} | {
            "ar_by_max_det": {str(n): number(ar) for n, ar in self.ar_by_max_det.items()}
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores(Scores):
    """Scores of one class."""

    objects: int
    """Ground truth without crowd regions."""
    detections: int
    """Detections that took part, before the limit to `max_det`."""
    conf: float
    """The least score that is kept where oLRP is best; NaN where keeping nothing is."""

    def as_dict(self) -> dict[str, Any]:
        """JSON's types; None where there is no ground truth."""
        counts = {"objects": self.objects, "detections": self.detections}
        return Scores.as_dict(self) | {"olrp_conf": number(self.conf)} | counts


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassArrays:
    """What pycocotools accumulates, of one class; NaN without objects where it has -1."""

    precision: FloatArray
    """(thresholds, recall points, sizes); no recall points where interpolation has none."""
    recall: FloatArray
    """(thresholds, sizes, limits)"""
    ap: Mapping[str, float]
    """At the first threshold, all sizes, by interpolation."""
    lrp: Lrp
    objects: int


def class_arrays(records: ClassRecords, protocol: Protocol) -> ClassArrays:
    """The arrays of one class at every threshold and size of `protocol`."""
    thresholds, sizes = len(protocol.ious), len(protocol.sizes)
    points = INTERPOLATIONS[protocol.interpolations[0]]
    limits = protocol.max_dets or (protocol.limit,)
    shape = (thresholds, 0 if points is None else len(points), sizes)
    precision = np.full(shape, np.nan)
    recall = np.full((thresholds, sizes, len(limits)), np.nan)
    lanes = ClassLanes(records, thresholds=thresholds, sizes=sizes)
    for at in range(thresholds):
        for size in range(sizes):
            lane = lanes.lane(at, size)
            if not lane.objects:
                continue
            recall[at, size] = [lane.recall_within(limit) for limit in limits]
            if points is not None:
                precision[at, :, size] = lane.at_recalls(points)[0]
    first = lanes.lane()
    return ClassArrays(
        precision=precision,
        recall=recall,
        ap={way: first.average_precision(way) for way in protocol.interpolations},
        lrp=optimal_lrp(first, records.score[lanes.false()], iou=protocol.ious[0]),
        objects=first.objects,
    )


def values_of(arrays: Sequence[ClassArrays], protocol: Protocol) -> dict[str, float]:
    """Every number of `protocol`, mean over those of the classes that have objects."""
    values: dict[str, float] = {}
    if not arrays:
        return values
    if protocol.matching == "voc":
        ways = zip(protocol.interpolations, protocol.figures, strict=True)
        by_key = {key: _mean([each.ap[way] for each in arrays]) for way, key in ways}
        values |= {"ap": next(iter(by_key.values())), "ap50": next(iter(by_key.values()))} | by_key
    else:
        precision = np.stack([each.precision for each in arrays], axis=-1)
        values["ap"] = _mean(precision[:, :, 0])
        for key, iou in (("ap50", 0.5), ("ap75", 0.75)):
            at = int(np.abs(np.array(protocol.ious) - iou).argmin())
            values[key] = _mean(precision[at, :, 0])
        for size, each in enumerate(protocol.sizes[1:], start=1):
            values[f"ap_{each.short}"] = _mean(precision[:, :, size])
    recall = np.stack([each.recall for each in arrays], axis=-1)
    values["ar"] = _mean(recall[:, 0, -1])
    for size, each in enumerate(protocol.sizes[1:], start=1):
        values[f"ar_{each.short}"] = _mean(recall[:, size, -1])
    parts = [
        [each.lrp.olrp for each in arrays],
        [each.lrp.localisation for each in arrays],
        [each.lrp.false_positive for each in arrays],
        [each.lrp.false_negative for each in arrays],
    ]
    return values | {key: _mean(part) for key, part in zip(_LRP, parts, strict=True)}


def recalls_of(arrays: Sequence[ClassArrays], protocol: Protocol) -> dict[int, float]:
    """Recall by limit of detections, mean over thresholds and classes that have objects."""
    if not arrays:
        return dict.fromkeys(protocol.max_dets, math.nan)
    recall = np.stack([each.recall for each in arrays], axis=-1)
    return {limit: _mean(recall[:, 0, at]) for at, limit in enumerate(protocol.max_dets)}


def _mean(values: FloatArray | Sequence[float]) -> float:
    array = np.asarray(values, np.float64)
    valid = array[~np.isnan(array)]
    return float(valid.mean()) if valid.size else math.nan


def number(value: float) -> float | None:
    """The number for JSON: None for NaN."""
    return None if math.isnan(value) else float(value)
