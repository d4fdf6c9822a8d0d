"""The endless stream of training batches, prepared ahead in threads.

What a batch holds depends on (seed, iteration) only, so a run can start again at any batch.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import cv2

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.batch import Batch, collate
from rstinynet.data.cache import open_cache
from rstinynet.data.dataset import Sample, TrainingSet
from rstinynet.errors import DataError, UsageError
from rstinynet.train.ranks import ALONE, Ranks
from rstinynet.train.recipe import Recipe

COARSEST = 32
"""Stride of the coarsest map of every model's backbone."""
TRIES = 100
"""Samples that are tried in place of one that cannot be read."""
log = logging.getLogger(__name__)


class Batches:
    """Batches from a given iteration on; a context manager that owns its threads."""

    def __init__(
        self,
        labelled: LabelledSet,
        recipe: Recipe,
        *,
        device: str = "cpu",
        ranks: Ranks = ALONE,
    ) -> None:
        if not labelled.images:
            raise DataError("the training split has no images; training needs at least one")
        self.batch = min(recipe.batch, len(labelled))
        """Images of a batch, over all processes."""
        if self.batch < ranks.world:
            raise UsageError(
                f"every process needs an image of each batch: {ranks.world} processes cannot "
                f"share a batch of {self.batch}"
            )
        _require_two_values(recipe, self.batch if recipe.sync_norms else self.batch // ranks.world)
        self._share = ranks.share(self.batch)
        self._skips = recipe.bad_images == "skip"
        self._named: set[str] = set()
        self._lock = threading.Lock()
        self.per_epoch = len(labelled) // self.batch
        """Batches in an epoch; images left over wait for another epoch's order."""
        folder = None if recipe.cache_dir is None else Path(recipe.cache_dir)
        on_device = recipe.augment.on_device
        self._with_mosaic = TrainingSet(
            labelled,
            recipe.augment,
            recipe.seed,
            class_balance=recipe.class_balance,
            cache=open_cache(recipe.cache, gib=recipe.cache_gib, folder=folder),
            colour_later=on_device == "always" or (on_device == "auto" and device != "cpu"),
        )
        self._plain = self._with_mosaic.with_settings(replace(recipe.augment, mosaic_prob=0.0))
        self._threads = recipe.workers
        self._pool = ThreadPoolExecutor(recipe.workers, thread_name_prefix="batches")

    def make(self, iteration: int, *, mosaic: bool, whole: bool = False) -> Batch:
        """This process's share of the batch of this iteration, or the `whole` of it."""
        source = self._with_mosaic if mosaic else self._plain
        epoch, position = divmod(iteration, self.per_epoch)
        share = range(self.batch) if whole else self._share
        indices = [position * self.batch + index for index in share]
        samples, replaced = [], 0
        for index in indices:
            sample, stands_in = self._sample(source, epoch, index)
            samples.append(sample)
            replaced += stands_in
        return replace(collate(samples), replaced=replaced)

    def _sample(self, source: TrainingSet, epoch: int, index: int) -> tuple[Sample, bool]:
        """A sample, or if its images cannot be read and may be skipped, the next that can."""
        for step in range(min(len(source), TRIES)):
            try:
                return source.sample(epoch, (index + step) % len(source)), step > 0
            except DataError as error:
                if not self._skips:
                    raise
                self._name_once(str(error))
        raise DataError(
            "training samples one after the other cannot be read, for the reasons said above: is "
            "the folder of images in its place?"
        )

    def _name_once(self, fault: str) -> None:
        with self._lock:
            new = fault not in self._named
            self._named.add(fault)
        if new:
            log.warning("skipped: %s", fault)

    def stream(
        self, start: int, stop: int, *, mosaic: Callable[[int], bool]
    ) -> Iterator[tuple[int, Batch]]:
        """(iteration, batch) from `start` up to `stop`; `mosaic` is asked when one is begun."""
        waiting: deque[tuple[int, Future[Batch]]] = deque()
        following = start
        try:
            while waiting or following < stop:
                while following < stop and len(waiting) < self._threads + 1:
                    future = self._pool.submit(self.make, following, mosaic=mosaic(following))
                    waiting.append((following, future))
                    following += 1
                iteration, ready = waiting.popleft()
                yield iteration, ready.result()
        finally:
            for _, future in waiting:
                future.cancel()

    def __enter__(self) -> Batches:
        # Samples are made in parallel already; OpenCV's threads would only compete with torch's.
        self._cv2_threads = cv2.getNumThreads()
        cv2.setNumThreads(0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(self._cv2_threads)


def _require_two_values(recipe: Recipe, images: int) -> None:
    """Batch norm needs two values a channel, also where a model's coarsest map is one pixel."""
    if images == 1 and recipe.imgsz <= COARSEST:
        raise UsageError(
            f"a batch of 1 image of {recipe.imgsz} px has one value a channel at stride "
            f"{COARSEST}, of which batch norm can learn nothing; take --batch 2 or more (and as "
            f"many training images), or --imgsz {2 * COARSEST} or more"
        )
