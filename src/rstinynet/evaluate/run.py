"""Running a detector over the images of a labelled set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.data.image import read_rgb
from rstinynet.detections import Detections
from rstinynet.errors import DataError

Image = npt.NDArray[np.uint8]
Detect = Callable[[Sequence[Image]], list[Detections]]
"""Finds the objects of RGB images (H, W, 3) of one size."""
LEAST_CANDIDATES = 3000


def detector_cap(max_det: int) -> int:
    """Most detections of an image, all classes, to ask for where `max_det` of each class count.

    Twice as many, so that a frequent class on a crowded image does not crowd the others out.
    """
    return max(LEAST_CANDIDATES, 2 * max_det)


class Progress(Protocol):
    """Told after each batch how many images of it are done."""

    def __call__(self, images: int) -> None: ...


def find_objects(
    detect: Detect, labelled: LabelledSet, *, batch: int = 1, progress: Progress | None = None
) -> dict[int, Detections]:
    """What `detect` finds on each image of `labelled`, by image id; labels are `detect`'s own.

    Up to `batch` neighbouring images of one size go together. Raises DataError for an image that
    cannot be read or is not as large as its annotations say.
    """
    found: dict[int, Detections] = {}
    for group in _groups(labelled.images, batch):
        results = detect([_read(image) for image in group])
        found.update(zip((image.id for image in group), results, strict=True))
        if progress is not None:
            progress(len(group))
    return found


def _groups(images: Sequence[LabelledImage], batch: int) -> Iterator[list[LabelledImage]]:
    # Only the sizes are sorted, so at most one short batch comes with each size.
    ordered = sorted(images, key=lambda image: (image.height, image.width))
    group: list[LabelledImage] = []
    for image in ordered:
        if group and (
            len(group) == batch or (image.height, image.width) != (group[0].height, group[0].width)
        ):
            yield group
            group = []
        group.append(image)
    if group:
        yield group


def _read(image: LabelledImage) -> Image:
    pixels = read_rgb(image.path)
    height, width = pixels.shape[:2]
    if (height, width) != (image.height, image.width):
        raise DataError(
            f"an image must have the size of its annotations; {image.path} is {width} x {height} "
            f"and annotated as {image.width} x {image.height}: correct the annotation file"
        )
    return pixels
