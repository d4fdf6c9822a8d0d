"""What a run has measured and kept: rows of results, the best weights, final metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.image import PERCENTILES
from rstinynet.errors import DataError
from rstinynet.evaluate.coco import FIGURES
from rstinynet.evaluate.protocols import AITOD
from rstinynet.model.detector import DetectorModel
from rstinynet.model.presets import build
from rstinynet.model.weights import Scaling, WeightsMetadata, load_weights, save_weights
from rstinynet.train.folder import RunFolder
from rstinynet.train.job import Job, inference_scale, validation_fit
from rstinynet.train.ranks import ALONE, Ranks
from rstinynet.train.validate import Measured, images_at_once, spaced_images, validate


class Outcome:
    """Validates a run's averaged model and keeps its rows and weights.

    Of several processes all validate, and the lead writes.
    """

    def __init__(
        self, job: Job, *, train_set: LabelledSet, val_set: LabelledSet, ranks: Ranks = ALONE
    ) -> None:
        """Raises DataError where the number that chooses the best weights cannot be measured."""
        self.job, self.ranks = job, ranks
        self.folder = RunFolder(job.out)
        _require_objects(job.recipe.best, spaced_images(val_set, job.recipe.val_images))
        self._train_set = train_set
        self._val_set = val_set
        self.scale = inference_scale(job.recipe, train_set)
        """Factor by which images are resized at inference, and at validation without `fit`."""
        self.fit = validation_fit(job.recipe)
        """What validation resizes the longer side of each image to, pixels."""
        self.rows: list[dict[str, Any]] = []
        self.best = -1.0
        """The highest value of the metric that chooses."""
        self.best_metrics: Measured = {}
        self.risen = 0
        """The epoch in which that value last rose."""
        self.val_seconds: float | None = None
        """Seconds that validation on all images takes, once measured."""
        self.val_fixed = 0.0
        """Those of them that do not grow with the images, where they have been told apart."""

    def inputs(self) -> dict[str, Any]:
        """What the run is made from, besides its settings and this code."""
        return {
            "device": self.job.device,
            "seed": self.job.recipe.seed,
            "data": {"train": self._train_set.fingerprint, "val": self._val_set.fingerprint},
        }

    @property
    def iteration(self) -> int:
        """Batches seen at the last row."""
        return int(self.rows[-1]["iteration"]) if self.rows else 0

    def measure(self, model: DetectorModel, budget: str, *, images: int | None = None) -> Measured:
        """Validate on `images` validation images, evenly spaced, or on all; every process calls."""
        measured, seconds = self._timed(model, budget, images)
        whole = len(self._val_set)
        share = min(images or whole, whole) / max(whole, 1)
        growing = max(0.0, seconds - self.val_fixed)
        self.val_seconds = self.val_fixed + growing / max(share, 1e-9)
        return measured

    def val_time(self, model: DetectorModel) -> float:
        """Seconds that validation on all images takes; 0 where no time limit asks for it.

        Where there has been none, two groups of images of different size are timed. A batch of
        training would not tell it: matching, reading and scoring are no part of one, and it may run
        in half precision.
        """
        if self.job.recipe.max_minutes is None:
            return 0.0
        if self.val_seconds is None:
            whole = len(self._val_set)
            few = min(self._at_once(self._val_set) * self.ranks.world, whole)
            more = min(3 * few, whole)
            # The first time is longer by what is imported and compiled then.
            _, base, longer = (self._timed(model, "", n)[1] for n in (few, few, more))
            each = max(0.0, longer - base) / max(more - few, 1)
            self.val_fixed = max(0.0, base - each * few)
            self.val_seconds = base + each * (whole - few)
        return self.val_seconds

    def _at_once(self, chosen: LabelledSet) -> int:
        """Images in a group: no more memory than training has shown to be there."""
        recipe = self.job.recipe
        pixels = recipe.batch * recipe.imgsz**2
        return images_at_once(chosen, pixels=pixels, scale=self.scale, fit=self.fit)

    def _timed(
        self, model: DetectorModel, budget: str, images: int | None
    ) -> tuple[Measured, float]:
        begun = time.monotonic()
        chosen = spaced_images(self._val_set, images)
        measured = validate(
            model,
            self.metadata(budget),
            chosen,
            device=str(self.ranks.device(self.job.device)),
            batch=self._at_once(chosen),
            fit=self.fit,
            ranks=self.ranks,
        )
        return measured, time.monotonic() - begun

    def add(self, row: dict[str, Any], measured: Measured | None = None) -> None:
        """Add the row of an epoch, with its validation if there was one."""
        if measured is not None:
            row |= {key: measured.get(key) for key in FIGURES}
            # In its first epochs a model finds nothing at all: that is no reason to give it up.
            if self._value(measured) > self.best or self.best <= 0:
                self.risen = row["epoch"]
        self.rows.append(row)

    @property
    def out_of_patience(self) -> str:
        """What to say when the metric has not risen for as long as the recipe waits; or ""."""
        recipe = self.job.recipe
        if not recipe.patience or self.rows[-1]["epoch"] - self.risen < recipe.patience:
            return ""
        return (
            f"stopped early: {recipe.best} has not risen for {recipe.patience} epochs; it was "
            f"highest in epoch {self.risen}"
        )

    def write(self, model: DetectorModel, budget: str, *, measured: Measured | None = None) -> None:
        """Write results.csv, last and, where this is the best yet, best."""
        if self.ranks.leads:
            self.folder.write_results(self.rows)
            save_weights(self.folder.last, model, self.metadata(budget, measured))
        # Of equal epochs the later one: at AP 0 the first weights would otherwise stay for good.
        if measured is not None and self._value(measured) >= self.best:
            self._take(model, budget, measured)

    def finish(
        self, candidates: Mapping[str, DetectorModel], budget: str, extra: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write and return metrics.json: the best weights' numbers on all validation images.

        A candidate that scores higher than the best so far takes its place.
        """
        if self.job.recipe.val_images is not None:
            # Until now `best` was measured on a part of the validation images.
            best, made_in = self._reread_best()
            self._take(best, made_in, self.measure(best, made_in))
        name_of_best = self.job.recipe.best
        tried: dict[str, Any] = {"averaged": self.best_metrics.get(name_of_best)}
        for name, model in candidates.items():
            measured = self.measure(model, budget)
            tried[name] = measured.get(name_of_best)
            if self._value(measured) > self.best:
                self._take(model, budget, measured)
        metrics = {
            **self.best_metrics,
            f"{name_of_best}_of_candidates": tried,
            "weights": str(self.folder.best.relative_to(self.folder.path)),
            **extra,
        }
        if self.ranks.leads:
            self.folder.write_metrics(metrics)
        return metrics

    def _reread_best(self) -> tuple[DetectorModel, str]:
        """The best weights so far and their budget, on every process."""
        if self.ranks.world == 1:
            best, metadata = load_weights(self.folder.best)
            return best, metadata.budget
        # Other machines may not see the lead's files.
        device = self.ranks.device(self.job.device)
        best = build(self.job.model, len(self._train_set.categories)).without_auxiliary().to(device)
        made_in = ""
        if self.ranks.leads:
            saved, metadata = load_weights(self.folder.best)
            best.load_state_dict(saved.state_dict())
            made_in = metadata.budget
        self.ranks.copy_from_lead(best.state_dict().values())
        return best, str(self.ranks.from_lead(made_in))

    def _take(self, model: DetectorModel, budget: str, measured: Measured) -> None:
        self.best, self.best_metrics = self._value(measured), measured
        if self.ranks.leads:
            save_weights(self.folder.best, model, self.metadata(budget, measured))

    def _value(self, measured: Measured) -> float:
        value = measured.get(self.job.recipe.best)
        return float(value) if _is_number(value) else 0.0

    def metadata(self, budget: str, measured: Measured | None = None) -> WeightsMetadata:
        """What this run's weights say of themselves."""
        values = {} if measured is None else measured
        numbers = {key: values.get(key) for key in FIGURES}
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
            "best": self.best,
            "best_metrics": self.best_metrics,
            "risen": self.risen,
            "val_seconds": self.val_seconds,
            "val_fixed": self.val_fixed,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.rows = [dict(row) for row in state["rows"]]
        self.best = state["best"]
        self.best_metrics = dict(state["best_metrics"])
        self.risen = state["risen"]
        self.val_seconds = state["val_seconds"]
        self.val_fixed = state.get("val_fixed", 0.0)  # runs begun earlier lack it


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _require_objects(metric: str, val_set: LabelledSet) -> None:
    """DataError if no validation object is of the sizes that `metric` is about."""
    size = next((each for each in AITOD.sizes[1:] if metric == f"ap_{each.short}"), None)
    if size is None:
        return
    areas = [image.areas[~image.crowd] for image in val_set.images]
    if not any(bool(np.any((each >= size.low) & (each <= size.high))) for each in areas):
        raise DataError(
            f"best={metric} needs validation objects of {size.low**0.5:g} to {size.high**0.5:g} "
            "pixels' side, and there are none: choose another number, such as ap"
        )
