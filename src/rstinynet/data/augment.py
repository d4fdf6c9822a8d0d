"""Augmentation for overhead images: crops at native resolution, the square's symmetries, mosaic.

An overhead image has a ground sampling distance, so it is not shrunk to the training size: a
window of it is cut at a zoom near 1. Mosaic is after YOLOv4 (arXiv:2004.10934, section 3.3), but
each quadrant is cut to size instead of cut off, so no object is shrunk to make room.

What a cut leaves of an object is either kept as an object or becomes a region to ignore. It never
becomes silent background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from rstinynet.boxes import area
from rstinynet.data.annotations import BoolArray
from rstinynet.data.image import RgbArray
from rstinynet.detections import Float32Array, Int64Array
from rstinynet.errors import UsageError

PAD = 114
"""Grey level of pixels outside the image, as inference pads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSettings:
    """What is done to a training image. Every `*_prob` is a probability in [0, 1]."""

    imgsz: int = 640
    """Side of the square sample, pixels; a multiple of 32."""
    mosaic_prob: float = 1.0
    """Four images in one sample instead of one."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Lowest and highest zoom about native resolution, drawn log-uniformly."""
    focus_prob: float = 0.5
    """The window is placed on a random object (of a random class) instead of anywhere."""
    symmetries: bool = True
    """One of the eight symmetries of the square: flips and quarter turns."""
    hsv: tuple[float, float, float] = (0.015, 0.7, 0.4)
    """Largest relative change of hue, saturation and value."""
    grey_prob: float = 0.1
    """The look of a panchromatic sensor: one band with its own contrast and gamma."""
    contrast_prob: float = 0.2
    """Another contrast, brightness and gamma."""
    blur_prob: float = 0.05
    """Gaussian blur, sigma 0.3 to 1.2 pixels."""
    noise_prob: float = 0.05
    """Gaussian noise, the same in all bands, sigma 2 to 10 grey levels."""
    min_box_px: float = 2.0
    """A box whose shorter side is less, in pixels of the sample, becomes a region to ignore."""
    min_visibility: float = 0.25
    """A box of which less than this share of its area is in the window likewise."""

    def __post_init__(self) -> None:
        if self.imgsz < 32 or self.imgsz % 32:
            raise UsageError(f"imgsz must be a multiple of 32, at least 32, not {self.imgsz}")
        for name in ("mosaic", "focus", "grey", "contrast", "blur", "noise"):
            value = getattr(self, f"{name}_prob")
            if not 0 <= value <= 1:
                raise UsageError(f"{name}_prob must lie in [0, 1], not {value}")
        low, high = self.scale
        if not 0.05 <= low <= high <= 20:
            raise UsageError(
                f"scale must be (low, high) with 0.05 <= low <= high <= 20: {self.scale}"
            )
        if not all(0 <= gain <= 1 for gain in self.hsv) or len(self.hsv) != 3:
            raise UsageError(f"hsv must be three numbers in [0, 1], not {self.hsv}")
        if self.min_box_px < 0 or not 0 <= self.min_visibility <= 1:
            raise UsageError(
                "min_box_px must be at least 0 and min_visibility lie in [0, 1], not "
                f"{self.min_box_px} and {self.min_visibility}"
            )


@dataclass(frozen=True, slots=True)
class AugmentCounts:
    """What became of the objects that a sample's windows touch."""

    kept: int = 0
    cut: int = 0
    """Less than `min_visibility` was left: now a region to ignore."""
    small: int = 0
    """A side fell below `min_box_px`: now a region to ignore."""

    def __add__(self, other: AugmentCounts) -> AugmentCounts:
        return AugmentCounts(self.kept + other.kept, self.cut + other.cut, self.small + other.small)


@dataclass(frozen=True, slots=True)
class Piece:
    """Pixels with the objects in them."""

    image: RgbArray
    """(H, W, 3) uint8 RGB."""
    boxes: Float32Array
    """(N, 4) XYXY pixels of `image`, objects and crowds alike."""
    labels: Int64Array
    """(N,)"""
    crowd: BoolArray
    """(N,) true for regions to ignore."""


def augment(
    pieces: Sequence[Piece], settings: AugmentSettings, rng: np.random.Generator
) -> tuple[Piece, AugmentCounts]:
    """One square sample of side `imgsz` from one piece, or from four as a mosaic."""
    side = settings.imgsz
    if len(pieces) == 1:
        sample, counts = cut(pieces[0], (side, side), settings, rng)
    else:
        sample, counts = mosaic(pieces, settings, rng)
    return (
        Piece(recolour(sample.image, settings, rng), sample.boxes, sample.labels, sample.crowd),
        counts,
    )


