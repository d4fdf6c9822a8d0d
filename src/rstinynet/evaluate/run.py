"""Running a detector over the images of a labelled set."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
READ_AHEAD = 2
"""Groups of images that are read while others are searched."""


def detector_cap(max_det: int) -> int:
    """Most detections of an image, all classes, to ask for where `max_det` of each class count.

    Twice as many, so that a frequent class on a crowded image does not crowd the others out.
    """
    return max(LEAST_CANDIDATES, 2 * max_det)


def fitting(detect: Callable[..., list[Detections]], *, side: int) -> Detect:
    """`detect`, which takes a `scale`, with the longer side of images resized to `side` pixels."""
    return lambda images: detect(images, scale=side / max(images[0].shape[:2]))


class Progress(Protocol):
    """Told after each batch how many images of it are done."""

    def __call__(self, images: int) -> None: ...


def find_objects(
    detect: Detect,
    labelled: LabelledSet,
    *,
    batch: int = 1,
    progress: Progress | None = None,
    share: tuple[int, int] = (0, 1),
) -> dict[int, Detections]:
    """What `detect` finds on each image of `labelled`, by image id; labels are `detect`'s own.

    Up to `batch` neighbouring images of one size go together; images are read ahead. With `share`
    (k, n) only every n-th such group is done, from the k-th on: the others are other processes'.
    Raises DataError for an image that
    cannot be read or is not as large as its annotations say.
    """
    found: dict[int, Detections] = {}
    first, every = share
    groups = list(_groups(labelled.images, batch))[first::every]
    with ThreadPoolExecutor(1, thread_name_prefix="images") as reader:
        ahead = deque(reader.submit(_read_all, group) for group in groups[:READ_AHEAD])
        for number, group in enumerate(groups):
            images = ahead.popleft().result()
            if number + READ_AHEAD < len(groups):
                ahead.append(reader.submit(_read_all, groups[number + READ_AHEAD]))
            found.update(zip((image.id for image in group), detect(images), strict=True))
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


def _read_all(group: Sequence[LabelledImage]) -> list[Image]:
    return [read_labelled(image) for image in group]


def read_labelled(image: LabelledImage) -> Image:
    """The pixels of a labelled image; DataError where they are not as many as its labels say."""
    pixels = read_rgb(image.path)
    height, width = pixels.shape[:2]
    if (height, width) != (image.height, image.width):
        raise DataError(
            f"an image must have the size of its annotations; {image.path} is {width} x {height} "
            f"and annotated as {image.width} x {image.height}: correct the annotation file"
        )
    return pixels
