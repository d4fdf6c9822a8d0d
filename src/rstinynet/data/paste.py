"""Copy-paste of tiny objects: more of them, on other ground, in every epoch.

After Kisantal et al., "Augmentation for small object detection" (arXiv:1902.07296): an object comes
with a rim of its ground, which fades out (`patch`). Nothing that is labelled is covered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.data.augment_settings import AugmentSettings
from rstinynet.data.geometry import View, draw_turn, look, turned
from rstinynet.data.image import PAD, RgbArray
from rstinynet.data.patch import Patch, Shadow
from rstinynet.data.pieces import Piece, joined
from rstinynet.detections import Float32Array
from rstinynet.errors import UsageError

POOL = 512
"""Objects of a class that one group of images lends; bounds memory and decoding."""
TRIES = 10
"""Places tried for an object before it is given up."""
SOLID = {PAD: 3, 0: 7}
"""Pixels a side of the least square of one grey level that is taken for padding, or for the black
of pictures that do not say where they have no data. Ground is seldom so dark for so far."""
ELONGATED = 1.5
"""Longer side over shorter one of boxes of vehicles and ships that lie along an axis."""
SHADOW_PX, SHADOW_DEPTH = (2.0, 7.0), (0.3, 0.8)
"""How far a vehicle's shadow reaches at a few decimetres a pixel, and how dark it is."""
TONE_CONTRAST = 25.0
"""Levels by which an object whose tone was changed differs from its ground and from black."""
DECOY_SIZE, DECOY_TONE = (0.3, 1.0), (0.4, 2.5)
"""Sides of a decoy over those of the object laid with it, and what its brightness is multiplied by:
a bright one a few pixels long is what a vent on a roof looks like."""
DECOY_RIM = 2
"""Pixels of a decoy that fade into its new ground."""

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

    @property
    def elongation(self) -> float:
        """The longer side of its box over the shorter one."""
        sides = self.box[2:] - self.box[:2]
        return float(sides.max() / sides.min())


_Pool = tuple[int, list[_Donor]]
"""A class and its objects."""


