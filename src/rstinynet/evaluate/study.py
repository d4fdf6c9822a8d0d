"""An evaluation with all that was asked for beside the numbers: scenes, curves, errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.evaluate.by_scene import SceneScores, scene_scores
from rstinynet.evaluate.calibrated import Calibration, calibration_of, plot_reliability
from rstinynet.evaluate.coco import Watcher, evaluation_of, match_all
from rstinynet.evaluate.columns import Found, by_id
from rstinynet.evaluate.confusion import Confusion, ConfusionCounter
from rstinynet.evaluate.curves import (
    DENSITIES,
    DensityCurve,
    density_curves,
    plot,
    precision_recall,
)
from rstinynet.evaluate.errors import ErrorCounter, ErrorReport
from rstinynet.evaluate.protocols import AITOD, Protocol
from rstinynet.evaluate.scores import Evaluation, number
from rstinynet.files import write_json

CONFUSION_CONF = 0.25
"""Least score of a detection in the confusion matrix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is worked out beside the numbers."""

    protocol: Protocol = AITOD
    errors: bool = False
    confusion_conf: float = CONFUSION_CONF
    curves: bool = False
    calibration: bool = False
    scene_of: Callable[[LabelledImage], str] | None = None
    """Names the scene of an image; None: no scenes."""
    gsd_m: Mapping[int, float] = field(default_factory=dict)
    """Ground sampling distance in metres by image id, where it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """An evaluation and what was asked for; None for what was not."""

    evaluation: Evaluation
    scenes: dict[str, SceneScores] | None
    density: dict[str, DensityCurve] | None
    curves: dict[str, Any] | None
    calibration: Calibration | None
    errors: ErrorReport | None
    confusion: Confusion | None

    def as_dict(self) -> dict[str, Any]:
        """JSON's types; None where there is no ground truth."""
        content = self.evaluation.as_dict()
        if self.scenes is not None:
            content["per_scene"] = {name: each.as_dict() for name, each in self.scenes.items()}
        if self.density is not None:
            content["density"] = density_as_dict(self.density)
        if self.curves is not None:
            content["curves"] = self.curves
        if self.calibration is not None:
            content["calibration"] = self.calibration.as_dict()
        if self.errors is not None:
            content["errors"] = self.errors.as_dict()
        if self.confusion is not None:
            content["confusion"] = self.confusion.as_dict()
        return content

    def plot(self, folder: Path) -> list[Path]:
        """Draw the curves into `folder`, with their data as `curves.json`; returns the paths."""
        assert self.curves is not None
        paths = plot(self.curves, self.density, folder)
        content = {"settings": dict(self.evaluation.settings), "precision_recall": self.curves}
        if self.density is not None:
            content["density"] = density_as_dict(self.density)
        if self.calibration is not None:
            paths.append(plot_reliability(self.calibration, folder / "reliability.png"))
            content["calibration"] = self.calibration.as_dict()
        write_json(folder / "curves.json", content)
        return [*paths, folder / "curves.json"]


def study(labelled: LabelledSet, found: Found, wanted: Wanted) -> Study:
    """Score `found`, by image id, against `labelled`, and work out what is `wanted`.

    Raises DataError as `evaluate` does.
    """
    protocol = wanted.protocol
    errors = ErrorCounter(protocol, classes=len(labelled.categories))
    confusion = ConfusionCounter(protocol, names=labelled.names, conf=wanted.confusion_conf)
    watchers: tuple[Watcher, ...] = (errors, confusion) if wanted.errors else ()
    records = match_all(labelled, found, protocol, watchers=watchers)
    scenes = None
    if wanted.scene_of is not None:
        scenes = scene_scores(records, [wanted.scene_of(image) for image in by_id(labelled)])
    return Study(
        evaluation=evaluation_of(records, labelled),
        scenes=scenes,
        density=density_curves(records, labelled, wanted.gsd_m) if wanted.gsd_m else None,
        curves=precision_recall(records, labelled.names) if wanted.curves else None,
        calibration=calibration_of(records, labelled.names) if wanted.calibration else None,
        errors=errors.report() if wanted.errors else None,
        confusion=confusion.report() if wanted.errors else None,
    )


def density_as_dict(density: Mapping[str, DensityCurve]) -> dict[str, Any]:
    """Curves over density in JSON's types, with the mean over classes that have objects."""
    mean = {}
    for limit in DENSITIES:
        recalls = [each.recall_at(limit) for each in density.values()]
        there = [recall for recall in recalls if not np.isnan(recall)]
        mean[f"{limit:g}"] = number(float(np.mean(there))) if there else None
    return {
        "unit": "false detections per km²",
        "mean_recall_at": mean,
        "per_class": {name: each.as_dict() for name, each in density.items()},
    }
