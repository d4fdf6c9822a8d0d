"""One object cut out with a rim of its ground: turned by any angle, and laid on other ground.

After Ghiasi et al., "Simple Copy-Paste" (arXiv:2012.07177), with boxes instead of masks: what lies
in the box is taken whole, and its rim fades out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from rstinynet.data.geometry import Warp
from rstinynet.data.image import RgbArray
from rstinynet.data.pieces import Piece
from rstinynet.detections import Float32Array

GREY = 2.0
"""Levels by which the channels of a grey picture differ at most, for what JPEG made of them."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """What an object's height hides from the sun, the same for all objects of a sample."""

    x: int
    """Pixels by which the shadow reaches beyond the object; negative: to the left."""
    y: int
    """Negative: upwards."""
    depth: float
    """Share of the ground's light that is missing, in [0, 1]."""

    @property
    def reach(self) -> int:
        """Pixels of ground that it needs on every side."""
        return max(abs(self.x), abs(self.y))


@dataclass(frozen=True, slots=True)
class Patch:
    """One object and its ground."""

    piece: Piece
    """The pixels (h, w, 3), with the one object."""
    weight: Float32Array
    """(h, w) how much of a pixel is the patch's: 1 on the object, 0 at the ends of the rim."""
    body: Float32Array
    """(h, w) 1 on the object's box, also when it has been turned, and 0 beside it."""

    @classmethod
    def of(cls, piece: Piece, *, fade_px: float | None = None) -> Patch:
        """A patch of a piece that holds one object with its rim.

        The rim fades out over all its pixels, or over `fade_px` of them, which leaves less of the
        object's own ground around it.
        """
        height, width = piece.image.shape[:2]
        left, top, right, bottom = (float(value) for value in piece.boxes[0])
        weight = np.outer(_ramp(height, top, bottom, fade_px), _ramp(width, left, right, fade_px))
        return cls(piece, weight.astype(np.float32), (weight >= 1).astype(np.float32))

    def turned(self, degrees: float) -> Patch:
        """The patch turned clockwise by any angle, in a window that holds all of it.

        Its box follows as `Warp.boxes` says of `rounded`.
        """
        angle = np.deg2rad(degrees)
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        height, width = self.weight.shape
        size = (
            int(np.ceil(abs(width * cos) + abs(height * sin) - 1e-6)),
            int(np.ceil(abs(width * sin) + abs(height * cos) - 1e-6)),
        )
        shift = np.array([size[0] - width, size[1] - height]) / 2
        warp = Warp(np.array([[cos, -sin], [sin, cos]]), np.array([width / 2, height / 2]))
        # OpenCV counts from pixel centres, half a pixel off.
        offset = warp.points(np.array([0.5, 0.5])) - 0.5 + shift
        matrix = np.column_stack([warp.linear, offset])
        box = warp.boxes(self.piece.boxes, "rounded") + np.tile(shift, 2)
        image = cv2.warpAffine(self.piece.image, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        return Patch(
            replace(
                self.piece, image=np.asarray(image, np.uint8), boxes=np.asarray(box, np.float32)
            ),
            np.asarray(cv2.warpAffine(self.weight, matrix, size), np.float32),
            np.asarray(cv2.warpAffine(self.body, matrix, size), np.float32),
        )

    def with_room(self, pixels: int) -> Patch:
        """The same with so many more pixels on every side, of which the patch has nothing."""
        if not pixels:
            return self
        sides = (pixels, pixels)
        image = np.pad(self.piece.image, (sides, sides, (0, 0)), mode="edge")
        return Patch(
            replace(self.piece.moved(pixels, pixels), image=image),
            np.pad(self.weight, pixels),
            np.pad(self.body, pixels),
        )

    def like(self, ground: RgbArray) -> Patch | None:
        """The patch in grey where (h, w, 3) pixels of ground below it are; None where only it is.

        What differs in that from its ground is known for an object by nothing else.
        """
        if _colour(ground) > GREY:
            return self if _colour(self.piece.image) > GREY else None
        grey = cv2.cvtColor(self.piece.image, cv2.COLOR_RGB2GRAY)
        return replace(self, piece=replace(self.piece, image=np.dstack([grey] * 3)))

    def toned(self, factor: float, ground: RgbArray, *, contrast: float) -> Patch:
        """The patch with its brightness multiplied, for (h, w, 3) pixels of ground below it.

        The same patch where the object's mean level would then be below `contrast`, or differ by
        less from the ground's: it would be a black blot, or nobody could see it.
        """
        toned = np.clip(np.rint(self.piece.image * np.float32(factor)), 0, 255).astype(np.uint8)
        mean = float(np.average(toned.mean(axis=2), weights=self.body))
        below = float(ground.mean())
        if mean < contrast or abs(mean - below) < contrast:
            return self
        return replace(self, piece=replace(self.piece, image=toned))

    def lay(self, ground: RgbArray, shadow: Shadow | None = None) -> None:
        """Change `ground` (h, w, 3) to show the object on it, and its shadow."""
        weight = self.weight[..., None]
        mixed = weight * self.piece.image + (1 - weight) * ground
        if shadow is not None:
            mixed *= (1 - shadow.depth * _shade(self.body, shadow) * (1 - self.body))[..., None]
        ground[:] = np.rint(mixed).astype(np.uint8)


def _colour(image: RgbArray) -> float:
    """Levels by which channels differ, the mean over the pixels of (h, w, 3)."""
    return float(np.ptp(image, axis=2).mean())


def _shade(body: Float32Array, shadow: Shadow) -> Float32Array:
    """(h, w) how much of a pixel lies in the shadow: what the body sweeps on its way."""
    shade = body
    for step in range(1, shadow.reach + 1):
        x, y = (round(step * value / shadow.reach) for value in (shadow.x, shadow.y))
        move = np.array([[1, 0, x], [0, 1, y]], np.float64)
        moved = cv2.warpAffine(body, move, body.shape[::-1], flags=cv2.INTER_NEAREST)
        shade = np.maximum(shade, np.asarray(moved, np.float32))
    return np.asarray(cv2.GaussianBlur(shade, (3, 3), 0.6), np.float32)


def _ramp(size: int, first: float, last: float, fade_px: float | None) -> npt.NDArray[np.float64]:
    """(size,) 1 on pixels of [first, last], falling to 0 at the ends, or after `fade_px`."""
    middles = np.arange(size) + 0.5
    reach = np.inf if fade_px is None else max(fade_px, 0.5)
    start, end = min(max(first, 0.5), reach), min(max(size - last, 0.5), reach)
    before = (middles - first) / start + 1
    after = (last - middles) / end + 1
    inner = (np.arange(size) + 1 > first) & (np.arange(size) < last)
    return np.where(inner, 1.0, np.clip(np.minimum(before, after), 0, 1))
