"""What a run has measured and kept: rows of results, the best weights, final metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, TypeGuard

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.image import PERCENTILES
from rstinynet.evaluate.coco import Evaluation
from rstinynet.model.detector import DetectorModel
from rstinynet.model.weights import Scaling, WeightsMetadata, load_weights, save_weights
from rstinynet.train.folder import RunFolder
from rstinynet.train.job import Job, inference_scale
from rstinynet.train.validate import validate

METRICS = ("ap", "ap50", "ap75", "ap_vt", "ap_t", "ap_s", "ap_m")


class Outcome:
    """Validates a run's averaged model and keeps its rows and weights."""

    def __init__(self, job: Job, *, train_set: LabelledSet, val_set: LabelledSet) -> None:
        self.job = job
        self.folder = RunFolder(job.out)
        self._train_set = train_set
        self._val_set = val_set
        self.scale = inference_scale(job.recipe, train_set)
        """Factor by which images are resized at validation and inference."""
        self.rows: list[dict[str, Any]] = []
        self.best_ap = -1.0
        self.best_metrics: dict[str, Any] = {}
        self.val_seconds: float | None = None
        """Seconds that validation on all images takes, once measured."""

    @property
    def iteration(self) -> int:
        """Batches seen at the last row."""
        return int(self.rows[-1]["iteration"]) if self.rows else 0

    def measure(
        self, model: DetectorModel, budget: str, *, images: int | None = None
    ) -> Evaluation:
        """Validate on the first `images` validation images, or on all."""
        begun = time.monotonic()
        measured = validate(
            model, self.metadata(budget), self._val_set, device=self.job.device, images=images
        )
        whole = len(self._val_set)
        share = min(images or whole, whole) / max(whole, 1)
        self.val_seconds = (time.monotonic() - begun) / max(share, 1e-9)
        return measured

    def add(self, row: dict[str, Any], measured: Evaluation | None = None) -> None:
        """Add the row of an epoch, with its validation if there was one."""
        if measured is not None:
            row |= {key: measured.as_dict().get(key) for key in METRICS}
        self.rows.append(row)

    def write(
        self, model: DetectorModel, budget: str, *, measured: Evaluation | None = None
    ) -> None:
        """Write results.csv, last and, where this is the best AP yet, best."""
        self.folder.write_results(self.rows)
        save_weights(self.folder.last, model, self.metadata(budget, measured))
        # Of equal epochs the later one: at AP 0 the first weights would otherwise stay for good.
        if measured is not None and _ap(measured) >= self.best_ap:
            self._take(model, budget, measured)

    def finish(
        self, candidates: Mapping[str, DetectorModel], budget: str, extra: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write and return metrics.json: the best weights' numbers on all validation images.

        A candidate that scores higher than the best so far takes its place.
        """
        if self.job.recipe.val_images is not None:
            # Until now `best` was measured on a part of the validation images.
            best, metadata = load_weights(self.folder.best)
            self._take(best, metadata.budget, self.measure(best, budget))
        tried: dict[str, Any] = {"averaged": self.best_metrics.get("ap")}
        for name, model in candidates.items():
            measured = self.measure(model, budget)
            tried[name] = measured.as_dict().get("ap")
            if _ap(measured) > self.best_ap:
                self._take(model, budget, measured)
        metrics = {
            **self.best_metrics,
            "ap_of_candidates": tried,
            "weights": str(self.folder.best.relative_to(self.folder.path)),
            **extra,
        }
        self.folder.write_metrics(metrics)
        return metrics

    def _take(self, model: DetectorModel, budget: str, measured: Evaluation) -> None:
        self.best_ap, self.best_metrics = _ap(measured), measured.as_dict()
        save_weights(self.folder.best, model, self.metadata(budget, measured))

    def metadata(self, budget: str, measured: Evaluation | None = None) -> WeightsMetadata:
        """What this run's weights say of themselves."""
        values = {} if measured is None else measured.as_dict()
        numbers = {key: values.get(key) for key in METRICS}
        return WeightsMetadata(
            model=self.job.model,
            names=self._train_set.names,
            category_ids=tuple(category.id for category in self._train_set.categories),
            imgsz=self.job.recipe.imgsz,
            scale=self.scale,
            scaling=Scaling(kind="percentile", low=PERCENTILES[0], high=PERCENTILES[1]),
            licence=self.job.recipe.licence,
            data_fingerprint=self._train_set.fingerprint,
            trained_with=self.job.command(),
            budget=budget,
            metrics={key: float(value) for key, value in numbers.items() if _is_number(value)},
        )

    def state(self) -> dict[str, Any]:
        """For the resume state."""
        return {
            "rows": self.rows,
            "best_ap": self.best_ap,
            "best_metrics": self.best_metrics,
            "val_seconds": self.val_seconds,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.rows = [dict(row) for row in state["rows"]]
        self.best_ap = state["best_ap"]
        self.best_metrics = dict(state["best_metrics"])
        self.val_seconds = state["val_seconds"]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _ap(measured: Evaluation) -> float:
    value = measured.as_dict().get("ap")
    return float(value) if _is_number(value) else 0.0
