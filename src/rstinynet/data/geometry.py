"""From image to sample: windows, zoom, turns, rotation and shear, with the boxes following.

Boxes are in continuous pixels, where pixel i covers [i, i + 1); its centre is at i + 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import cv2
import numpy as np
import numpy.typing as npt

from rstinynet.data.augment_settings import AugmentSettings
from rstinynet.data.image import PAD, RgbArray
from rstinynet.data.pieces import AugmentCounts, Piece, surviving
from rstinynet.detections import Float32Array

FloatArray = npt.NDArray[np.float64]
ROUND = 1.25
"""Longer side over shorter one of the boxes of tanks and airplanes, at most."""
Shape = Literal["ellipse", "rounded", "corners"]
"""What of a box is turned, to find the box around it."""


@dataclass(frozen=True, slots=True)
class View:
    """Which part of an image is seen, and how large."""

    corner: tuple[int, int]
    """Top and left of the window in the image's pixels; may lie outside."""
    window: tuple[int, int]
    """Height and width of the window in the image's pixels."""
    size: tuple[int, int]
    """Height and width that it gets."""


@dataclass(frozen=True, slots=True)
class Warp:
    """x -> pivot + linear (x - pivot), in pixels of what is seen, (x, y)."""

    linear: FloatArray
    """(2, 2)"""
    pivot: FloatArray
    """(2,)"""

    def points(self, points: npt.NDArray[np.floating]) -> FloatArray:
        """(..., 2) points, warped."""
        return np.asarray((points - self.pivot) @ self.linear.T + self.pivot)

    def boxes(self, boxes: npt.NDArray[np.floating], shape: Shape) -> FloatArray:
        """(N, 4) upright boxes around what (N, 4) boxes become: their `corners`; the `ellipse`
        that fills them; or `rounded`.

        The ellipse's half sides are sqrt((L * L) @ half^2), L being `linear`: the reach of the
        warped unit circle along each axis. Rounded: an object about as broad as long, a tank or an
        airplane, is taken for that ellipse; an elongated one, such as a vehicle, is a rectangle
        with rounded corners, and its box comes up to halfway to that of the corners.
        """
        if shape == "corners":
            corners = self.points(_corners(boxes))
            return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        halves = (boxes[:, 2:] - boxes[:, :2]) / 2
        centres = self.points(boxes[:, :2] + halves)
        reach = np.sqrt(halves**2 @ (self.linear**2).T)
        inner = np.concatenate([centres - reach, centres + reach], axis=1)
        if shape == "ellipse":
            return inner
        longer, shorter = halves.max(axis=1), halves.min(axis=1)
        share = np.clip(longer / np.maximum(shorter, 1e-6) - ROUND, 0, 0.5)
        return np.asarray(inner + share[:, None] * (self.boxes(boxes, "corners") - inner))

    def moved(self, x: float, y: float) -> Warp:
        """The same warp where the origin lies at (x, y)."""
        return Warp(self.linear, self.pivot - (x, y))


def cut(
    piece: Piece, size: tuple[int, int], settings: AugmentSettings, rng: np.random.Generator
) -> tuple[Piece, AugmentCounts]:
    """A random window of `piece`, zoomed and turned, as a piece of `size` (height, width).

    Only the window is resized, never the whole image. Where the window is larger than the image,
    the image lies at a random place in it and the rest is `PAD`.
    """
    turn = draw_turn(settings, rng)
    height, width = size[::-1] if turn & 4 else size
    low, high = settings.scale
    zoom = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    window = max(1, round(height / zoom)), max(1, round(width / zoom))
    corner = _place(piece, window, settings, rng)
    warp = draw_warp(settings, rng, pivot=(width / 2, height / 2))
    seen, counts = look(piece, View(corner, window, (height, width)), settings, warp=warp)
    image, boxes = turned(seen.image, seen.boxes, turn)
    return Piece(image, boxes, seen.labels, seen.crowd), counts


