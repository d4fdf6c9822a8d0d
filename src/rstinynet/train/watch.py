"""Everything that lets a run be watched, behind one object: events, watchers and pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.batch import Batch
from rstinynet.files import write_bytes
from rstinynet.model.detector import DetectorModel
from rstinynet.model.weights import WeightsMetadata
from rstinynet.train import pictures
from rstinynet.train.watchers import EventLog, RunStart, Watcher, named_watchers

BATCHES_SHOWN = 3
_log = logging.getLogger(__name__)


class Watch:
    """Tells the watchers of a run, and draws its pictures. Nothing that fails here ends the run."""

    def __init__(
        self, folder: Path, *, names: str, draw: bool = True, silent: bool = False
    ) -> None:
        """Watchers `names` (see `named_watchers`, UsageError) and the event log of `folder`.

        None at all if `silent`: of several processes one tells.
        """
        self._folder = folder
        self._draw = draw and not silent
        self._watchers: list[Watcher] = [] if silent else [EventLog(), *named_watchers(names)]
        self._metrics: Mapping[str, Any] | None = None

    @contextmanager
    def running(self, settings: Mapping[str, Any], *, iteration: int) -> Iterator[None]:
        """Tell of the beginning, and of the end however it comes."""
        run = RunStart(folder=self._folder, settings=settings, iteration=iteration)
        self._tell("begin", run)
        try:
            yield
        finally:
            self._tell("end", self._metrics)

    def scalars(self, iteration: int, group: str, values: Mapping[str, Any]) -> None:
        """Numbers after so many batches, as `group/name`; what is no finite number is left out."""
        numbers = {
            f"{group}/{name}": float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        self._tell("scalars", iteration, numbers)

    def epoch(self, iteration: int, row: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """A row of results.csv: the `metrics` in it as `val/NAME`, the rest as `epoch/NAME`."""
        own = {name: value for name, value in row.items() if name not in metrics}
        self.scalars(iteration, "epoch", own)
        found = {name: row[name] for name in metrics if name in row}
        if found:
            self.scalars(iteration, "val", found)

    def batch(self, iteration: int, batch: Batch, names: Sequence[str]) -> None:
        """Draw the batch, if it is one of the run's first."""
        if self._draw and iteration < BATCHES_SHOWN:
            with self._harmless("a picture of a training batch"):
                sheet = pictures.batch_sheet(batch, names)
                self._picture(iteration, f"train_batch{iteration}", pictures.png(sheet))

    def validation(
        self,
        iteration: int,
        model: DetectorModel,
        metadata: WeightsMetadata,
        labelled: LabelledSet,
        *,
        device: str,
        fit: int | None = None,
    ) -> None:
        """Draw what `model` finds on some of `labelled` beside the truth, in place of the last."""
        if self._draw:
            with self._harmless("a picture of the validation"):
                sheet = pictures.validation_sheet(model, metadata, labelled, device=device, fit=fit)
                if sheet is not None:
                    self._picture(iteration, "val_predictions", pictures.png(sheet))

    def finish(
        self, iteration: int, rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]
    ) -> None:
        """Draw the curves of all epochs, and keep the metrics for the end."""
        self._metrics = metrics
        if self._draw:
            with self._harmless("the picture of the curves"):
                self._picture(iteration, "curves", pictures.curves(rows))

    def _picture(self, iteration: int, name: str, content: bytes) -> None:
        path = self._folder / f"{name}.png"
        write_bytes(path, content)
        self._tell("picture", iteration, name, path)

    def _tell(self, what: str, *values: Any) -> None:
        for watcher in list(self._watchers):
            try:
                getattr(watcher, what)(*values)
            except Exception as error:
                # Of any kind: they come from other people's packages and from the network.
                self._watchers.remove(watcher)
                name = type(watcher).__name__
                _log.warning("%s no longer watches this run: %s", name, error)

    @contextmanager
    def _harmless(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            _log.warning("%s could not be made: %s", what, error)
