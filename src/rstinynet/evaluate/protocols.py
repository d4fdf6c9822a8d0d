"""What a number means: the rules by which each protocol matches, counts and averages.

Sources: COCO (Lin et al., ECCV 2014, https://cocodataset.org/#detection-eval); AI-TOD
(Wang et al., "Tiny Object Detection in Aerial Images", ICPR 2020, and its aitodpycocotools), which
is COCO's with tiny sizes and 1500 detections; Pascal VOC (Everingham et al., IJCV 2010, and the
devkits of 2007 and 2012); DIOR (Li et al., ISPRS 2020), which reports each class's AP at IoU .5
and does not say how it is interpolated, so both of VOC's ways are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rstinynet.errors import UsageError

FloatArray = npt.NDArray[np.float64]
Interpolation = Literal["101-point", "area", "11-point"]

COCO_IOUS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""IoU .50:.05:.95, the very doubles that pycocotools compares with."""
INTERPOLATIONS: Mapping[Interpolation, FloatArray | None] = {
    "101-point": np.linspace(0.0, 1.0, 101),
    # Between neighbouring recalls, at every point where the recall changes.
    "area": None,
    "11-point": np.linspace(0.0, 1.0, 11),
}


@dataclass(frozen=True, slots=True)
class Size:
    """A range of object sizes; both ends belong to it."""

    name: str
    short: str
    """What stands behind `ap_` and `ar_`."""
    low: float
    """Square pixels of the annotation's own `area`."""
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """One way to score detections."""

    name: str
    title: str
    """How the protocol is called in print."""
    matching: Literal["coco", "voc"]
    """coco: a detection takes the free object that it overlaps most. voc: a detection belongs to
    the object that it overlaps most, and is false where that one is taken."""
    ious: tuple[float, ...]
    """Least overlap of a match, ascending."""
    sizes: tuple[Size, ...]
    """The first holds every object."""
    max_dets: tuple[int, ...]
    """Detections of each class on an image, ascending; the last limits every AP. Empty: all."""
    interpolations: tuple[Interpolation, ...]
    """The first is that of `ap`."""
    ignored: str
    """What becomes of regions marked as crowd or difficult."""

    @property
    def limit(self) -> int:
        """Most detections of a class on an image that take part."""
        return self.max_dets[-1] if self.max_dets else np.iinfo(np.int32).max

    @property
    def figures(self) -> tuple[str, ...]:
        """Keys of the numbers of this protocol's tables, in order."""
        if self.matching == "voc":
            return tuple(_VOC_KEYS[way] for way in self.interpolations)
        return ("ap", "ap50", "ap75", *(f"ap_{size.short}" for size in self.sizes[1:]))

    def with_max_det(self, max_det: int | None) -> Protocol:
        """The same protocol with another limit of detections.

        Raises UsageError for a limit below 1.
        """
        if max_det is None:
            return self
        if max_det < 1:
            raise UsageError(f"max_det must be at least 1, not {max_det}")
        fewer = tuple(limit for limit in self.max_dets[:-1] if limit < max_det)
        return replace(self, max_dets=(*fewer, max_det))

    def as_dict(self) -> dict[str, Any]:
        """Everything a number of this protocol depends on, in JSON's types."""
        return {
            "protocol": self.title,
            "protocol_name": self.name,
            "matching": self.matching,
            "iou_thresholds": [round(iou, 2) for iou in self.ious],
            "interpolation": list(self.interpolations),
            "recall_points": _points(self.interpolations[0]),
            "max_det": self.max_dets[-1] if self.max_dets else None,
            "max_dets": list(self.max_dets),
            "max_det_counts": "each class on each image",
            "area_ranges": {size.name: [size.low, size.high] for size in self.sizes},
            "area_of": "the annotation's area, both ends included",
            "partial_labels": "LVIS: detections of unknown classes dropped; "
            "unmatched ones of classes not exhaustively labelled ignored",
            "crowd": self.ignored,
            "mean_over": "classes with ground truth",
        }

    def describe(self) -> str:
        """The rules in one line."""
        ious = f"IoU {self.ious[0]:.2f}"
        if len(self.ious) > 1:
            ious += f" to {self.ious[-1]:.2f}"
        limit = f"at most {self.max_dets[-1]}" if self.max_dets else "all"
        ways = " and ".join(f"{way} interpolation" for way in self.interpolations)
        return (
            f"{self.title} protocol, {ious}, {ways}, {limit} detections of each class on an image"
        )


_VOC_KEYS: Mapping[Interpolation, str] = {
    "101-point": "ap50_101",
    "area": "ap50_area",
    "11-point": "ap50_11",
}
_ALL = Size("all", "all", 0.0, 1e10)
_COCO_SIZES = (
    _ALL,
    Size("small", "s", 0.0, 32.0**2),
    Size("medium", "m", 32.0**2, 96.0**2),
    Size("large", "l", 96.0**2, 1e10),
)
_TINY_SIZES = (
    _ALL,
    Size("verytiny", "vt", 0.0, 8.0**2),
    Size("tiny", "t", 8.0**2, 16.0**2),
    Size("small", "s", 16.0**2, 32.0**2),
    Size("medium", "m", 32.0**2, 1e10),
)
_CROWD = "ignored"
_DIFFICULT = "difficult objects are neither to be found nor false"


def _points(way: Interpolation) -> int | None:
    points = INTERPOLATIONS[way]
    return None if points is None else len(points)


def _coco_like(name: str, title: str, sizes: tuple[Size, ...], limits: tuple[int, ...]) -> Protocol:
    return Protocol(
        name=name,
        title=title,
        matching="coco",
        ious=COCO_IOUS,
        sizes=sizes,
        max_dets=limits,
        interpolations=("101-point",),
        ignored=_CROWD,
    )


def _voc_like(name: str, title: str, *ways: Interpolation) -> Protocol:
    return Protocol(
        name=name,
        title=title,
        matching="voc",
        ious=(0.5,),
        sizes=(_ALL,),
        max_dets=(),
        interpolations=ways,
        ignored=_DIFFICULT,
    )


COCO = _coco_like("coco", "COCO", _COCO_SIZES, (1, 10, 100))
AITOD = _coco_like("aitod", "AI-TOD", _TINY_SIZES, (1, 100, 1500))
AITOD_V2 = _coco_like("aitod-v2", "AI-TOD-v2", _TINY_SIZES, (1, 100, 1500))
VOC_AREA = _voc_like("voc-area", "Pascal VOC 2010-2012", "area")
VOC_11 = _voc_like("voc-11", "Pascal VOC 2007", "11-point")
DIOR = _voc_like("dior", "DIOR", "area", "11-point")

PROTOCOLS: Mapping[str, Protocol] = {
    each.name: each for each in (AITOD, AITOD_V2, COCO, VOC_AREA, VOC_11, DIOR)
}


def protocol_named(name: str) -> Protocol:
    """The protocol of a name.

    Raises UsageError, with the names there are, for any other.
    """
    try:
        return PROTOCOLS[name.lower()]
    except KeyError:
        raise UsageError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {name!r}") from None