def mosaic(
    pieces: Sequence[Piece], settings: AugmentSettings, rng: np.random.Generator
) -> tuple[Piece, AugmentCounts]:
    """Four windows around a random centre that lies in the middle half of the sample."""
    side = settings.imgsz
    middle_x, middle_y = (int(value) for value in rng.integers(side // 4, side - side // 4, 2))
    canvas = np.empty((side, side, 3), np.uint8)
    parts: list[Piece] = []
    counts = AugmentCounts()
    spans = [
        (x, y, right - x, bottom - y)
        for y, bottom in ((0, middle_y), (middle_y, side))
        for x, right in ((0, middle_x), (middle_x, side))
    ]
    for piece, (x, y, width, height) in zip(pieces, spans, strict=True):
        part, counted = cut(piece, (height, width), settings, rng)
        canvas[y : y + height, x : x + width] = part.image
        offset = np.array([x, y, x, y], np.float32)
        parts.append(Piece(part.image, part.boxes + offset, part.labels, part.crowd))
        counts += counted
    return (
        Piece(
            canvas,
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.crowd for part in parts]),
        ),
        counts,
    )


def cut(
    piece: Piece, size: tuple[int, int], settings: AugmentSettings, rng: np.random.Generator
) -> tuple[Piece, AugmentCounts]:
    """A random window of `piece`, zoomed and turned, as a piece of `size` (height, width).

    Only the window is resized, never the whole image. Where the window is larger than the image,
    the image lies at a random place in it and the rest is `PAD`.
    """
    turn = int(rng.integers(8)) if settings.symmetries else 0
    height, width = size[::-1] if turn & 4 else size
    low, high = settings.scale
    zoom = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    window = max(1, round(height / zoom)), max(1, round(width / zoom))
    top, left = _place(piece, window, settings, rng)
    image, shift, gain = _resized(piece.image, (top, left), window, (height, width))
    boxes = (piece.boxes + np.tile(shift, 2)) * np.tile(gain, 2)
    shown, crowd, counts, touched = _visible(boxes, piece.crowd, (height, width), settings)
    image, shown = turned(image, shown, turn)
    return Piece(image, shown, piece.labels[touched], crowd), counts


def turned(image: RgbArray, boxes: Float32Array, turn: int) -> tuple[RgbArray, Float32Array]:
    """One of the square's eight symmetries: bit 1 flips x, bit 2 flips y, bit 4 transposes last."""
    height, width = image.shape[:2]
    if turn & 1:
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    if turn & 2:
        boxes = np.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], 1)
    if turn & 3:
        image = np.asarray(cv2.flip(image, {1: 1, 2: 0, 3: -1}[turn & 3]), np.uint8)
    if turn & 4:
        image = np.asarray(cv2.transpose(image), np.uint8)
        boxes = boxes[:, [1, 0, 3, 2]]
    return image, boxes


def recolour(image: RgbArray, settings: AugmentSettings, rng: np.random.Generator) -> RgbArray:
    """The same scene under another light and sensor: colour or grey, contrast, blur, noise."""
    if rng.random() < settings.grey_prob:
        weights = rng.dirichlet((1.0, 1.0, 1.0)).astype(np.float32)
        grey = cv2.transform(image, weights[None])
        image = np.asarray(cv2.merge([cv2.LUT(grey, _tone_curve(rng))] * 3), np.uint8)
    else:
        image = _hsv(image, settings.hsv, rng)
        if rng.random() < settings.contrast_prob:
            image = np.asarray(cv2.LUT(image, _tone_curve(rng)), np.uint8)
    if rng.random() < settings.blur_prob:
        sigma = float(rng.uniform(0.3, 1.2))
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    if rng.random() < settings.noise_prob:
        noise = rng.standard_normal(image.shape[:2], np.float32) * float(rng.uniform(2, 10))
        image = np.asarray(cv2.add(image, cv2.merge([noise] * 3), dtype=cv2.CV_8U), np.uint8)
    return image


def _place(
    piece: Piece, window: tuple[int, int], settings: AugmentSettings, rng: np.random.Generator
) -> tuple[int, int]:
    """The window's top and left: inside the image, or around it where the image is smaller."""
    spare = np.array(piece.image.shape[:2]) - window
    low, high = np.minimum(spare, 0), np.maximum(spare, 0)
    objects = np.flatnonzero(~piece.crowd)
    if objects.size and rng.random() < settings.focus_prob:
        wanted = rng.choice(np.unique(piece.labels[objects]))
        box = piece.boxes[rng.choice(objects[piece.labels[objects] == wanted])]
        centre = np.array([box[1] + box[3], box[0] + box[2]]) / 2
        corner = np.rint(centre - rng.uniform(0.1, 0.9, 2) * window).astype(int)
        place = np.clip(corner, low, high)
    else:
        place = rng.integers(low, high + 1)
    return int(place[0]), int(place[1])


