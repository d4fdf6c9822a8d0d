"""The training loop: batches in, weights out, stoppable at any batch.

The number of batches seen and the saved state fix all that follows, so a resumed run equals an
uninterrupted one (bit for bit on the CPU, unless `max_minutes` ties the schedule to the machine's
speed).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rstinynet.data.batch import Batch
from rstinynet.data.folder import different_classes, open_split
from rstinynet.data.formats.coco import require_annotations
from rstinynet.data.stats import boxes_by_class
from rstinynet.errors import DataError
from rstinynet.evaluate.coco import FIGURES
from rstinynet.model.detector import DetectorModel
from rstinynet.model.presets import build
from rstinynet.train import checkpoint, faults, report
from rstinynet.train.batches import Batches
from rstinynet.train.clock import Clock
from rstinynet.train.faults import NotFiniteError, saving
from rstinynet.train.folder import held
from rstinynet.train.initial import initial_model
from rstinynet.train.job import Job, TrainingStoppedError
from rstinynet.train.learner import LOSSES, Learner
from rstinynet.train.norms import with_new_statistics
from rstinynet.train.optimizer import set_rates
from rstinynet.train.outcome import Outcome
from rstinynet.train.overrides import described
from rstinynet.train.progress import Reporter, StopRequest, batch_line, done_line, epoch_line
from rstinynet.train.ranks import ALONE, Ranks, joined, placed
from rstinynet.train.simd_scale import with_simd_scale
from rstinynet.train.tally import Tally
from rstinynet.train.teacher import Teacher
from rstinynet.train.watch import Watch


def train(job: Job) -> dict[str, Any]:
    """Train from the start and return the contents of the run's metrics.json.

    Writes weights/best.safetensors (best validation AP) and weights/last.safetensors, both with
    averaged weights. Raises TrainingStoppedError on SIGINT or SIGTERM, after saving; DataError and
    WeightsError for unusable input; RSTinyNetError if the loss stops being finite or the disk is
    full. Under torchrun or `accelerate launch` every process calls it, and gets the same metrics.
    """
    with joined(job.device) as ranks:
        trainer = Trainer(job, ranks=ranks)
        if ranks.leads:
            with saving(job.out):
                job.out.mkdir(parents=True, exist_ok=True)
        with held(job.out, leads=ranks.leads):
            if ranks.leads:
                with saving(job.out):
                    trainer.outcome.folder.begin(job.as_values(), trainer.outcome.inputs())
            return trainer.run()


def resume(
    run: Path,
    *,
    data: Path | None = None,
    device: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Continue the run kept in the folder `run` where its newest state was saved.

    On the device it was on, unless `device` is given, on any number of processes; UsageError if
    there is no such device here, or if `changes` are of settings that cannot change any more.
    """
    with held(run, leads=placed().leads):
        state = checkpoint.load(run)
        job = Job.from_values(state["job"], out=run).with_changes(changes or {})
        job = replace(job, data=data or job.data, device=device or job.device)
        with joined(job.device) as ranks:
            return Trainer(job, state, ranks=ranks).run()


