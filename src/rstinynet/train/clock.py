"""Where a run stands: batches seen, share of the training done, time worked.

The batches seen, with the rest of the saved state, fix all that follows; time counts only under
`max_minutes`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rstinynet.train import schedule
from rstinynet.train.recipe import Recipe


class Clock:
    """Counts the batches of a run, and says where in the recipe's schedule they lie."""

    def __init__(self, recipe: Recipe, *, per_epoch: int) -> None:
        """For epochs of `per_epoch` batches."""
        self.recipe = recipe
        self.per_epoch = per_epoch
        self.total = recipe.epochs * per_epoch
        """Batches of the whole run."""
        self.warmup = schedule.warmup_length(recipe, per_epoch)
        self.iteration = 0
        """Batches seen."""
        self.done = 0.0
        """Share of the training that is done: 1 at its end."""
        self._worked_before = 0.0
        # Since it was started: another machine may have run the rest.
        self._batches, self._batches_s = 0, 0.0
        self._started: float | None = None

    def start(self) -> None:
        """Let time count from now on."""
        self._started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds of work on this run, over all its resumptions."""
        now = 0.0 if self._started is None else time.monotonic() - self._started
        return self._worked_before + now

    def advance(self, seconds: float, *, images: int, val_s: float) -> None:
        """One batch more, of so many `images`, took `seconds`; a whole validation takes `val_s`."""
        self.iteration += 1
        self._batches += 1
        self._batches_s += seconds
        limit_s = schedule.limit_s(
            self.recipe, batch_s=self._batches_s / self._batches, images=images, val_s=val_s
        )
        now = schedule.progress(
            iteration=self.iteration, total=self.total, elapsed_s=self.elapsed_s, limit_s=limit_s
        )
        self.done = max(self.done, now)

    # --- of the batch to come

    @property
    def position(self) -> int:
        """How far warm-up is, in its batches."""
        limited = self.recipe.max_minutes is not None
        return schedule.warmup_position(
            iteration=self.iteration, warmup=self.warmup, done=self.done, limited=limited
        )

    @property
    def summed(self) -> int:
        """Batches whose gradients one update sums."""
        return schedule.accumulation(self.recipe, iteration=self.position, warmup=self.warmup)

    @property
    def ends_epoch(self) -> bool:
        """Whether the batch is the last of its epoch."""
        return (self.iteration + 1) % self.per_epoch == 0

    @property
    def backbone_is_frozen(self) -> bool:
        """Whether the backbone is held as it was initialised."""
        return schedule.backbone_is_frozen(
            self.recipe, iteration=self.iteration, batches_per_epoch=self.per_epoch, done=self.done
        )

    def mosaic(self, iteration: int) -> bool:
        """Whether the batch `iteration` has mosaics."""
        planned = max(self.done if self.recipe.max_minutes else 0.0, iteration / self.total)
        return planned < self.recipe.mosaic_share - 1e-9

    def place(self, iteration: int) -> tuple[int, int]:
        """Epoch, and batch within it, of the batch `iteration` (counted from 0), both from 1."""
        epoch, batch = divmod(iteration, self.per_epoch)
        return epoch + 1, batch + 1

    # --- of the batches seen

    @property
    def epochs(self) -> int:
        """Epochs begun."""
        return math.ceil(self.iteration / self.per_epoch)

    @property
    def between_epochs(self) -> bool:
        """Whether the last batch ended an epoch, or the run."""
        return self.done >= 1 or (self.iteration > 0 and self.iteration % self.per_epoch == 0)

    def go_on(self) -> None:
        """Let a run that was stopped before its end go on where it stands."""
        self.done = self.iteration / self.total

    def state(self) -> dict[str, Any]:
        """For the resume state."""
        return {"iteration": self.iteration, "done": self.done, "elapsed_s": self.elapsed_s}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.iteration, self.done = state["iteration"], state["done"]
        self._worked_before = state["elapsed_s"]
