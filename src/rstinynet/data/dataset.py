"""Training samples as a pure function of (seed, epoch, index)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import BoolArray, LabelledImage, LabelledSet
from rstinynet.data.augment import AugmentCounts, AugmentSettings, Piece, arrange
from rstinynet.data.cache import CACHE_BYTES, ImageCache, ImageSource
from rstinynet.data.colour import Colour, compressed, draw_colour, recoloured, stretched
from rstinynet.data.image import RgbArray
from rstinynet.data.paste import PasteBank
from rstinynet.detections import Float32Array, Int64Array
from rstinynet.errors import DataError, UsageError

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
    colour: Colour | None = None
    """A change of colour that is still to be made; None: made already."""


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
        cache: ImageSource | None = None,
        colour_later: bool = False,
    ) -> None:
        """Samples of `labelled`.

        `class_balance` is the threshold t of repeat-factor sampling (LVIS, arXiv:1908.03195,
        section 5): images of a class that is on a share f < t of all images are drawn
        sqrt(t / f) times as often. 0 draws every image once an epoch. Images are read through
        `cache`, which several sets may share; by default one in memory. `colour_later` leaves the
        change of colour to be made by the batch, as `Sample.colour` says.
        """
        if not labelled.images:
            raise DataError("the training set has no images; give a split that has some")
        if not 0 <= class_balance <= 1:
            raise UsageError(f"class_balance must lie in [0, 1], not {class_balance}")
        self.labelled = labelled
        self.settings = settings
        self.seed = seed
        self.class_balance = class_balance
        self.colour_later = colour_later
        self._cache = ImageCache(CACHE_BYTES) if cache is None else cache
        self._weights = repeat_factors(labelled, class_balance)
        self._group_of, self._groups = _groups(labelled, self._weights)
        self._order = lru_cache(maxsize=2)(self._draw_order)
        self._bank = (
            PasteBank(
                labelled,
                settings,
                groups=self._group_of,
                read=lambda row: self._piece(labelled.images[row]).image,
                seed=seed,
            )
            if settings.paste_prob
            else None
        )

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
            colour_later=self.colour_later,
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
        pieces = [self._piece(image) for image in images]
        piece, counts = arrange(pieces, self.settings, rng)
        if self._bank is not None and rng.random() < self.settings.paste_prob:
            piece, pasted = self._bank.paste(piece, self._group_of[first], self.settings, rng)
            counts += AugmentCounts(pasted=pasted)
        colour = draw_colour(self.settings, rng)
        later = None
        if self.colour_later:
            image = compressed(stretched(piece.image, colour.stretch), colour.jpeg)
            later = replace(colour, jpeg=0, stretch=None)
        else:
            image = recoloured(piece.image, colour)
        return Sample(
            id=images[0].id,
            image=image,
            boxes=piece.boxes[~piece.crowd],
            labels=piece.labels[~piece.crowd],
            crowds=piece.boxes[piece.crowd],
            known=images[0].known & images[0].exhaustive,
            counts=counts,
            colour=later,
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
