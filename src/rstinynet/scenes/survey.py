"""What many scenes have in common, from a look at each before any is searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pyproj import CRS
from pyproj.exceptions import ProjError

from rstinynet.errors import RSTinyNetError
from rstinynet.scenes import georef
from rstinynet.scenes.raster import RasterSource
from rstinynet.scenes.reader import is_placed
from rstinynet.scenes.sources import Source

Bounds = tuple[float, float, float, float]
"""Least x, least y, greatest x, greatest y."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a look at many scenes found."""

    crs: CRS | None
    """The system that all scenes with a place have in common, else EPSG:4326; None: pixels."""
    extent: Bounds | None
    """Of the scenes, in `crs`; None where nothing is known of it."""
    refused: dict[Source, Exception]
    """The scenes that cannot be opened, and why."""


def survey(scenes: Sequence[Source]) -> Survey:
    """Look at each scene's place, at none of its pixels.

    Scenes that cannot be opened, that lie outside of their own system, or from whose system no way
    leads to the common one, are passed over: they are reported when their turn comes. Where all lie
    outside, their system is known, but no extent.
    """
    placed: list[tuple[CRS, Bounds]] = []
    lost: list[CRS] = []
    refused: dict[Source, Exception] = {}
    for path in scenes:
        try:
            source = RasterSource(path)
        except (RSTinyNetError, OSError) as error:
            refused[path] = error
            continue
        source.close()
        if source.crs is None or source.transform is None:
            continue
        if not is_placed(source):
            lost.append(source.crs)
            continue
        frame = np.array([[0, 0, source.width, source.height]], np.float32)
        ground = georef.corners(frame, source.transform)[0]
        placed.append((source.crs, (*ground.min(axis=0), *ground.max(axis=0))))
    systems = [crs for crs, _ in placed] or lost
    if not systems:
        return Survey(None, None, refused)
    target = systems[0] if all(crs == systems[0] for crs in systems) else georef.WGS84
    found = []
    for crs, bounds in placed:
        try:
            found.append(moved(bounds, crs, target))
        except ProjError:
            continue  # It is refused when its turn comes.
    if not found:
        return Survey(target, None, refused)
    return Survey(target, extent(np.array(found), target), refused)


def moved(bounds: Bounds, crs: CRS, target: CRS) -> Bounds:
    """The bounds in another system, by points along their edges."""
    if crs == target:
        return bounds
    x0, y0, x1, y1 = bounds
    share = np.linspace(0, 1, 21)
    x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
    sides = ((x, y0), (x, y1), (x0, y), (x1, y))
    edges = [np.stack(np.broadcast_arrays(a, b), axis=-1) for a, b in sides]
    there = georef.to_crs(np.concatenate(edges).astype(np.float64), crs, target)
    return extent(np.hstack([there, there]), target)


def extent(bounds_N4: georef.Float64Array, crs: CRS | None) -> Bounds:
    """What all of the bounds, one at least, lie in.

    Of longitudes that spread over more than 180 degrees the shorter way around the globe, which may
    go on beyond 180: from 179.9 to 180.1.
    """
    x0, y0, x1, y1 = bounds_N4.T
    west, east = x0.min(), x1.max()
    if crs is not None and crs.is_geographic and east - west > 180:
        ways = [(west, east)]
        for start in (-180, 0):
            turned = (x0 - start) % 360 + start
            ways.append((turned.min(), (turned + x1 - x0).max()))
        west, east = min(ways, key=lambda way: way[1] - way[0])
    return (float(west), float(y0.min()), float(east), float(y1.max()))
