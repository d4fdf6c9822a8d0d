"""What the batches of one epoch have added up to, over all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import torch

from rstinynet.data.augment import AugmentCounts
from rstinynet.data.batch import Batch
from rstinynet.train.learner import LOSSES
from rstinynet.train.ranks import Ranks


@dataclass(slots=True)
class Tally:
    """Sums since the last epoch's end; part of the resume state."""

    losses: list[float] = field(default_factory=lambda: [0.0] * len(LOSSES))
    batches: int = 0
    """Batches whose losses are summed."""
    objects: AugmentCounts = field(default_factory=AugmentCounts)
    """Objects of the samples: kept, and turned into regions to ignore."""
    replaced: int = 0
    """Samples that stand in for others whose image cannot be read."""
    skipped: int = 0
    """Batches left out because their loss or gradient was not finite."""

    def add_losses(self, values: Sequence[float]) -> None:
        """Add a batch's losses."""
        self.losses = [sum_ + value for sum_, value in zip(self.losses, values, strict=True)]
        self.batches += 1

    @property
    def means(self) -> list[float]:
        """The losses' means, in the order of `LOSSES`."""
        return [value / max(self.batches, 1) for value in self.losses]

    def agree(self, batch: Batch, ranks: Ranks, *, stop: bool, done: float) -> tuple[bool, float]:
        """Add what every process counted; whether any was asked to stop, and the lead's `done`."""
        counts = batch.counts
        own = [float(n) for n in (*astuple(counts), batch.replaced, stop)]
        own.append(done if ranks.leads else 0.0)
        *whole, done = ranks.total(torch.tensor(own, dtype=torch.float64)).tolist()
        *objects, replaced, stops = map(int, whole)
        self.objects += AugmentCounts(*objects)
        self.replaced += replaced
        return stops > 0, done

    def row(self) -> dict[str, Any]:
        """The epoch's columns of results.csv."""
        return {
            "objects": self.objects.kept,
            "ignored_cut": self.objects.cut,
            "ignored_small": self.objects.small,
            "pasted": self.objects.pasted,
            "batches_skipped": self.skipped,
            "images_replaced": self.replaced,
            **dict(zip(LOSSES, self.means, strict=True)),
        }

    def state(self) -> dict[str, Any]:
        """For the resume state."""
        return asdict(self)

    @staticmethod
    def restored(state: Mapping[str, Any]) -> Tally:
        """The inverse of `state`."""
        # A state of an earlier version has fewer losses.
        losses = [*state["losses"], *[0.0] * len(LOSSES)][: len(LOSSES)]
        objects = AugmentCounts(**state["objects"])
        return Tally(**{**state, "losses": losses, "objects": objects})