class PasteBank:
    """The objects that images lend each other, their pixels kept once they were read.

    `groups` gives each image's group: images of which the same classes are wholly labelled. An
    object stays in its group, so its rim brings no unlabelled object of a class that counts as
    known where it arrives; and it is of a class known there. Classes named by `paste_across` may
    also go where they are unknown, and from all groups to where they are known and some image has
    them, which has more of their objects on other kinds of ground; they never go where they are
    known and no image of the group has them, unless the group has some of `paste_onto`. Which
    objects are lent depends on the seed only. UsageError if a named class is not of the set.
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
        self._known = _known_of(labelled, groups)
        self._loose = set(range(len(labelled.names)))
        if settings.paste_across:
            self._loose = _chosen(settings, "paste_across", labelled.names)
            onto = _chosen(settings, "paste_onto", labelled.names)
            self._pools = _across(self._pools, self._known, self._loose, onto)
        if settings.paste_degrees:
            self._pools = _upright(self._pools, self._loose)

    def paste(
        self, sample: Piece, group: int, settings: AugmentSettings, rng: np.random.Generator
    ) -> tuple[Piece, int]:
        """`sample` with up to `paste_max` objects of images of `group` more, and how many."""
        pools = self._pools.get(group)
        if not pools:
            return sample, 0
        image = sample.image.copy()
        parts = [replace(sample, image=image)]
        shadow = _drawn_shadow(settings, rng)
        for _ in range(int(rng.integers(1, settings.paste_max + 1))):
            label, donors = pools[int(rng.integers(len(pools)))]
            drawn = self._drawn(donors[int(rng.integers(len(donors)))], label, settings, rng)
            if drawn is None:
                continue
            patch, sides = drawn
            loose = label in self._loose
            cast = shadow if loose else None
            tone = settings.paste_tone if loose else (1.0, 1.0)
            taken = np.concatenate([part.boxes for part in parts])
            laid = _laid(patch, image, taken, cast, tone, rng)
            if laid is None:
                continue
            parts.append(laid)
            # Where the class is not known, what is no object of it is not taught.
            if not (loose and settings.paste_decoy_prob and self._known[group][label]):
                continue
            if rng.random() < settings.paste_decoy_prob:
                taken = np.concatenate([taken, laid.boxes])
                decoy = _decoy(image, taken, sides, settings, rng)
                if decoy is not None:
                    _laid(decoy, image, taken, cast, DECOY_TONE, rng)
        return joined(image, parts), len(parts) - 1

    def _drawn(
        self, donor: _Donor, label: int, settings: AugmentSettings, rng: np.random.Generator
    ) -> tuple[Patch, Float32Array] | None:
        """The object with its rim, zoomed and turned, and its width and height (2,) unturned.

        None if it gets too small or too large.
        """
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
        loose = label in self._loose
        fade = settings.paste_fade_px if loose else None
        patch = Patch.of(Piece(image, boxes, part.labels, part.crowd), fade_px=fade)
        if settings.paste_degrees and loose:
            patch = patch.turned(float(rng.uniform(-1, 1)) * settings.paste_degrees)
        return patch, boxes[0, 2:] - boxes[0, :2]

    def _pixels(self, donor: _Donor) -> RgbArray:
        key = donor.row, donor.window
        pixels = self._kept.get(key)
        if pixels is None:
            left, top, right, bottom = donor.window
            pixels = self._read(donor.row)[top:bottom, left:right].copy()
            with self._lock:
                self._kept[key] = pixels
        return pixels


def _chosen(settings: AugmentSettings, setting: str, names: Sequence[str]) -> set[int]:
    """Indices of the classes that a setting names."""
    asked = getattr(settings, setting)
    if tuple(asked) == ("all",):
        return set(range(len(names)))
    for name in asked:
        if name not in names:
            raise UsageError(
                f"{setting} names the class '{name}'; "
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
    pools: dict[int, list[_Pool]],
    known: dict[int, npt.NDArray[np.bool_]],
    chosen: set[int],
    onto: set[int],
) -> dict[int, list[_Pool]]:
    """Each group's own pools, and of chosen classes all groups' objects.

    But none where a class is known and the group has none of it, nor of the classes `onto`.
    """
    every: dict[int, list[_Donor]] = {}
    for _, of_group in sorted(pools.items()):
        for label, donors in of_group:
            if label in chosen:
                every.setdefault(label, []).extend(donors)
    result = {}
    for group, there in known.items():
        own = {label for label, _ in pools.get(group, [])}
        kept = [(label, donors) for label, donors in pools.get(group, []) if label not in every]
        lent = [
            (label, donors)
            for label, donors in sorted(every.items())
            if label in own or own & onto or not there[label]
        ]
        result[group] = kept + lent
    return result


def _upright(pools: dict[int, list[_Pool]], chosen: set[int]) -> dict[int, list[_Pool]]:
    """Of chosen classes that are elongated, the objects that lie along their box.

    The box of one that stands aslant is mostly ground, which would be turned with it.
    """
    every: dict[int, list[_Donor]] = {}
    for of_group in pools.values():
        for label, donors in of_group:
            every.setdefault(label, []).extend(donors)
    long = {
        label
        for label in chosen & every.keys()
        if np.median([donor.elongation for donor in every[label]]) >= ELONGATED
    }
    upright = {
        group: [
            (label, [d for d in donors if label not in long or d.elongation >= ELONGATED])
            for label, donors in of_group
        ]
        for group, of_group in pools.items()
    }
    return {
        group: [(label, donors) for label, donors in of_group if donors]
        for group, of_group in upright.items()
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
    if (room < 0).any():
        return None
    for _ in range(TRIES):
        corner = rng.integers(0, room + 1)
        end = corner + size[::-1]
        if ((boxes[:, :2] < end).all(axis=1) & (boxes[:, 2:] > corner).all(axis=1)).any():
            continue
        if not any(_reaches(image, (*corner, *end), level, side) for level, side in SOLID.items()):
            return int(corner[0]), int(corner[1])
    return None


def _reaches(image: RgbArray, place: Window, level: int, side: int) -> bool:
    """Whether a place meets a square of `side` pixels that is all of one grey level, as single
    pixels of that level are ground."""
    left, top, right, bottom = place
    around = image[max(0, top - side + 1) : bottom + side - 1]
    alike = (around[:, max(0, left - side + 1) : right + side - 1] == level).all(axis=2)
    # Beyond the border is nothing, and no padding.
    square = np.ones((side, side), np.uint8)
    return bool(cv2.erode(alike.astype(np.uint8), square, borderValue=0).any())


def _laid(
    patch: Patch,
    image: RgbArray,
    boxes: Float32Array,
    cast: Shadow | None,
    tone: tuple[float, float],
    rng: np.random.Generator,
) -> Piece | None:
    """Lay a patch on `image` where no box is; where it came to lie, or None without such a place,
    or where the patch is grey and the place is not.

    It becomes darker or brighter by a factor out of `tone`, where it stays visible.
    """
    patch = patch.with_room(cast.reach if cast else 0)
    height, width = patch.weight.shape
    place = _free_place(image, boxes, (height, width), rng)
    if place is None:
        return None
    left, top = place
    ground = image[top : top + height, left : left + width]
    alike = patch.like(ground)
    if alike is None:
        return None
    patch, (low, high) = alike, tone
    if not low == high == 1:
        factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        patch = patch.toned(factor, ground, contrast=TONE_CONTRAST)
    patch.lay(ground, cast)
    return patch.piece.moved(*place)


def _decoy(
    image: RgbArray,
    boxes: Float32Array,
    sides: Float32Array,
    settings: AugmentSettings,
    rng: np.random.Generator,
) -> Patch | None:
    """A piece of the sample's own ground, at most as large as `sides`; None without a free place.

    After the distractors of Dwibedi et al., "Cut, Paste and Learn" (arXiv:1708.01642): laid as
    objects are, it shows that an edge that fades, a shadow and a tone of its own make no object.
    """
    width, height = (max(2, round(s * rng.uniform(*DECOY_SIZE))) for s in sides)
    width, height = width + 2 * DECOY_RIM, height + 2 * DECOY_RIM
    place = _free_place(image, boxes, (height, width), rng)
    if place is None:
        return None
    left, top = place
    inner = np.array([[DECOY_RIM, DECOY_RIM, width - DECOY_RIM, height - DECOY_RIM]], np.float32)
    pixels = image[top : top + height, left : left + width].copy()
    piece = Piece(pixels, inner, np.zeros(1, np.int64), np.zeros(1, np.bool_))
    patch = Patch.of(piece, fade_px=settings.paste_fade_px)
    if settings.paste_degrees:
        patch = patch.turned(float(rng.uniform(-1, 1)) * settings.paste_degrees)
    return patch


def _drawn_shadow(settings: AugmentSettings, rng: np.random.Generator) -> Shadow | None:
    """Which way the objects of a sample cast their shadows; None where they cast none."""
    if not settings.paste_shadow_prob or rng.random() >= settings.paste_shadow_prob:
        return None
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(*SHADOW_PX)
    x, y = round(length * np.cos(angle)), round(length * np.sin(angle))
    return Shadow(x, y, float(rng.uniform(*SHADOW_DEPTH)))
