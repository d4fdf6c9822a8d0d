"""The training loop: batches in, weights out, stoppable at any batch.

The clock is `iteration`, the number of batches seen. Together with the saved state it fixes all
that follows, so a resumed run equals an uninterrupted one (bit for bit on the CPU, unless
`max_minutes` ties the schedule to the machine's speed).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rstinynet.data.augment import AugmentCounts
from rstinynet.data.batch import Batch
from rstinynet.data.folder import open_split
from rstinynet.data.formats.coco import require_annotations
from rstinynet.data.stats import boxes_by_class
from rstinynet.errors import DataError, UsageError
from rstinynet.model.detector import DetectorModel
from rstinynet.model.presets import build
from rstinynet.train import checkpoint, report, schedule
from rstinynet.train.batches import Batches
from rstinynet.train.initial import initial_model
from rstinynet.train.job import Job, TrainingStoppedError
from rstinynet.train.learner import LOSSES, Learner
from rstinynet.train.norms import with_new_statistics
from rstinynet.train.optimizer import set_rates
from rstinynet.train.outcome import METRICS, Outcome
from rstinynet.train.overrides import described
from rstinynet.train.progress import Reporter, StopRequest, batch_line, epoch_line
from rstinynet.train.watch import Watch


def train(job: Job) -> dict[str, Any]:
    """Train from the start and return the contents of the run's metrics.json.

    Writes weights/best.safetensors (best validation AP) and weights/last.safetensors, both with
    averaged weights. Raises TrainingStoppedError on SIGINT or SIGTERM, after saving; DataError and
    WeightsError for unusable input; RSTinyNetError if the loss stops being finite.
    """
    trainer = Trainer(job)
    trainer.outcome.folder.begin(job.as_values(), trainer.inputs())
    return trainer.run()


def resume(run: Path, *, data: Path | None = None, device: str | None = None) -> dict[str, Any]:
    """Continue the run kept in the folder `run` where its newest state was saved.

    On the device it was on, unless `device` is given; UsageError if there is none here.
    """
    state = checkpoint.load(run)
    job = Job.from_values(state["job"], out=run)
    job = replace(job, data=data or job.data, device=device or job.device)
    if job.device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"there is no device {job.device} here: give --device cpu")
    trainer = Trainer(job, state)
    return trainer.run()


class Trainer:
    """One run's model, optimiser, average and clock."""

    def __init__(self, job: Job, state: Mapping[str, Any] | None = None) -> None:
        self.job, self.recipe = job, job.recipe
        train_set = open_split(job.data, "train")
        self.train_set = require_annotations(train_set, source=job.data)
        self.val_set = require_annotations(open_split(job.data, "val"), source=f"{job.data} (val)")
        if self.train_set.categories != self.val_set.categories:
            raise DataError(f"{job.data}: the train and val splits have different categories")
        self.outcome = Outcome(job, train_set=self.train_set, val_set=self.val_set)
        self.watch = Watch(job.out, names=self.recipe.watch, draw=self.recipe.pictures)
        self.batches = Batches(self.train_set, self.recipe, device=job.device)
        self.per_epoch = self.batches.per_epoch
        self.total = self.recipe.epochs * self.per_epoch
        self.warmup = schedule.warmup_length(self.recipe, self.per_epoch)

        classes = len(self.train_set.categories)
        if state is None:
            model = initial_model(job.model, classes, seed=self.recipe.seed, init=job.init)
        else:
            model = build(job.model, classes)
        self.learner = Learner(
            model,
            self.recipe,
            torch.device(job.device),
            class_boxes=boxes_by_class(self.train_set),
        )

        self.iteration = 0
        self.done = 0.0
        self.sums = [0.0, 0.0, 0.0, 0.0]
        self.counted = 0
        self.objects = AugmentCounts()
        """Objects of this epoch's samples: kept, and turned into regions to ignore."""
        self.rate = 0.0
        self.elapsed_before = 0.0
        self.stop = StopRequest()
        if state is not None:
            self._restore(state)

    def inputs(self) -> dict[str, Any]:
        """What the run is made from, besides its settings and this code."""
        return {
            "device": self.job.device,
            "seed": self.recipe.seed,
            "data": {"train": self.train_set.fingerprint, "val": self.val_set.fingerprint},
        }

    # --- the clock

    @property
    def elapsed_s(self) -> float:
        """Seconds of work on this run, over all its resumptions."""
        return self.elapsed_before + time.monotonic() - self.started

    @property
    def limit_s(self) -> float | None:
        """Seconds of training that leave time for the end; None: unlimited."""
        if self.recipe.max_minutes is None:
            return None
        whole = self.recipe.max_minutes * 60
        return max(whole - 1.2 * self._seconds_of_the_end() - 3, 0.1 * whole)

    def _seconds_of_the_end(self) -> float:
        """What the last validations will cost, from the pixels that training does in a second."""
        if not self.iteration:
            return 0.05 * 60 * (self.recipe.max_minutes or 0.0)
        area = self.batches.batch * self.recipe.imgsz**2
        # A forward pass is about a third of a training step; a half leaves some room.
        seconds_a_pixel = 0.5 * self.elapsed_s / (self.iteration * area)
        validation = self.outcome.val_seconds
        if validation is None:
            pixels = sum(image.width * image.height for image in self.val_set.images)
            validation = pixels * self.outcome.scale**2 * seconds_a_pixel
        passes = 2 + (self.recipe.norm_batches > 0) + (self.recipe.val_images is not None)
        return passes * validation + self.recipe.norm_batches * area * seconds_a_pixel

    def _advance(self) -> None:
        now = schedule.progress(
            iteration=self.iteration,
            total=self.total,
            elapsed_s=self.elapsed_s,
            limit_s=self.limit_s,
        )
        self.done = max(self.done, now)

    def _mosaic(self, iteration: int) -> bool:
        planned = max(self.done if self.recipe.max_minutes else 0.0, iteration / self.total)
        return planned < self.recipe.mosaic_share - 1e-9

    # --- the run

    def run(self) -> dict[str, Any]:
        """Train to the end; the contents of metrics.json."""
        self.started = time.monotonic()
        self.saved_at = self.started
        self.window = (self.started, self.iteration)
        with ExitStack() as stack:
            self.say = stack.enter_context(Reporter())
            stack.enter_context(self.stop.listening())
            stack.enter_context(self.batches)
            settings = self.job.as_values()
            stack.enter_context(self.watch.running(settings, iteration=self.iteration))
            self.say.line(self._opening())
            self._explain()
            stream = self.batches.stream(self.iteration, self.total, mosaic=self._mosaic)
            stack.callback(stream.close)  # type: ignore[attr-defined]
            while True:
                if self._epoch_is_over():
                    self._end_epoch()
                if self.done >= 1:
                    return self._finish()
                self._one(stream)

    def _one(self, stream: Iterator[tuple[int, Batch]]) -> None:
        iteration, batch = next(stream)
        self._step(batch)
        self.iteration = iteration + 1
        self._advance()
        self.say.share(self.done)
        if self.iteration % self.recipe.log_every == 0:
            self._log()
        if self.learner.unsummed:
            self.done = min(self.done, 1 - 1e-9)
            return
        if self.stop.asked:
            self._save()
            raise TrainingStoppedError(
                f"stopped after batch {self.iteration} of {self.total}, everything is saved; "
                f"continue with: rstinynet train --resume {self.job.out}"
            )
        if time.monotonic() - self.saved_at >= 60 * self.recipe.save_minutes:
            self._save()

    def _step(self, batch: Batch) -> None:
        self._hold_backbone()
        position = schedule.warmup_position(
            iteration=self.iteration,
            warmup=self.warmup,
            done=self.done,
            limited=self.recipe.max_minutes is not None,
        )
        self.rate = set_rates(
            self.learner.optimizer,
            self.recipe,
            done=self.done,
            iteration=position,
            warmup=self.warmup,
        )
        self.watch.batch(self.iteration, batch, self.train_set.names)
        values = self.learner.learn(batch)
        self.sums = [sum_ + value for sum_, value in zip(self.sums, values, strict=True)]
        self.counted += 1
        self.objects += batch.counts
        summed = schedule.accumulation(self.recipe, iteration=position, warmup=self.warmup)
        if self.learner.unsummed >= summed or (self.iteration + 1) % self.per_epoch == 0:
            self.learner.update(batch)

    def _hold_backbone(self) -> None:
        frozen = schedule.backbone_is_frozen(
            self.recipe,
            iteration=self.iteration,
            batches_per_epoch=self.per_epoch,
            done=self.done,
        )
        self.learner.hold_backbone(frozen)

    # --- between epochs

    def _epoch_is_over(self) -> bool:
        boundary = self.iteration > 0 and self.iteration % self.per_epoch == 0
        return (boundary or self.done >= 1) and self.outcome.iteration != self.iteration

    def _end_epoch(self) -> None:
        epoch = math.ceil(self.iteration / self.per_epoch)
        every = self.recipe.val_every
        due = self.done >= 1 or bool(every and epoch % every == 0)
        means = [value / max(self.counted, 1) for value in self.sums]
        row: dict[str, Any] = {
            "epoch": epoch,
            "iteration": self.iteration,
            "minutes": round(self.elapsed_s / 60, 2),
            "lr": self.rate,
            "objects": self.objects.kept,
            "ignored_cut": self.objects.cut,
            "ignored_small": self.objects.small,
            "pasted": self.objects.pasted,
            **dict(zip(LOSSES, means, strict=True)),
        }
        measured = None
        if due:
            # A kill during validation must not cost the epoch.
            self._save()
            measured = self.outcome.measure(
                self.learner.ema.module, self._budget(), images=self.recipe.val_images
            )
        self.outcome.add(row, measured)
        self.sums, self.counted = [0.0, 0.0, 0.0, 0.0], 0
        self.objects = AugmentCounts()
        if due or time.monotonic() - self.saved_at >= min(10.0, 60 * self.recipe.save_minutes):
            # Epochs of a few images would otherwise be all writing.
            self.outcome.write(self.learner.ema.module, self._budget(), measured=measured)
            self._save()
        self._show(row, validated=due)
        self.say.line(epoch_line(row, LOSSES, METRICS))
        self.say.line(report.lost_in_words(row, self.recipe.augment))

    def _finish(self) -> dict[str, Any]:
        metrics = self.outcome.finish(
            self._candidates(),
            self._budget(),
            {
                "epochs": round(self.iteration / self.per_epoch, 2),
                "iterations": self.iteration,
                "minutes": round(self.elapsed_s / 60, 2),
            },
        )
        self.watch.finish(self.iteration, self.outcome.rows, metrics)
        self.say.line(f"done: val AP {metrics.get('ap')}, weights in {self.outcome.folder.best}")
        return metrics

    def _candidates(self) -> dict[str, DetectorModel]:
        """What may be better than the average: the model as it is, and new batch statistics."""
        found = {"unaveraged": self.learner.model} if self.recipe.compare_unaveraged else {}
        self._hold_backbone()
        if self.recipe.norm_batches:
            first = max(0, self.iteration - self.recipe.norm_batches)
            images = (
                self.learner.images(self.batches.make(iteration, mosaic=False))
                for iteration in range(first, self.iteration)
            )
            found["averaged_new_statistics"] = with_new_statistics(
                self.learner.ema.module, images, like=self.learner.model
            )
        return found

    # --- what is said

    def _budget(self) -> str:
        return (
            f"{self.iteration} batches of {self.batches.batch} in "
            f"{self.elapsed_s / 60:.0f} minutes on {self.job.device}"
        )

    def _opening(self) -> str:
        parameters = sum(p.numel() for p in self.learner.model.parameters())
        share = self.recipe.mosaic_share
        mosaic = f"mosaic for {100 * share:.0f} % of it" if share else "mosaic off throughout"
        return (
            f"{self.job.model}: {parameters / 1e6:.2f} M parameters, "
            f"{len(self.train_set)} training and {len(self.val_set)} validation images, "
            f"{self.recipe.epochs} epochs of "
            f"{self.per_epoch} batches of {self.batches.batch}, {self.recipe.imgsz} px, "
            f"{mosaic}, "
            f"on {self.job.device}, from batch {self.iteration}"
        )

    def _explain(self) -> None:
        """Say every setting, and which boxes the assignment can teach; keep the latter."""
        self.say.line(described(self.recipe))
        found = report.coverage(self.train_set, self.recipe, strides=self.learner.model.strides)
        self.say.line(report.in_words(found))
        self.outcome.folder.write_assignment(found)

    def _log(self) -> None:
        now = time.monotonic()
        begun, first = self.window
        rate = (self.iteration - first) * self.batches.batch / max(now - begun, 1e-9)
        self.window = (now, self.iteration)
        means = [value / max(self.counted, 1) for value in self.sums]
        position = (self.iteration - 1) % self.per_epoch + 1
        epoch = (self.iteration - 1) // self.per_epoch + 1
        losses = dict(zip(LOSSES, means, strict=True))
        told = losses | {"lr": self.rate, "images_per_second": rate}
        self.watch.scalars(self.iteration, "train", told)
        place = f"epoch {epoch} batch {position}/{self.per_epoch}"
        self.say.line(batch_line(place, told, elapsed_s=self.elapsed_s, done=self.done))

    def _show(self, row: dict[str, Any], *, validated: bool) -> None:
        """Tell an epoch's numbers to who watches, with a picture if it was validated."""
        self.watch.epoch(self.iteration, row, METRICS)
        if validated:
            self.watch.validation(
                self.iteration,
                self.learner.ema.module,
                self.outcome.metadata(self._budget()),
                self.val_set,
                device=self.job.device,
            )

    # --- resume state

    def _save(self) -> None:
        checkpoint.save(
            self.job.out,
            {
                "job": self.job.as_values(),
                "fingerprint": self.train_set.fingerprint,
                **self.learner.state(),
                "clock": {
                    "iteration": self.iteration,
                    "done": self.done,
                    "elapsed_s": self.elapsed_s,
                    "rate": self.rate,
                },
                "sums": self.sums,
                "counted": self.counted,
                "objects": asdict(self.objects),
                "outcome": self.outcome.state(),
            },
        )
        self.saved_at = time.monotonic()

    def _restore(self, state: Mapping[str, Any]) -> None:
        if state["fingerprint"] != self.train_set.fingerprint:
            raise DataError(
                f"{self.job.data} is not the data that the run in {self.job.out} began with "
                "(its training annotations differ): give the same --data"
            )
        self.learner.restore(state)
        clock = state["clock"]
        self.iteration, self.done, self.rate = clock["iteration"], clock["done"], clock["rate"]
        self.elapsed_before = clock["elapsed_s"]
        self.sums, self.counted = list(state["sums"]), state["counted"]
        self.objects = AugmentCounts(**state.get("objects", {}))
        self.outcome.restore(state["outcome"])
