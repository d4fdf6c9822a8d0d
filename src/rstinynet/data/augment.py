"""Augmentation for overhead images: crops at native resolution, the square's symmetries, mosaic.

An overhead image has a ground sampling distance, so by default it is not shrunk to the training
size: a window of it is cut at a zoom near 1. Mosaic is after YOLOv4 (arXiv:2004.10934, section
3.3), but each quadrant is cut to size instead of cut off, so no object is shrunk to make room.
`fit="letterbox"` is YOLO11's way: images fitted to the square, and the sample a window of four of
them laid around a random centre.

All is a pure function of the pieces, the settings and the generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rstinynet.data.augment_settings import AugmentSettings
from rstinynet.data.colour import recolour
from rstinynet.data.geometry import View, cut, draw_turn, draw_warp, look, turned
from rstinynet.data.image import PAD
from rstinynet.data.pieces import AugmentCounts, Piece, joined

__all__ = [
    "PAD",
    "AugmentCounts",
    "AugmentSettings",
    "Piece",
    "arrange",
    "augment",
    "cut",
    "letterboxed",
    "mosaic",
    "recolour",
    "turned",
]


def augment(
    pieces: Sequence[Piece], settings: AugmentSettings, rng: np.random.Generator
) -> tuple[Piece, AugmentCounts]:
    """One square sample of side `imgsz` from one piece, or from four as a mosaic."""
    sample, counts = arrange(pieces, settings, rng)
    image = recolour(sample.image, settings, rng)
    return Piece(image, sample.boxes, sample.labels, sample.crowd), counts


def arrange(
    pieces: Sequence[Piece], settings: AugmentSettings, rng: np.random.Generator
) -> tuple[Piece, AugmentCounts]:
    """The sample as `augment` makes it, in the colours of the pieces."""
    if settings.fit == "letterbox":
        return letterboxed(pieces, settings, rng)
    if len(pieces) == 1:
        return cut(pieces[0], (settings.imgsz, settings.imgsz), settings, rng)
    return mosaic(pieces, settings, rng)


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
        parts.append(part.moved(x, y))
        counts += counted
    return joined(canvas, parts), counts


def letterboxed(
    pieces: Sequence[Piece], settings: AugmentSettings, rng: np.random.Generator
) -> tuple[Piece, AugmentCounts]:
    """One image fitted to the square, or a mosaic of four such, zoomed and shifted.

    As YOLO11: the four touch at a random centre in the middle half of a canvas of twice the side,
    whose middle comes to lie in the sample's, shifted by up to `translate`. Unlike there, lines
    between images stay straight under rotation, and each image is resampled once.
    """
    side = settings.imgsz
    zoom = float(rng.uniform(*settings.scale))
    middle = side * (0.5 + rng.uniform(-settings.translate, settings.translate, 2))
    warp = draw_warp(settings, rng, pivot=(float(middle[0]), float(middle[1])))
    canvas = np.full((side, side, 3), PAD, np.uint8)
    if len(pieces) == 1:
        spans = [(0, 0, side, side)]
        centre = middle
    else:
        centre = middle + zoom * side * rng.uniform(-0.5, 0.5, 2)
        edges = np.stack([middle - zoom * side, centre, middle + zoom * side])
        xs, ys = np.clip(np.rint(edges), 0, side).astype(int).T.tolist()
        spans = [(x, y, right, bottom) for y, bottom in pairwise(ys) for x, right in pairwise(xs)]
    parts: list[Piece] = []
    counts = AugmentCounts()
    for number, (piece, (x, y, right, bottom)) in enumerate(zip(pieces, spans, strict=True)):
        if right <= x or bottom <= y:
            continue
        shape = np.array(piece.image.shape[1::-1])
        gain = zoom * side / shape.max()
        # Which of its own corners, or its middle, an image has at the centre, as (x, y) shares.
        at_centre = (0.5, 0.5) if len(pieces) == 1 else (1 - number % 2, 1 - number // 2)
        left, top = np.rint((np.array([x, y]) - centre) / gain + shape * at_centre).astype(int)
        window = max(1, round((bottom - y) / gain)), max(1, round((right - x) / gain))
        view = View((int(top), int(left)), window, (bottom - y, right - x))
        part, counted = look(piece, view, settings, warp=None if warp is None else warp.moved(x, y))
        canvas[y:bottom, x:right] = part.image
        parts.append(part.moved(x, y))
        counts += counted
    sample = joined(canvas, parts)
    image, boxes = turned(sample.image, sample.boxes, draw_turn(settings, rng))
    return Piece(image, boxes, sample.labels, sample.crowd), counts
