"""Positions against rasterio and pyproj; sizes against known lengths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio.transform
import shapely
from affine import Affine
from pyproj import CRS, Transformer

from rstinynet.scenes import georef

TRANSFORMS = {
    "north up": Affine(0.5, 0, 664000, 0, -0.5, 4000000),
    "south up": Affine(0.5, 0, 664000, 0, 0.5, 4000000),
    "rotated": Affine(0.4, 0.3, 664000, 0.3, -0.4, 4000000),
    "geographic": Affine(2.7e-6, 0, -115.23, 0, -2.7e-6, 36.14),
}
BOXES = np.array([[10.5, 20.25, 26.5, 27.75], [0, 0, 1300, 1300]], np.float32)


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_polygons_read_back_to_the_pixel(kind: str) -> None:
    transform = TRANSFORMS[kind]
    shapes = georef.polygons(georef.corners(BOXES, transform))
    assert all(shape.exterior.is_ccw for shape in shapes)
    for shape, box in zip(shapes, BOXES, strict=True):
        x, y = np.array(shape.exterior.coords[:4]).T
        row, column = rasterio.transform.rowcol(transform, x, y, op=lambda value: value)
        corners = set(zip(np.round(column, 6) + 0.0, np.round(row, 6) + 0.0, strict=True))
        assert corners == {(box[i], box[j]) for i in (0, 2) for j in (1, 3)}


def test_without_a_transform_positions_are_pixels() -> None:
    shape = georef.polygons(georef.corners(BOXES[:1], None))[0]
    assert shape.bounds == tuple(BOXES[0])


def test_lonlat_agrees_with_pyproj() -> None:
    crs = CRS.from_epsg(32611)
    points = georef.corners(BOXES, TRANSFORMS["rotated"])
    lonlat = georef.to_lonlat(points, crs)
    back = Transformer.from_crs(4326, crs, always_xy=True).transform(*np.moveaxis(lonlat, -1, 0))
    np.testing.assert_allclose(np.stack(back, axis=-1), points, atol=1e-6)


def test_sizes_are_metres_on_the_ground() -> None:
    utm = CRS.from_epsg(32611)
    width, height = georef.sizes_m(BOXES, TRANSFORMS["rotated"], utm)
    np.testing.assert_allclose([width[0], height[0]], [16 * 0.5, 7.5 * 0.5], rtol=1e-3)
    width, height = georef.sizes_m(BOXES, TRANSFORMS["geographic"], CRS.from_epsg(4326))
    east, north = 111320 * np.cos(np.radians(36.14)) * 2.7e-6, 110950 * 2.7e-6
    np.testing.assert_allclose([width[0], height[0]], [16 * east, 7.5 * north], rtol=3e-3)
    # Web Mercator's unit is a metre only at the equator.
    mercator = Affine(1, 0, 0, 0, -1, 8399738)  # 60 degrees north
    width, _ = georef.sizes_m(BOXES[:1], mercator, CRS.from_epsg(3857))
    np.testing.assert_allclose(width, 8, rtol=5e-3)


def test_sizes_in_a_local_grid_use_its_unit_and_without_one_are_unknown() -> None:
    local = CRS.from_wkt(
        'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
        'LENGTHUNIT["foot",0.3048]]'
    )
    width, height = georef.sizes_m(BOXES[:1], Affine(2, 0, 0, 0, -2, 0), local)
    np.testing.assert_allclose([width[0], height[0]], [32 * 0.3048, 15 * 0.3048])
    assert np.isnan(georef.sizes_m(BOXES, None, None)).all()


def test_metres_a_pixel_that_are_given_hold_where_the_source_says_none() -> None:
    none_there = CRS.from_user_input("IAU_2015:30100")  # degrees of the moon
    for transform, crs in ((None, None), (TRANSFORMS["geographic"], none_there)):
        width, height = georef.sizes_m(BOXES, transform, crs, 0.25)
        np.testing.assert_allclose([width[0], height[0]], [16 * 0.25, 7.5 * 0.25])
    own = georef.sizes_m(BOXES, TRANSFORMS["rotated"], CRS.from_epsg(32611))
    given = georef.sizes_m(BOXES, TRANSFORMS["rotated"], CRS.from_epsg(32611), 9.0)
    np.testing.assert_array_equal(own, given)


def test_no_boxes_are_no_polygons() -> None:
    none = np.zeros((0, 4), np.float32)
    shapes = georef.polygons(georef.corners(none, TRANSFORMS["rotated"]))
    assert len(shapely.to_wkb(shapes)) == 0


@pytest.mark.parametrize(
    ("x", "y", "epsg", "there"),
    [
        (10, 50, 4326, True),
        (350, 50, 4326, True),
        (1000, 500, 4326, False),
        (500_000, 5e6, 32611, True),
        (1e13, 5e6, 32611, False),
    ],
)
def test_a_point_lies_in_its_system_or_not(x: float, y: float, epsg: int, there: bool) -> None:
    assert georef.is_place(np.array([x, y]), CRS.from_epsg(epsg)) is there


def test_a_sites_own_system_has_any_place() -> None:
    site = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    assert georef.is_place(np.array([1e13, 0.0]), site)


@pytest.mark.parametrize(
    ("transform", "plane"),
    [
        (Affine(0.3, 0, 664000, 0, -0.3, 4e6), True),
        (Affine(0, 1e-7, 10, 1e-7, 0, 50), True),
        (Affine(0.3, 0, 664000, 0, 0, 4e6), False),
        (Affine(0.1, 0.3, 0, 0.2, 0.6, 0), False),
        (Affine(math.nan, 0, 0, 0, -0.3, 0), False),
        (Affine(0.3, 0, math.inf, 0, -0.3, 0), False),
    ],
)
def test_a_transform_gives_pixels_places_of_their_own_or_not(
    transform: Affine, plane: bool
) -> None:
    assert georef.spans_a_plane(transform) is plane


def test_a_box_beyond_the_projection_leaves_the_others_their_metres() -> None:
    disk = CRS.from_user_input("+proj=geos +h=35786023 +lon_0=-75 +sweep=x +ellps=GRS80 +units=m")
    place = Affine(10_000, 0, -5_000_000, 0, -10_000, 5_000_000)
    on, off = [600, 600, 610, 610], [2, 2, 12, 12]
    boxes = np.array([on, off], np.float32)
    width, height = georef.sizes_m(boxes, place, disk)
    alone = georef.sizes_m(boxes[:1], place, disk)
    assert (width[0], height[0]) == (alone[0][0], alone[1][0])
    assert width[0] > 100_500
    np.testing.assert_allclose([width[1], height[1]], 100_000)