class Trainer:
    """One run: its clock, its data, what learns and what comes of it."""

    def __init__(
        self, job: Job, state: Mapping[str, Any] | None = None, *, ranks: Ranks = ALONE
    ) -> None:
        self.job, self.recipe, self.ranks = job, job.recipe, ranks
        self.train_set = require_annotations(open_split(job.data, "train"), source=job.data)
        self.val_set = require_annotations(open_split(job.data, "val"), source=f"{job.data} (val)")
        if self.train_set.categories != self.val_set.categories:
            raise different_classes(job.data, self.train_set, self.val_set)
        self.outcome = Outcome(job, train_set=self.train_set, val_set=self.val_set, ranks=ranks)
        draw, silent = self.recipe.pictures, not ranks.leads
        self.watch = Watch(job.out, names=self.recipe.watch, draw=draw, silent=silent)
        self.batches = Batches(self.train_set, self.recipe, device=job.device, ranks=ranks)
        self.clock = Clock(self.recipe, per_epoch=self.batches.per_epoch)

        names = self.train_set.names
        classes = len(names)
        if state is None:
            seed = self.recipe.seed
            model = initial_model(job.model, classes, seed=seed, init=job.init, names=names)
        else:
            model = build(job.model, classes)
        if self.recipe.auxiliary_weight == 0:
            model = model.without_auxiliary()  # what teaches nothing need not be computed
        self.recipe = with_simd_scale(self.recipe, self.train_set, strides=model.strides)
        boxes = boxes_by_class(self.train_set)
        teacher = None
        if self.recipe.distill is not None:
            teacher = Teacher(
                self.recipe.distill,
                names=names,
                strides=model.strides,
                device=ranks.device(job.device),
                views=self.recipe.distill_views,
            )
        self.losses = LOSSES if teacher is not None else LOSSES[:-1]
        self.learner = Learner(
            model,
            self.recipe,
            ranks.device(job.device),
            class_boxes=boxes,
            teacher=teacher,
            ranks=ranks,
        )

        self.tally = Tally()
        self.stopped_early = False
        self.skipped_in_a_row = 0
        self.rate = 0.0
        self.stop = StopRequest()
        if state is not None:
            self._restore(state)

    # --- the run

    def run(self) -> dict[str, Any]:
        """Train to the end; the contents of metrics.json."""
        self.clock.start()
        self.saved_at = time.monotonic()
        self.window = (self.saved_at, self.clock.iteration)
        with ExitStack() as stack:
            self.say = stack.enter_context(Reporter(quiet=not self.ranks.leads))
            stack.enter_context(self.stop.listening(patient=self.ranks.world > 1))
            stack.enter_context(self.batches)
            settings = self.job.as_values()
            stack.enter_context(self.watch.running(settings, iteration=self.clock.iteration))
            self.say.line(self._opening())
            self._explain()
            clock = self.clock
            stream = self.batches.stream(clock.iteration, clock.total, mosaic=clock.mosaic)
            stack.callback(stream.close)  # type: ignore[attr-defined]
            while True:
                if self._epoch_is_over():
                    self._end_epoch()
                if clock.done >= 1:
                    return self._finish()
                self._one(stream)

    def _one(self, stream: Iterator[tuple[int, Batch]]) -> None:
        begun = time.monotonic()
        try:
            _, batch = next(stream)
        except DataError as error:
            if not checkpoint.kept(self.job.out):
                # Rather without the gradients that wait for their update than not at all.
                self.learner.forget()
            if not self.learner.unsummed:
                self._save()
            raise faults.bad_image(error, self.job.out) from error
        try:
            self._step(batch)
            self.skipped_in_a_row = 0
        except NotFiniteError as error:
            self._leave_out(error)
        clock, seconds = self.clock, time.monotonic() - begun
        val_s = self.outcome.val_time(self.learner.ema.module)
        clock.advance(seconds, images=self.batches.batch, val_s=val_s)
        stop, clock.done = self.tally.agree(
            batch, self.ranks, stop=self.stop.asked, done=clock.done
        )
        self.say.share(clock.done)
        if clock.iteration % self.recipe.log_every == 0:
            self._log()
        if self.learner.unsummed:
            clock.done = min(clock.done, 1 - 1e-9)
            return
        if stop:
            self._save()
            raise TrainingStoppedError(
                f"stopped after batch {clock.iteration} of {clock.total}, everything is saved; "
                f"continue with: rstinynet train --resume {self.job.out}"
            )
        if time.monotonic() - self.saved_at >= 60 * self.recipe.save_minutes:
            self._save()

    def _step(self, batch: Batch) -> None:
        self._hold_backbone()
        clock, optimizer = self.clock, self.learner.optimizer
        self.rate = set_rates(
            optimizer, self.recipe, done=clock.done, iteration=clock.position, warmup=clock.warmup
        )
        self.watch.batch(clock.iteration, batch, self.train_set.names)
        last = self.learner.unsummed + 1 >= clock.summed or clock.ends_epoch
        values = self.learner.learn(batch, images=self.batches.batch, last=last)
        self.tally.add_losses(values)
        if last:
            self.learner.update(batch)

    def _leave_out(self, error: NotFiniteError) -> None:
        """Skip the batch, or stop, as the recipe says; what waited for its update goes with it."""
        self.learner.forget()
        epoch, batch = self.clock.place(self.clock.iteration)
        where = f"epoch {epoch}, batch {batch} (iteration {self.clock.iteration})"
        if self.recipe.nonfinite == "skip" and self.skipped_in_a_row < self.recipe.nonfinite_limit:
            self.skipped_in_a_row += 1
            self.tally.skipped += 1
            self.say.line(f"skipped {where}: {error}")
            return
        self._save()
        if self.ranks.leads:
            with saving(self.job.out):
                self.outcome.write(self.learner.ema.module, self._budget())
        limit = self.recipe.nonfinite_limit if self.recipe.nonfinite == "skip" else None
        raise faults.not_finite(f"{where}: {error}", self.job.out, limit=limit) from error

    def _hold_backbone(self) -> None:
        self.learner.hold_backbone(self.clock.backbone_is_frozen)

    # --- between epochs

    def _epoch_is_over(self) -> bool:
        return self.clock.between_epochs and self.outcome.iteration != self.clock.iteration

    def _end_epoch(self) -> None:
        clock, every = self.clock, self.recipe.val_every
        due = clock.done >= 1 or bool(every and clock.epochs % every == 0)
        row: dict[str, Any] = {
            "epoch": clock.epochs,
            "iteration": clock.iteration,
            "minutes": round(clock.elapsed_s / 60, 2),
            "lr": self.rate,
            **self.tally.row(),
        }
        measured = None
        if due:
            # A kill during validation must not cost the epoch.
            self._save()
            measured = self.outcome.measure(
                self.learner.ema.module, self._budget(), images=self.recipe.val_images
            )
        self.outcome.add(row, measured)
        self.tally = Tally()
        early = self.outcome.out_of_patience if due and clock.done < 1 else ""
        if early:
            clock.done = 1.0
            self.stopped_early = True
        if due or time.monotonic() - self.saved_at >= min(10.0, 60 * self.recipe.save_minutes):
            # Epochs of a few images would otherwise be all writing.
            with saving(self.job.out):
                self.outcome.write(self.learner.ema.module, self._budget(), measured=measured)
            self._save()
        self._show(row, validated=due)
        self.say.line(epoch_line(row, self.losses, FIGURES))
        self.say.line(report.lost_in_words(row, self.recipe.augment))
        if early:
            self.say.line(early)

    def _finish(self) -> dict[str, Any]:
        with saving(self.job.out):
            metrics = self.outcome.finish(
                self._candidates(),
                self._budget(),
                {
                    "epochs": round(self.clock.iteration / self.clock.per_epoch, 2),
                    "iterations": self.clock.iteration,
                    "minutes": round(self.clock.elapsed_s / 60, 2),
                },
            )
        self.watch.finish(self.clock.iteration, self.outcome.rows, metrics)
        self.say.line(done_line(metrics, self.outcome.folder.best))
        return metrics

    def _candidates(self) -> dict[str, DetectorModel]:
        """What may be better than the average: the model as it is, and new batch statistics."""
        found = {"unaveraged": self.learner.plain()} if self.recipe.compare_unaveraged else {}
        self._hold_backbone()
        if self.recipe.norm_batches:
            seen = self.clock.iteration
            first = max(0, seen - self.recipe.norm_batches) + self.ranks.rank
            images = (
                self.learner.images(self.batches.make(iteration, mosaic=False, whole=True))
                for iteration in range(first, seen, self.ranks.world)
            )
            found["averaged_new_statistics"] = with_new_statistics(
                self.learner.ema.module, images, like=self.learner.model, ranks=self.ranks
            )
        return found

    # --- what is said

    def _budget(self) -> str:
        return (
            f"{self.clock.iteration} batches of {self.batches.batch} in "
            f"{self.clock.elapsed_s / 60:.0f} minutes on {self.ranks.where(self.job.device)}"
        )

    def _opening(self) -> str:
        parameters = sum(p.numel() for p in self.learner.model.parameters())
        share = self.recipe.mosaic_share
        mosaic = f"mosaic for {100 * share:.0f} % of it" if share else "mosaic off throughout"
        return (
            f"{self.job.model}: {parameters / 1e6:.2f} M parameters, "
            f"{len(self.train_set)} training and {len(self.val_set)} validation images, "
            f"{self.recipe.epochs} epochs of "
            f"{self.clock.per_epoch} batches of {self.batches.batch}, {self.recipe.imgsz} px, "
            f"{mosaic}, on {self.ranks.where(self.job.device)}, from batch {self.clock.iteration}"
            f"{report.long_warmup_in_words(self.clock)}"
        )

    def _explain(self) -> None:
        """Say every setting, and which boxes the assignment can teach; keep the latter."""
        self.say.line(described(self.recipe))
        found = report.coverage(self.train_set, self.recipe, strides=self.learner.model.strides)
        self.say.line(report.in_words(found))
        if self.ranks.leads:
            with saving(self.job.out):
                self.outcome.folder.write_assignment(found)

    def _log(self) -> None:
        now = time.monotonic()
        clock, (begun, first) = self.clock, self.window
        rate = (clock.iteration - first) * self.batches.batch / max(now - begun, 1e-9)
        self.window = (now, clock.iteration)
        epoch, position = clock.place(clock.iteration - 1)
        losses = dict(zip(self.losses, self.tally.means, strict=False))
        told = losses | {"lr": self.rate, "images_per_second": rate}
        self.watch.scalars(clock.iteration, "train", told)
        place = f"epoch {epoch} batch {position}/{clock.per_epoch}"
        self.say.line(batch_line(place, told, elapsed_s=clock.elapsed_s, done=clock.done))

    def _show(self, row: dict[str, Any], *, validated: bool) -> None:
        """Tell an epoch's numbers to who watches, with a picture if it was validated."""
        self.watch.epoch(self.clock.iteration, row, FIGURES)
        if validated:
            self.watch.validation(
                self.clock.iteration,
                self.learner.ema.module,
                self.outcome.metadata(self._budget()),
                self.val_set,
                device=self.job.device,
                fit=self.outcome.fit,
            )

    # --- resume state

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if not self.ranks.leads:
            return
        state = {
            "job": self.job.as_values(),
            "fingerprint": self.train_set.fingerprint,
            "val_fingerprint": self.val_set.fingerprint,
            **self.learner.state(),
            "clock": {**self.clock.state(), "rate": self.rate},
            "tally": self.tally.state(),
            "skipped_in_a_row": self.skipped_in_a_row,
            "stopped_early": self.stopped_early,
            "outcome": self.outcome.state(),
        }
        with saving(self.job.out):
            checkpoint.save(self.job.out, state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        for key, now, which in (
            ("fingerprint", self.train_set.fingerprint, "training"),
            ("val_fingerprint", self.val_set.fingerprint, "validation"),
        ):
            if state.get(key, now) != now:
                raise DataError(
                    f"{self.job.data} is not the data that the run in {self.job.out} began with "
                    f"(its {which} annotations differ): give the same --data"
                )
        self.learner.restore(state)
        self.clock.restore(state["clock"])
        self.rate = state["clock"]["rate"]
        self.tally = Tally.restored(state["tally"])
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.outcome.restore(state["outcome"])
        if state.get("stopped_early") and not self.outcome.out_of_patience:
            self.clock.go_on()  # its patience was raised
