"""Tiles over a scene: overlapping windows, and the core of each that it alone answers for.

The last window of a row or column is shifted inward, so that every tile is whole. Neighbours share
their overlap half and half: a point of the scene lies in exactly one core.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from rstinynet.errors import UsageError


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of whole pixels of a scene."""

    x: int
    y: int
    width: int
    height: int
    core: tuple[float, float, float, float]
    """XYXY in scene pixels; unbounded at the scene's edges."""


@dataclass(frozen=True, slots=True)
class Span:
    """One dimension of a window: where it starts and the core it owns."""

    start: int
    low: float
    high: float


def whole(width: int, height: int) -> Window:
    """The one window that is the whole scene."""
    everywhere = (float("-inf"), float("-inf"), float("inf"), float("inf"))
    return Window(0, 0, width, height, everywhere)


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Windows of `tile` pixels along `length`, neighbours sharing at least `overlap`."""
    if tile < 1 or not 0 <= overlap < tile:
        raise UsageError(
            f"overlap must be from 0 to less than the tile, in pixels: tile {tile}, "
            f"overlap {overlap}"
        )
    starts = [0] if length <= tile else [*range(0, length - tile, tile - overlap), length - tile]
    size = min(tile, length)
    borders = [(a + size + b) / 2 for a, b in pairwise(starts)]
    return [
        Span(start, low, high)
        for start, low, high in zip(
            starts, [float("-inf"), *borders], [*borders, float("inf")], strict=True
        )
    ]


def rows(width: int, height: int, *, tile: int, overlap: int) -> Iterator[list[Window]]:
    """Rows of windows, top to bottom, that cover a scene of this size."""
    columns = spans(width, tile, overlap)
    for down in spans(height, tile, overlap):
        yield [
            Window(
                across.start,
                down.start,
                min(tile, width),
                min(tile, height),
                (across.low, down.low, across.high, down.high),
            )
            for across in columns
        ]


def count(width: int, height: int, *, tile: int, overlap: int) -> int:
    """How many windows `rows` gives."""
    return len(spans(width, tile, overlap)) * len(spans(height, tile, overlap))
