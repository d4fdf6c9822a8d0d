"""Copy-paste of tiny objects: more of them, on other ground, in every epoch.

After Kisantal et al., "Augmentation for small object detection" (arXiv:1902.07296), and Ghiasi et
al., "Simple Copy-Paste" (arXiv:2012.07177), with boxes instead of masks: an object comes with a
rim of its ground, which fades out. Nothing that is labelled is covered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.data.augment_settings import AugmentSettings
from rstinynet.data.geometry import View, draw_turn, look, turned
from rstinynet.data.image import RgbArray
from rstinynet.data.pieces import PAD, Piece, joined
from rstinynet.detections import Float32Array
from rstinynet.errors import UsageError

POOL = 512
"""Objects of a class that one group of images lends; bounds memory and decoding."""
TRIES = 10
"""Places tried for an object before it is given up."""

Window = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels."""


@dataclass(frozen=True, slots=True)
class _Donor:
    """An object that may be pasted."""

    row: int
    """Of its image in the set."""
    window: Window
    """Left, top, right, bottom of what is taken, the rim included."""
    box: Float32Array
    """(4,) in pixels of the window."""
    longest: int
    """Longer side of its image, pixels."""


_Pool = tuple[int, list[_Donor]]
"""A class and its objects."""


class PasteBank:
    """The objects that images lend each other, their pixels kept once they were read.

    `groups` gives each image's group: images of which the same classes are wholly labelled. An
    object stays in its group, so its rim brings no unlabelled object of a class that counts as
    known where it arrives; and it is of a class known there. Classes named by `paste_across` may
    also go where they are unknown, which has more of their objects on other kinds of ground; they
    never go where they are known and no image of the group has them. Which objects are lent
    depends on the seed only. UsageError if `paste_across` names a class that the set has not.
    """

    def __init__(
        self,
        labelled: LabelledSet,
        settings: AugmentSettings,
        *,
        groups: Sequence[int],
        read: Callable[[int], RgbArray],
        seed: int,
    ) -> None:
        self._read = read
        self._kept: dict[tuple[int, Window], RgbArray] = {}
        self._lock = threading.Lock()
        found: dict[int, dict[int, list[_Donor]]] = {}
        for row, (image, group) in enumerate(zip(labelled.images, groups, strict=True)):
            of_group = found.setdefault(group, {})
            for place, window in _lent(image, settings):
                box = image.boxes[place] - np.array(window[:2] * 2, np.float32)
                donor = _Donor(row, window, box, max(image.width, image.height))
                of_group.setdefault(int(image.labels[place]), []).append(donor)
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x70617374])))
        self._pools: dict[int, list[_Pool]] = {}
        for group, of_group in sorted(found.items()):
            self._pools[group] = [
                (label, [donors[i] for i in sorted(rng.permutation(len(donors))[:POOL])])
                for label, donors in sorted(of_group.items())
            ]
        if settings.paste_across:
            chosen = _chosen(settings.paste_across, labelled.names)
            self._pools = _across(self._pools, _known_of(labelled, groups), chosen)

    def paste(
        self, sample: Piece, group: int, settings: AugmentSettings, rng: np.random.Generator
    ) -> tuple[Piece, int]:
        """`sample` with up to `paste_max` objects of images of `group` more, and how many."""
        pools = self._pools.get(group)
        if not pools:
            return sample, 0
        image = sample.image.copy()
        parts = [replace(sample, image=image)]
        for _ in range(int(rng.integers(1, settings.paste_max + 1))):
            label, donors = pools[int(rng.integers(len(pools)))]
            part = self._drawn(donors[int(rng.integers(len(donors)))], label, settings, rng)
            taken = np.concatenate([part_.boxes for part_ in parts])
            place = None if part is None else _free_place(image, taken, part.image.shape[:2], rng)
            if part is None or place is None:
                continue
            _blend(image, part, place)
            parts.append(part.moved(*place))
        return joined(image, parts), len(parts) - 1

    def _drawn(
        self, donor: _Donor, label: int, settings: AugmentSettings, rng: np.random.Generator
    ) -> Piece | None:
        """The object with its rim, zoomed and turned as a window is; None if it gets too small."""
        low, high = settings.scale
        zoom = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        pixels = self._pixels(donor)
        if settings.fit == "letterbox":
            zoom *= settings.imgsz / donor.longest
        turn = draw_turn(settings, rng)
        height, width = pixels.shape[:2]
        size = max(1, round(height * zoom)), max(1, round(width * zoom))
        if max(size) > settings.imgsz // 2:
            return None
        whole = Piece(pixels, donor.box[None], np.array([label], np.int64), np.zeros(1, np.bool_))
        part, counts = look(whole, View((0, 0), (height, width), size), settings)
        if not counts.kept:
            return None
        image, boxes = turned(part.image, part.boxes, turn)
        return Piece(image, boxes, part.labels, part.crowd)

    def _pixels(self, donor: _Donor) -> RgbArray:
        key = donor.row, donor.window
        pixels = self._kept.get(key)
        if pixels is None:
            left, top, right, bottom = donor.window
            pixels = self._read(donor.row)[top:bottom, left:right].copy()
            with self._lock:
                self._kept[key] = pixels
        return pixels


