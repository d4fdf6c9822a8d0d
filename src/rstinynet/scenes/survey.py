"""What many scenes have in common, from a look at each before any is searched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pyproj import CRS
from pyproj.exceptions import ProjError

from rstinynet.errors import RSTinyNetError
from rstinynet.scenes import georef
from rstinynet.scenes.reader import Scene, is_placed
from rstinynet.scenes.sources import Source

Bounds = tuple[float, float, float, float]
"""Least x, least y, greatest x, greatest y."""


def survey(scenes: Sequence[Source]) -> tuple[CRS | None, Bounds | None]:
    """The system that all scenes with a place have in common, else EPSG:4326; and their extent.

    Scenes that cannot be opened, that lie outside of their own system, or from whose system no way
    leads there, are passed over: they are reported when their turn comes. Where all lie outside,
    their system is known, but no extent.
    """
    placed: list[tuple[CRS, Bounds]] = []
    lost: list[CRS] = []
    for path in scenes:
        try:
            with Scene(path) as scene:
                source = scene.source
                if source.crs is None or source.transform is None:
                    continue
                if not is_placed(source):
                    lost.append(source.crs)
                    continue
                frame = np.array([[0, 0, scene.width, scene.height]], np.float32)
                ground = georef.corners(frame, source.transform)[0]
        except (RSTinyNetError, OSError):
            continue
        placed.append((source.crs, (*ground.min(axis=0), *ground.max(axis=0))))
    systems = [crs for crs, _ in placed] or lost
    if not systems:
        return None, None
    target = systems[0] if all(crs == systems[0] for crs in systems) else georef.WGS84
    found = []
    for crs, bounds in placed:
        try:
            found.append(moved(bounds, crs, target))
        except ProjError:
            continue  # It is refused when its turn comes.
    if not found:
        return target, None
    together = np.array(found)
    low, high = together[:, :2].min(axis=0).tolist(), together[:, 2:].max(axis=0).tolist()
    return target, (low[0], low[1], high[0], high[1])


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
    low, high = there.min(axis=0).tolist(), there.max(axis=0).tolist()
    return (low[0], low[1], high[0], high[1])
