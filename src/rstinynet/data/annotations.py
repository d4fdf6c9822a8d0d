"""Labelled images in memory, whatever file format they came from.

Partly labelled sets follow LVIS's convention: on an image only those classes are known that have
annotations there or stand in its `neg_category_ids`. An unknown class is neither background in
the loss nor a false positive in the evaluation. A set whose images carry no `neg_category_ids`
at all is fully labelled: every class is known everywhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rstinynet.detections import Float32Array, Int64Array

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Category:
    """A class of objects."""

    id: int
    """Id in the annotation file: positive, not necessarily contiguous."""
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """One image and what is known about it."""

    id: int
    path: Path
    """Absolute path of the image file."""
    width: int
    height: int
    boxes: Float32Array
    """(N, 4) XYXY pixels, clipped to the image."""
    labels: Int64Array
    """(N,) class index into the set's categories."""
    areas: npt.NDArray[np.float64]
    """(N,) the annotation's own `area`, by which the evaluation sorts sizes."""
    crowd: BoolArray
    """(N,) true for regions to ignore (`iscrowd`)."""
    known: BoolArray
    """(C,) classes whose presence or absence is labelled on this image."""
    exhaustive: BoolArray
    """(C,) known classes of which every object is labelled, not only some of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """Images with annotations over one list of classes."""

    images: tuple[LabelledImage, ...]
    categories: tuple[Category, ...]
    """Sorted by id; a label is an index into this."""
    fingerprint: str
    """SHA-256 of the annotation file, hex."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, by label."""
        return tuple(category.name for category in self.categories)

    def __len__(self) -> int:
        return len(self.images)


def fingerprint_of(content: bytes) -> str:
    """SHA-256 of an annotation file's bytes, hex."""
    return hashlib.sha256(content).hexdigest()
