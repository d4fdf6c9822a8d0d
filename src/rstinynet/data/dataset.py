"""Training samples as a pure function of (seed, epoch, index)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import BoolArray, LabelledImage, LabelledSet
from rstinynet.data.augment import AugmentCounts, AugmentSettings, Piece, augment
from rstinynet.data.image import RgbArray, read_rgb
from rstinynet.detections import Float32Array, Int64Array
from rstinynet.errors import DataError, UsageError

CACHE_BYTES = 4 << 30
_ORDER_STREAM = 0x6F726465


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One augmented training image."""

    id: int
    """Id of the image it was made from; of a mosaic, of the first."""
    image: RgbArray
    """(imgsz, imgsz, 3) uint8 RGB."""
    boxes: Float32Array
    """(N, 4) XYXY pixels."""
    labels: Int64Array
    """(N,)"""
    crowds: Float32Array
    """(M, 4) XYXY pixels, regions to ignore, of any class."""
    known: BoolArray
    """(C,) classes of which every object here is labelled, so that the rest is background."""
    counts: AugmentCounts


class ImageCache:
    """Decoded images, kept until a bound in bytes is reached; safe to share between threads.

    Nothing is thrown out: every epoch visits every image, so replacing one would only lose another.
    """

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes
        self._kept: dict[Path, RgbArray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, path: Path) -> RgbArray:
        """The image at `path`, read-only (H, W, 3) uint8 RGB; raises DataError as `read_rgb`."""
        image = self._kept.get(path)
        if image is not None:
            return image
        image = read_rgb(path)
        image.flags.writeable = False
        with self._lock:
            if path not in self._kept and image.nbytes <= self._free:
                self._kept[path] = image
                self._free -= image.nbytes
        return image


class TrainingSet:
    """A labelled set seen through augmentation.

    `sample(epoch, index)` depends on nothing but (seed, epoch, index), the settings and the data,
    so any worker may make any sample and an interrupted epoch can be taken up anywhere.
    """

    def __init__(
        self,
        labelled: LabelledSet,
        settings: AugmentSettings,
        seed: int = 0,
        *,
        class_balance: float = 0.0,
        cache_bytes: int = CACHE_BYTES,
        cache: ImageCache | None = None,
    ) -> None:
        """Samples of `labelled`.

        `class_balance` is the threshold t of repeat-factor sampling (LVIS, arXiv:1908.03195,
        section 5): images of a class that is on a share f < t of all images are drawn
        sqrt(t / f) times as often. 0 draws every image once an epoch. Decoded images are kept in
        memory up to `cache_bytes`, or in `cache`, which several sets may share.
        """
        if not labelled.images:
            raise DataError("the training set has no images; give a split that has some")
        if not 0 <= class_balance <= 1:
            raise UsageError(f"class_balance must lie in [0, 1], not {class_balance}")
        self.labelled = labelled
        self.settings = settings
        self.seed = seed
        self.class_balance = class_balance
        self._cache = ImageCache(cache_bytes) if cache is None else cache
        self._weights = repeat_factors(labelled, class_balance)
        self._group_of, self._groups = _groups(labelled, self._weights)
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def __len__(self) -> int:
        return len(self.labelled)

    @property
    def num_classes(self) -> int:
        """Number of classes of the set."""
        return len(self.labelled.categories)

    def with_settings(self, settings: AugmentSettings) -> TrainingSet:
        """The same images in the same order under other settings; the cache is shared."""
        return TrainingSet(
            self.labelled,
            settings,
            self.seed,
            class_balance=self.class_balance,
            cache=self._cache,
        )

    def order(self, epoch: int) -> Int64Array:
        """(len,) the image of each index of this epoch."""
        return self._order(epoch)

    def sample(self, epoch: int, index: int) -> Sample:
        """The sample `index` (0 to len - 1) of `epoch`."""
        rng = _generator(self.seed, epoch, index)
        first = int(self.order(epoch)[index])
        chosen = [first]
        if rng.random() < self.settings.mosaic_prob:
            chosen += self._partners(first, rng)
        images = [self.labelled.images[i] for i in chosen]
        piece, counts = augment([self._piece(image) for image in images], self.settings, rng)
        return Sample(
            id=images[0].id,
            image=piece.image,
            boxes=piece.boxes[~piece.crowd],
            labels=piece.labels[~piece.crowd],
            crowds=piece.boxes[piece.crowd],
            known=images[0].known & images[0].exhaustive,
            counts=counts,
        )

    def _partners(self, first: int, rng: np.random.Generator) -> list[int]:
        """Three images that know the same classes, so the mosaic's known classes are exact."""
        members, upto = self._groups[self._group_of[first]]
        drawn = np.searchsorted(upto, rng.random(3) * upto[-1], side="right")
        return [int(members[i]) for i in np.minimum(drawn, len(members) - 1)]

    def _piece(self, labelled: LabelledImage) -> Piece:
        image = self._cache.read(labelled.path)
        if image.shape[:2] != (labelled.height, labelled.width):
            raise DataError(
                f"{labelled.path} is {image.shape[1]} x {image.shape[0]} pixels, its annotations "
                f"say {labelled.width} x {labelled.height}; correct 'width' and 'height' of image "
                f"{labelled.id}, or use the image it was annotated on"
            )
        return Piece(image, labelled.boxes, labelled.labels, labelled.crowd)

    def _draw_order(self, epoch: int) -> Int64Array:
        """Systematic sampling: image i comes floor or ceil of its expected number of times."""
        rng = _generator(self.seed, epoch, _ORDER_STREAM)
        count = len(self)
        shuffled = rng.permutation(count)
        upto = np.cumsum(self._weights[shuffled])
        marks = (rng.random() + np.arange(count)) / count * upto[-1]
        drawn = shuffled[np.minimum(np.searchsorted(upto, marks, side="right"), count - 1)]
        order = np.asarray(rng.permutation(drawn), np.int64)
        order.flags.writeable = False
        return order


def repeat_factors(labelled: LabelledSet, threshold: float) -> npt.NDArray[np.float64]:
    """(len,) how much more often each image is drawn: the largest sqrt(t / f) of its classes."""
    there = np.zeros((len(labelled), len(labelled.categories)), np.bool_)
    for row, image in enumerate(labelled.images):
        there[row, image.labels[~image.crowd]] = True
    share = np.maximum(there.mean(axis=0), 1 / max(len(labelled), 1))
    factor = np.maximum(1.0, np.sqrt(threshold / share))
    return np.asarray(np.where(there, factor, 1.0).max(axis=1, initial=1.0), np.float64)


def _groups(
    labelled: LabelledSet, weights: npt.NDArray[np.float64]
) -> tuple[list[int], list[tuple[Int64Array, npt.NDArray[np.float64]]]]:
    """The group of each image, and of each group its images and their cumulative weights."""
    number: dict[bytes, int] = {}
    group_of = [
        number.setdefault((image.known & image.exhaustive).tobytes(), len(number))
        for image in labelled.images
    ]
    rows = np.asarray(group_of)
    groups = []
    for group in range(len(number)):
        members = np.flatnonzero(rows == group).astype(np.int64)
        groups.append((members, np.cumsum(weights[members])))
    return group_of, groups


def _generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, index])))
