"""Samples put together to batches, made ahead of time by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from rstinynet.data.augment import AugmentCounts
from rstinynet.data.dataset import Sample, TrainingSet
from rstinynet.errors import UsageError

AHEAD = 3
"""Batches in the making while one is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B training images and what is known about them."""

    images: Tensor
    """(B, 3, H, W) uint8 RGB."""
    boxes: list[Tensor]
    """B of (N, 4) float32 XYXY pixels."""
    labels: list[Tensor]
    """B of (N,) int64."""
    crowds: list[Tensor]
    """B of (M, 4) float32 XYXY pixels, regions to ignore."""
    known: Tensor
    """(B, C) bool, classes of which every object is labelled."""
    ids: list[int]
    """Image ids."""
    counts: AugmentCounts
    """Summed over the samples."""

    def __len__(self) -> int:
        return len(self.ids)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one size as a batch."""
    planes = np.stack([plane for sample in samples for plane in cv2.split(sample.image)])
    return Batch(
        images=torch.from_numpy(planes).view(len(samples), 3, *planes.shape[1:]),
        boxes=[torch.from_numpy(sample.boxes) for sample in samples],
        labels=[torch.from_numpy(sample.labels) for sample in samples],
        crowds=[torch.from_numpy(sample.crowds) for sample in samples],
        known=torch.from_numpy(np.stack([sample.known for sample in samples])),
        ids=[sample.id for sample in samples],
        counts=sum((sample.counts for sample in samples), AugmentCounts()),
    )


def batch_count(training_set: TrainingSet, batch_size: int) -> int:
    """Batches an epoch; the last may be smaller."""
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, not {batch_size}")
    return -(-len(training_set) // batch_size)


def batches(
    training_set: TrainingSet, epoch: int, batch_size: int, *, start: int = 0, workers: int = 0
) -> Iterator[Batch]:
    """The batches of one epoch from number `start` on, the same for any number of `workers`.

    Workers are threads: decoding and OpenCV release the interpreter's lock. While they run,
    OpenCV's own threads are switched off for the process. 0 makes each batch when it is asked for.
    """
    total = batch_count(training_set, batch_size)
    if not 0 <= start <= total:
        raise UsageError(f"start must lie in [0, {total}] (batches of the epoch), not {start}")
    if workers < 0:
        raise UsageError(f"workers must be at least 0, not {workers}")
    spans = [
        range(number * batch_size, min((number + 1) * batch_size, len(training_set)))
        for number in range(start, total)
    ]
    if workers == 0:
        return (collate([training_set.sample(epoch, i) for i in span]) for span in spans)
    return _ahead(training_set, epoch, spans, workers)


def _ahead(
    training_set: TrainingSet, epoch: int, spans: Sequence[range], workers: int
) -> Iterator[Batch]:
    cv2.setNumThreads(0)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="samples")
    waiting: deque[list[Future[Sample]]] = deque()
    try:
        for span in spans:
            waiting.append([pool.submit(training_set.sample, epoch, i) for i in span])
            if len(waiting) > AHEAD:
                yield collate([future.result() for future in waiting.popleft()])
        while waiting:
            yield collate([future.result() for future in waiting.popleft()])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
