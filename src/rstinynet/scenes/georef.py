"""From pixels to the ground: footprints in the source's CRS and sizes in metres.

Pixel coordinates count from the outer corner of the first pixel, as GDAL's affine does. Every
corner goes through the full affine, so rotated and south-up scenes are right too.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from rstinynet.detections import Float32Array

Float64Array = npt.NDArray[np.float64]
WGS84 = CRS.from_epsg(4326)


def corners(boxes_xyxy: Float32Array, transform: Affine | None) -> Float64Array:
    """(N, 4, 2) corners of the boxes: top left, top right, bottom right, bottom left in the image.

    Coordinates are those of `transform`'s CRS, or pixels without one.
    """
    x0, y0, x1, y1 = boxes_xyxy.astype(np.float64).T
    pixels = np.stack(
        [np.stack(pair, axis=-1) for pair in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], axis=1
    )
    return pixels if transform is None else to_ground(pixels, transform)


def to_ground(points_px: Float64Array, transform: Affine) -> Float64Array:
    """Points (..., 2) from pixels to the CRS of `transform`."""
    x, y = points_px[..., 0], points_px[..., 1]
    t = transform
    return np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f], axis=-1)


def polygons(corners_N42: Float64Array) -> npt.NDArray[np.object_]:
    """(N,) shapely polygons, counter-clockwise as RFC 7946 asks; None for corners of no place."""
    shapes = np.full(len(corners_N42), None, object)
    placed = np.isfinite(corners_N42).all(axis=(1, 2))
    if not placed.any():
        return shapes
    corners_N42 = corners_N42[placed]
    x, y = corners_N42[..., 0], corners_N42[..., 1]
    doubled = (x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)
    rings = np.where((doubled < 0)[:, None, None], corners_N42[:, ::-1], corners_N42)
    shapes[placed] = shapely.polygons(np.concatenate([rings, rings[:, :1]], axis=1))
    return shapes


def spans_a_plane(transform: Affine) -> bool:
    """Whether the transform gives pixels places of their own, not one line or point for all."""
    t = transform
    if not np.isfinite([t.a, t.b, t.c, t.d, t.e, t.f]).all():
        return False
    along, across = t.a * t.e, t.b * t.d
    return abs(along - across) > 1e-9 * (abs(along) + abs(across))


def to_lonlat(points: Float64Array, crs: CRS) -> Float64Array:
    """Points (..., 2) from `crs` to longitude and latitude on WGS 84, degrees.

    Raises pyproj's ProjError where there is no way from `crs`, and for a point that it does not
    map.
    """
    return to_crs(points, crs, WGS84)


def to_crs(points: Float64Array, crs: CRS, target: CRS) -> Float64Array:
    """Points (..., 2) from `crs` to `target`, x (or longitude) first.

    Raises pyproj's ProjError where there is no way from one to the other, and for a point that
    either does not map.
    """
    if not points.size:
        return points
    transformer = Transformer.from_crs(crs, target, always_xy=True)
    x, y = transformer.transform(points[..., 0], points[..., 1], errcheck=True)
    return np.stack([x, y], axis=-1)


def mapped(points: Float64Array, crs: CRS, target: CRS) -> Float64Array:
    """As `to_crs`, but NaN for a point beyond what the systems map, as off the disk of the Earth.

    A detector can find things there, and one of them must not cost the others their places.
    """
    transformer = Transformer.from_crs(crs, target, always_xy=True)
    there = np.stack(transformer.transform(points[..., 0], points[..., 1]), axis=-1)
    return np.where(np.isfinite(there).all(axis=-1, keepdims=True), there, np.nan)


def leads(crs: CRS, target: CRS) -> bool:
    """Whether there is a way from one system to the other."""
    if crs == target:
        return True
    try:
        Transformer.from_crs(crs, target, always_xy=True)
    except ProjError:
        return False
    return True


def is_place(point: Float64Array, crs: CRS) -> bool:
    """Whether the point (2,) of `crs` lies on the ground; true where no way leads to degrees."""
    if not leads(crs, WGS84):
        return True
    try:
        lonlat = to_lonlat(point, crs)
    except ProjError:
        return False
    # Up to a turn on: scenes across the 180th meridian, and longitudes from 0 to 360.
    return bool((np.abs(lonlat) <= (540, 90)).all())


def wrapped(lonlat: Float64Array) -> Float64Array:
    """Points (..., 2) in degrees with longitudes from -180 to 180, of scenes that go on beyond."""
    turned = lonlat.copy()
    beyond = np.abs(turned[..., 0]) > 180
    turned[..., 0][beyond] = (turned[..., 0][beyond] + 180) % 360 - 180
    return turned


def crossing(lonlat_N42: Float64Array) -> npt.NDArray[np.bool_]:
    """(N,) which boxes, given by their corners in degrees, lie across the 180th meridian."""
    if not len(lonlat_N42):
        return np.zeros(0, bool)
    return np.asarray(np.ptp(lonlat_N42[..., 0], axis=1) > 180)


def unwrapped(lonlat_N42: Float64Array) -> Float64Array:
    """The corners with those of boxes across the 180th meridian east of it, over 180 degrees."""
    west = crossing(lonlat_N42)[:, None] & (lonlat_N42[..., 0] < 0)
    shifted = lonlat_N42.copy()
    shifted[..., 0] += np.where(west, 360.0, 0.0)
    return shifted


def cut_at_dateline(shape: Any) -> Any:
    """A polygon that goes on beyond 180 degrees as the two parts that RFC 7946 (3.1.9) asks for."""
    x0, y0, x1, y1 = shape.bounds
    parts = []
    for low, high, shift in ((x0, 180.0, 0.0), (180.0, x1, -360.0)):
        part = shapely.intersection(shape, shapely.box(low, y0, high, y1))
        if part.geom_type == "Polygon" and not part.is_empty:
            moved = shapely.transform(part, lambda c, by=shift: c + np.array([by, 0.0]))
            parts.append(shapely.geometry.polygon.orient(moved, 1.0))
    return shapely.MultiPolygon(parts)


def has_metres(transform: Affine | None, crs: CRS | None) -> bool:
    """Whether `sizes_m` knows metres: not of degrees from which no way leads to WGS 84."""
    if transform is None or crs is None:
        return False
    return leads(crs, WGS84) or not crs.is_geographic


def sizes_m(
    boxes_xyxy: Float32Array,
    transform: Affine | None,
    crs: CRS | None,
    gsd_m: float | None = None,
) -> tuple[Float64Array, Float64Array]:
    """Width and height (N,) of the boxes on the ground, metres, along the image's x and y.

    Geodesic where the CRS leads to longitude and latitude, else by the CRS's own unit, as are boxes
    that reach beyond what the projection maps. Without a CRS, and for degrees that do not lead
    there (`has_metres`), by `gsd_m` metres a pixel; NaN where that is not known either.
    """
    pixels_m = math.nan if gsd_m is None else gsd_m
    sides = (boxes_xyxy[:, 2:].astype(np.float64) - boxes_xyxy[:, :2]) * pixels_m
    if transform is None or crs is None or not len(boxes_xyxy):
        return sides[:, 0], sides[:, 1]
    points = corners(boxes_xyxy, transform)
    middles = (points + np.roll(points, -1, axis=1)) / 2  # top, right, bottom, left
    lengths = sides
    if not crs.is_geographic:
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        lengths = np.hypot(*np.moveaxis(middles[:, [3, 0]] - middles[:, [1, 2]], -1, 0)) * unit
    if leads(crs, WGS84):
        lonlat = mapped(middles, crs, WGS84)
        placed = np.isfinite(lonlat).all(axis=(1, 2))
        top, right, bottom, left = np.moveaxis(lonlat[placed], 1, 0)
        geod = Geod(ellps="WGS84")
        lengths[placed] = np.stack(
            [_distance(geod, left, right), _distance(geod, top, bottom)], axis=1
        )
    return lengths[:, 0], lengths[:, 1]


def _distance(geod: Geod, first: Float64Array, second: Float64Array) -> Float64Array:
    distance: Any = geod.inv(first[:, 0], first[:, 1], second[:, 0], second[:, 1])[2]
    return np.asarray(distance, np.float64)


def warn_unlocated(name: str) -> None:
    """Say that positions are pixels."""
    warnings.warn(f"{name} has no coordinate system: positions are written in pixels", stacklevel=3)