def _resized(
    image: RgbArray, corner: tuple[int, int], window: tuple[int, int], size: tuple[int, int]
) -> tuple[RgbArray, Float32Array, Float32Array]:
    """The window resized to `size`, with the exact map (x, y) -> (x + shift) * gain of its pixels.

    Source and target rectangles are whole pixels, so the map is exact for boxes too.
    """
    source_y, target_y = _overlap(corner[0], window[0], image.shape[0], size[0])
    source_x, target_x = _overlap(corner[1], window[1], image.shape[1], size[1])
    inner = image[source_y, source_x]
    width, height = target_x.stop - target_x.start, target_y.stop - target_y.start
    gain = np.array([width / inner.shape[1], height / inner.shape[0]], np.float32)
    if inner.shape[:2] != (height, width):
        # Averaging avoids the aliasing that makes tiny objects flicker when they shrink.
        method = cv2.INTER_AREA if gain[0] < 1 else cv2.INTER_LINEAR
        inner = np.asarray(cv2.resize(inner, (width, height), interpolation=method), np.uint8)
    if (height, width) == size:
        result = np.ascontiguousarray(inner)
    else:
        result = np.full((*size, 3), PAD, np.uint8)
        result[target_y, target_x] = inner
    start = np.array([target_x.start, target_y.start], np.float32)
    shift = start / gain - np.array([source_x.start, source_y.start], np.float32)
    return result, shift.astype(np.float32), gain


def _overlap(start: int, window: int, available: int, size: int) -> tuple[slice, slice]:
    """Along one axis: the part of the image in the window, and where it comes to lie in `size`."""
    first, last = max(start, 0), min(start + window, available)
    low = min(round((first - start) * size / window), size - 1)
    high = max(round((last - start) * size / window), low + 1)
    return slice(first, last), slice(low, high)


def _visible(
    boxes: Float32Array, crowd: BoolArray, size: tuple[int, int], settings: AugmentSettings
) -> tuple[Float32Array, BoolArray, AugmentCounts, BoolArray]:
    """Boxes cut to the window, which are to be ignored, the counts, and (N,) which are in it."""
    limit = np.array([size[1], size[0], size[1], size[0]], np.float32)
    shown = np.asarray(np.clip(boxes, 0, limit), np.float32)
    sides = shown[:, 2:] - shown[:, :2]
    touched = (sides > 0).all(axis=1)
    shown, sides = shown[touched], sides[touched]
    was_crowd = crowd[touched]
    hidden = area(shown) < settings.min_visibility * area(boxes[touched])
    small = sides.min(axis=1, initial=np.inf) < settings.min_box_px
    ignored = np.asarray(was_crowd | hidden | small, np.bool_)
    counts = AugmentCounts(
        kept=int((~ignored).sum()),
        cut=int((hidden & ~was_crowd).sum()),
        small=int((small & ~hidden & ~was_crowd).sum()),
    )
    return shown, ignored, counts, np.asarray(touched, np.bool_)


def _hsv(image: RgbArray, gains: tuple[float, float, float], rng: np.random.Generator) -> RgbArray:
    hue, saturation, value = 1 + rng.uniform(-1, 1, 3) * gains
    if not any(gains):
        return image
    levels = np.arange(256, dtype=np.float64)
    table = np.stack(
        [
            (levels * hue) % 180,
            np.minimum(levels * saturation, 255),
            np.minimum(levels * value, 255),
        ],
        axis=1,
    ).astype(np.uint8)
    changed = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table[None])
    return np.asarray(cv2.cvtColor(changed, cv2.COLOR_HSV2RGB), np.uint8)


def _tone_curve(rng: np.random.Generator) -> RgbArray:
    """(256,) table of a random gamma (0.6 to 1.7), contrast and brightness."""
    gamma = float(np.exp(rng.uniform(np.log(0.6), np.log(1.7))))
    gain = float(rng.uniform(0.6, 1.5))
    offset = float(rng.uniform(-30, 30))
    curve = 255 * np.linspace(0, 1, 256) ** gamma
    return np.asarray(np.clip((curve - 128) * gain + 128 + offset, 0, 255), np.uint8)
