"""Precision-recall curves, and recall against false detections per square kilometre.

A point of a curve is a confidence: everything that scores as much or more is kept, so that
detections of equal score stand or fall together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rstinynet.data.annotations import LabelledSet
from rstinynet.evaluate.columns import FloatArray, by_id
from rstinynet.evaluate.records import ClassRecords, Records
from rstinynet.evaluate.scores import number
from rstinynet.evaluate.summary import ClassLanes
from rstinynet.files import replacing

RECALLS = np.linspace(0.0, 1.0, 101)
DENSITIES = (0.1, 1.0, 10.0, 100.0)
"""False detections per km² at which the recall is reported."""
_POINTS = 200
"""Most points of a curve over density that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DensityCurve:
    """Recall against false detections per km² of one class at the protocol's first threshold."""

    km2: float
    """Ground on which the class is wholly labelled and whose scale is known."""
    objects: int
    false_per_km2: FloatArray
    """(P,) ascending."""
    recall: FloatArray
    """(P,)"""
    conf: FloatArray
    """(P,) least score that is kept, falling."""

    def recall_at(self, density: float) -> float:
        """Largest recall with at most `density` false detections per km²; NaN without objects."""
        if not self.objects or not self.km2:
            return math.nan
        return float(self.recall[self.false_per_km2 <= density].max(initial=0.0))

    def as_dict(self) -> dict[str, Any]:
        """JSON's types; a long curve is thinned."""
        keep = np.unique(np.linspace(0, len(self.conf) - 1, _POINTS).astype(np.int64))
        keep = keep[: len(self.conf)]
        return {
            "km2": self.km2,
            "objects": self.objects,
            "recall_at": {f"{d:g}": number(self.recall_at(d)) for d in DENSITIES},
            "false_per_km2": self.false_per_km2[keep].tolist(),
            "recall": self.recall[keep].tolist(),
            "conf": self.conf[keep].tolist(),
        }


def precision_recall(records: Records, names: Sequence[str]) -> dict[str, Any]:
    """Interpolated precision of each class at 101 recalls, by threshold, with the scores there."""
    protocol = records.protocol
    thresholds, sizes = len(protocol.ious), len(protocol.sizes)
    shown = [at for at, iou in enumerate(protocol.ious) if round(iou, 2) in (0.5, 0.75)]
    classes = {}
    for label, name in enumerate(names):
        mine = records.of(label)
        if not mine.count():
            continue
        lanes = ClassLanes(mine, thresholds=thresholds, sizes=sizes)
        curves = [lanes.lane(at).at_recalls(RECALLS) for at in range(thresholds)]
        classes[name] = {
            "precision": {f"{protocol.ious[at]:.2f}": curves[at][0].tolist() for at in shown},
            "mean_precision": np.mean([precision for precision, _ in curves], axis=0).tolist(),
            "conf": curves[0][1].tolist(),
        }
    return {"recall": RECALLS.tolist(), "classes": classes}


def density_curves(
    records: Records, labelled: LabelledSet, gsd_m: Mapping[int, float]
) -> dict[str, DensityCurve]:
    """Of each class, on the images whose ground sampling distance in metres is given by id.

    Images on which a class is not wholly labelled do not count for it.
    """
    images = by_id(labelled)
    scale = np.array([gsd_m.get(image.id, math.nan) for image in images])
    pixels = np.array([image.width * image.height for image in images], np.float64)
    km2 = pixels * scale**2 / 1e6
    made = {}
    for label, name in enumerate(labelled.names):
        whole = np.array(
            [bool(image.known[label] and image.exhaustive[label]) for image in images], np.bool_
        )
        chosen = whole & ~np.isnan(km2)
        area = float(km2[chosen].sum())
        made[name] = _density(records, records.of(label).on(chosen), area)
    return made


def _density(records: Records, mine: ClassRecords, km2: float) -> DensityCurve:
    protocol = records.protocol
    lanes = ClassLanes(mine, thresholds=len(protocol.ious), sizes=len(protocol.sizes))
    lane = lanes.lane()
    # Recall rises only at hits; those of one score are one point.
    conf = -np.unique(-lane.score)
    false_scores = mine.score[lanes.false()]
    hits = np.searchsorted(-lane.score, -conf, side="right")
    false = np.searchsorted(-false_scores, -conf, side="right")
    return DensityCurve(
        km2=km2,
        objects=lane.objects,
        false_per_km2=false / km2 if km2 else np.zeros(len(conf)),
        recall=hits / max(lane.objects, 1),
        conf=conf,
    )


def plot(
    curves: Mapping[str, Any], density: Mapping[str, DensityCurve] | None, folder: Path
) -> list[Path]:
    """Draw the curves as PNG files in `folder`; returns their paths."""
    drawn = []
    first = next(iter(curves["classes"].values()), None)
    for iou in first["precision"] if first is not None else ():
        lines = {
            name: (curves["recall"], each["precision"][iou])
            for name, each in curves["classes"].items()
        }
        title = f"Precision and recall at IoU {iou}"
        drawn.append(
            _figure(lines, folder / f"precision_recall_{iou.replace('.', '')}.png",
                    title=title, axes=("recall", "precision"))
        )  # fmt: skip
    if density:
        lines = {
            name: (each.false_per_km2, each.recall)
            for name, each in density.items()
            if each.objects and each.km2
        }
        drawn.append(
            _figure(lines, folder / "recall_density.png", title="Recall and false alarms",
                    axes=("false detections per km²", "recall"))
        )  # fmt: skip
    return drawn


def _figure(
    lines: Mapping[str, tuple[Any, Any]], path: Path, *, title: str, axes: tuple[str, str]
) -> Path:
    # The object interface: no window system is touched.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    panel = figure.add_subplot()
    for at, (name, (across, up)) in enumerate(lines.items()):
        panel.plot(across, up, label=name, color=f"C{at % 10}", linestyle="-:"[at // 10 % 2])
    wide = axes[0] != "recall"
    if wide:
        panel.set_xscale("symlog", linthresh=0.1)
        panel.set_xlim(left=0)
    else:
        panel.set_xlim(0, 1)
    panel.set(xlabel=axes[0], ylabel=axes[1], title=title, ylim=(0, 1.02))
    panel.grid(alpha=0.3)
    if lines:
        panel.legend(fontsize="small")
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
    return path