def look(
    piece: Piece, view: View, settings: AugmentSettings, *, warp: Warp | None = None
) -> tuple[Piece, AugmentCounts]:
    """What is seen of `piece`, then warped; nothing but `PAD` where the view misses the image."""
    if warp is None:
        image, shift, gain = _resized(piece.image, view)
        boxes = (piece.boxes + np.tile(shift, 2)) * np.tile(gain, 2)
        return surviving(image, piece, boxes, settings)
    # The part that comes to lie in the view is shrunk first, by averaging, and then warped.
    inverse = Warp(np.asarray(np.linalg.inv(warp.linear), np.float64), warp.pivot)
    needed = inverse.points(_corners(np.array([[0, 0, *view.size[::-1]]])))[0]
    low = np.floor(needed.min(axis=0)).astype(int) - 1
    size = np.ceil(needed.max(axis=0)).astype(int) + 1 - low
    per_pixel = np.array(view.window) / view.size
    corner = np.rint(view.corner + low[::-1] * per_pixel).astype(int)
    window = np.maximum(1, np.rint(size[::-1] * per_pixel)).astype(int)
    wider = View(_pair(corner), _pair(window), _pair(size[::-1]))
    image, shift, gain = _resized(piece.image, wider)
    boxes = (piece.boxes + np.tile(shift, 2)) * np.tile(gain, 2) + np.tile(low, 2)
    # OpenCV counts from pixel centres, half a pixel off.
    offset = warp.points(low + 0.5) - 0.5
    warped = cv2.warpAffine(
        image,
        np.column_stack([warp.linear, offset]),
        view.size[::-1],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(PAD, PAD, PAD),
    )
    after = warp.boxes(boxes, settings.warped_boxes)
    # A region to ignore may hold objects up to its corners.
    after[piece.crowd] = warp.boxes(boxes[piece.crowd], "corners")
    return surviving(np.asarray(warped, np.uint8), piece, after, settings)


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


def draw_turn(settings: AugmentSettings, rng: np.random.Generator) -> int:
    """A symmetry for `turned`."""
    if settings.symmetries == "none":
        return 0
    return int(rng.integers(8 if settings.symmetries == "all" else 2))


def draw_warp(
    settings: AugmentSettings, rng: np.random.Generator, *, pivot: tuple[float, float]
) -> Warp | None:
    """A rotation and shear about `pivot` (x, y); None where the settings have neither."""
    if not settings.degrees and not settings.shear:
        return None
    if settings.warp_prob < 1 and rng.random() >= settings.warp_prob:
        return None
    angle = np.deg2rad(rng.uniform(-settings.degrees, settings.degrees))
    shear_x, shear_y = np.tan(np.deg2rad(rng.uniform(-settings.shear, settings.shear, 2)))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Warp(rotation @ np.array([[1, shear_x], [shear_y, 1]]), np.array(pivot, np.float64))


def _corners(boxes: npt.NDArray[np.floating] | npt.NDArray[np.int_]) -> FloatArray:
    """(N, 4, 2) corner points of (N, 4) boxes."""
    return np.asarray(boxes, np.float64)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)


def _pair(values: npt.NDArray[np.int_]) -> tuple[int, int]:
    return cast(tuple[int, int], tuple(int(value) for value in values))


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
        return _pair(np.clip(corner, low, high))
    return _pair(rng.integers(low, high + 1))


def _resized(image: RgbArray, view: View) -> tuple[RgbArray, Float32Array, Float32Array]:
    """What is seen, with the exact map (x, y) -> (x + shift) * gain of its pixels.

    Source and target rectangles are whole pixels, so the map is exact for boxes too.
    """
    (top, left), size = view.corner, view.size
    source_y, target_y = _overlap(top, view.window[0], image.shape[0], size[0])
    source_x, target_x = _overlap(left, view.window[1], image.shape[1], size[1])
    inner = image[source_y, source_x]
    if not inner.size:
        gain = np.array([size[1] / view.window[1], size[0] / view.window[0]], np.float32)
        return np.full((*size, 3), PAD, np.uint8), np.array([-left, -top], np.float32), gain
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
    if first >= last:
        return slice(0, 0), slice(0, 0)
    low = min(round((first - start) * size / window), size - 1)
    high = max(round((last - start) * size / window), low + 1)
    return slice(first, last), slice(low, high)
