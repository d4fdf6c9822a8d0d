"""Ground truth and detections of many images as flat columns, the form the matcher reads.

An image is its position among the set's images sorted by id: the order in which COCO's tools go
through them, by which equal scores are told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.detections import Detections
from rstinynet.errors import DataError
from rstinynet.evaluate.results import CocoDetections, StoredResults, StoredRows

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
OneFound = Detections | CocoDetections
Found = Mapping[int, OneFound] | StoredResults
"""Detections by image id, or those of a results file that waits on disk."""

CHUNK = 32_768
"""Detections that are matched at a time, which bounds the working memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Boxes of several images."""

    image: IntArray
    """(N,) position of the image."""
    label: IntArray
    """(N,) class index."""
    xywh: FloatArray
    """(N, 4) left, top, width, height in pixels."""

    def __len__(self) -> int:
        return len(self.image)

    def take(self, index: IntArray | BoolArray) -> Self:
        """Some of the rows, or all in another order."""
        return type(self)(**{each.name: getattr(self, each.name)[index] for each in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundColumns(Columns):
    """Detections, those of one image in the order in which they were given."""

    score: FloatArray
    """(N,)"""
    loose: BoolArray
    """(N,) of a class that is not exhaustively labelled on its image: not false if unmatched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthColumns(Columns):
    """Objects, in the order of the annotations."""

    area: FloatArray
    """(N,) the annotation's own area in square pixels."""
    crowd: BoolArray
    """(N,) regions to ignore: crowd, or difficult."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Neighbouring images with what they hold and what was found on them."""

    first: int
    """Position of the first image."""
    images: tuple[LabelledImage, ...]
    truth: TruthColumns
    found: FoundColumns
    """Without detections of classes that are unknown on their image."""
    dropped: IntArray
    """(M,) labels of the detections left out for that reason."""


def by_id(labelled: LabelledSet) -> tuple[LabelledImage, ...]:
    """The set's images in the order in which positions count."""
    return tuple(sorted(labelled.images, key=lambda image: image.id))


def chunks(labelled: LabelledSet, found: Found, *, size: int = CHUNK) -> Iterator[Chunk]:
    """All images in order, with about `size` detections at a time.

    Raises DataError for an image id or label that `labelled` lacks and for values that are not
    finite.
    """
    images = by_id(labelled)
    rows = found.parts() if isinstance(found, StoredResults) else _rows(labelled, images, found)
    for first, last, part in rows:
        bounds = np.searchsorted(part.image, np.arange(first, last + 1))
        start = first
        while start < last:
            end = int(np.searchsorted(bounds, bounds[start - first] + size, side="right")) - 1
            # Images without detections are many and cheap, but not free.
            end = min(max(first + end, start + 1), last, start + size)
            held = slice(bounds[start - first], bounds[end - first])
            yield _chunk(start, images[start:end], part.cut(held))
            start = end


def truth_of(images: Sequence[LabelledImage], *, first: int = 0) -> TruthColumns:
    """The objects of `images`, whose positions count from `first`."""
    counts = [len(image.boxes) for image in images]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(image.boxes for image in images)])
    xywh = boxes.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    return TruthColumns(
        image=np.repeat(np.arange(first, first + len(images)), counts),
        label=np.concatenate([np.zeros(0, np.int64), *(image.labels for image in images)]),
        xywh=xywh,
        area=np.concatenate([np.zeros(0), *(image.areas for image in images)]),
        crowd=np.concatenate([np.zeros(0, np.bool_), *(image.crowd for image in images)]),
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    image: IntArray
    label: IntArray
    xywh: FloatArray
    score: FloatArray

    def cut(self, held: slice) -> _Rows:
        return _Rows(self.image[held], self.label[held], self.xywh[held], self.score[held])


def _rows(
    labelled: LabelledSet, images: Sequence[LabelledImage], found: Mapping[int, OneFound]
) -> Iterator[tuple[int, int, _Rows]]:
    unknown = sorted(set(found) - {image.id for image in images})
    if unknown:
        raise DataError(
            f"detections must belong to images of the set; {len(unknown)} image ids do not, such "
            f"as {unknown[0]}: were they made on another split?"
        )
    begun, waiting, first = [], 0, 0
    for position, image in enumerate(images):
        detections = found.get(image.id)
        if detections is not None and len(detections):
            begun.append((position, detections))
            _check(image.id, detections, classes=len(labelled.categories))
            waiting += len(detections)
        if waiting >= CHUNK:
            yield first, position + 1, _joined(begun)
            begun, waiting, first = [], 0, position + 1
    if first < len(images):
        yield first, len(images), _joined(begun)


def _joined(parts: Sequence[tuple[int, OneFound]]) -> _Rows:
    if not parts:
        return _Rows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    return _Rows(
        np.repeat([position for position, _ in parts], [len(each) for _, each in parts]),
        np.concatenate([each.labels for _, each in parts]),
        np.concatenate([xywh_of(each) for _, each in parts]),
        np.concatenate([each.scores for _, each in parts]).astype(np.float64),
    )


def xywh_of(detections: OneFound) -> FloatArray:
    """(N, 4) left, top, width, height in double precision."""
    if isinstance(detections, CocoDetections):
        return detections.boxes_xywh
    boxes = detections.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _check(image_id: int, detections: OneFound, *, classes: int) -> None:
    low, high = int(detections.labels.min()), int(detections.labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"labels must lie in 0 to {classes - 1}; image {image_id} has {low} to {high}"
        )
    boxes = xywh_of(detections)
    if not (np.isfinite(boxes).all() and np.isfinite(detections.scores).all()):
        raise DataError(
            f"boxes and scores must be finite; detections of image {image_id} are not: was "
            "the model trained to NaN?"
        )


def _chunk(first: int, images: tuple[LabelledImage, ...], rows: _Rows | StoredRows) -> Chunk:
    known = np.stack([image.known for image in images])
    for row, image in zip(known, images, strict=True):
        row[image.labels] = True
    exhaustive = np.stack([image.exhaustive for image in images])
    at, label = rows.image - first, rows.label.astype(np.int64)
    keep = known[at, label]
    return Chunk(
        first=first,
        images=images,
        truth=truth_of(images, first=first),
        found=FoundColumns(
            image=rows.image[keep].astype(np.int64),
            label=label[keep],
            xywh=rows.xywh[keep],
            score=rows.score[keep],
            loose=~exhaustive[at, label][keep],
        ),
        dropped=label[~keep],
    )