def _chosen(asked: Sequence[str], names: Sequence[str]) -> set[int]:
    """Indices of the classes that `paste_across` names."""
    if tuple(asked) == ("all",):
        return set(range(len(names)))
    for name in asked:
        if name not in names:
            raise UsageError(
                f"paste_across names the class '{name}'; "
                f"the training set's classes are {', '.join(names)}"
            )
    return {names.index(name) for name in asked}


def _known_of(labelled: LabelledSet, groups: Sequence[int]) -> dict[int, npt.NDArray[np.bool_]]:
    """(C,) for each group: the classes that its images know wholly."""
    return {
        group: image.known & image.exhaustive
        for image, group in zip(labelled.images, groups, strict=True)
    }


def _across(
    pools: dict[int, list[_Pool]], known: dict[int, npt.NDArray[np.bool_]], chosen: set[int]
) -> dict[int, list[_Pool]]:
    """Each group's own pools, and of chosen classes that it does not know all groups' objects."""
    every: dict[int, list[_Donor]] = {}
    for _, of_group in sorted(pools.items()):
        for label, donors in of_group:
            if label in chosen:
                every.setdefault(label, []).extend(donors)
    return {
        group: pools.get(group, [])
        + [(label, donors) for label, donors in sorted(every.items()) if not there[label]]
        for group, there in known.items()
    }


def _lent(image: LabelledImage, settings: AugmentSettings) -> Iterator[tuple[int, Window]]:
    """Of an image's objects those that may be pasted, with the window that is taken of each.

    They are small, of a class that is wholly labelled, and with their rim inside the image and
    free of everything else that is labelled.
    """
    sides = image.boxes[:, 2:] - image.boxes[:, :2]
    sure = ~image.crowd & (image.known & image.exhaustive)[image.labels]
    fits = (sides.max(axis=1) <= settings.paste_px) & (sides.min(axis=1) > 0)
    chosen = np.flatnonzero(sure & fits)
    boxes = image.boxes[chosen]
    rim = 2 + 0.25 * sides[chosen].max(axis=1, keepdims=True, initial=0)
    low, high = np.floor(boxes[:, :2] - rim), np.ceil(boxes[:, 2:] + rim)
    inside = (low >= 0).all(axis=1) & (high <= (image.width, image.height)).all(axis=1)
    for place, corner, end in zip(chosen[inside], low[inside], high[inside], strict=True):
        meets = (image.boxes[:, :2] < end).all(axis=1) & (image.boxes[:, 2:] > corner).all(axis=1)
        if meets.sum() == 1:
            left, top, right, bottom = (int(value) for value in (*corner, *end))
            yield int(place), (left, top, right, bottom)


def _free_place(
    image: RgbArray, boxes: Float32Array, size: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int] | None:
    """A random left and top for `size` (height, width) on image content, clear of all boxes."""
    room = np.array(image.shape[1::-1]) - size[::-1]
    for _ in range(TRIES):
        corner = rng.integers(0, room + 1)
        end = corner + size[::-1]
        if ((boxes[:, :2] < end).all(axis=1) & (boxes[:, 2:] > corner).all(axis=1)).any():
            continue
        (left, top), (right, bottom) = corner, end
        if not (image[top:bottom, left:right] == PAD).all(axis=2).any():
            return int(left), int(top)
    return None


def _blend(image: RgbArray, part: Piece, place: tuple[int, int]) -> None:
    """Lay `part` into `image` at `place` (left, top): whole in its box, fading towards its rim."""
    height, width = part.image.shape[:2]
    left, top, right, bottom = (float(value) for value in part.boxes[0])
    weight = np.outer(_ramp(height, top, bottom), _ramp(width, left, right))[..., None]
    there = image[place[1] : place[1] + height, place[0] : place[0] + width]
    there[:] = np.rint(weight * part.image + (1 - weight) * there).astype(np.uint8)


def _ramp(size: int, first: float, last: float) -> npt.NDArray[np.float64]:
    """(size,) 1 on pixels of [first, last], falling to 0 at the ends."""
    middles = np.arange(size) + 0.5
    before = middles / max(first, 0.5)
    after = (size - middles) / max(size - last, 0.5)
    inner = (np.arange(size) + 1 > first) & (np.arange(size) < last)
    return np.where(inner, 1.0, np.minimum(np.minimum(before, after), 1.0))
