"""Counts by zone, on a grid and in H3 cells, against counting by hand."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import h3
import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from rasterio.enums import Resampling

from rstinynet.detections import Detections
from rstinynet.errors import DataError, UsageError
from rstinynet.scenes import density, georef, places, survey, writers
from rstinynet.scenes.counting import Counting, CountOptions
from rstinynet.scenes.density import Grid, Hexagons
from rstinynet.scenes.features import Header
from rstinynet.scenes.places import Places
from rstinynet.scenes.zones import Zones

UTM = CRS.from_epsg(32611)
WEST, NORTH = 664000.0, 4000000.0
NAMES = ("car", "ship")


def scattered(n: int = 400, *, seed: int = 2) -> Places:
    """Points over 1 km by 1 km."""
    rng = np.random.default_rng(seed)
    xy = rng.random((n, 2)) * 1000 + (WEST, NORTH - 1000)
    names = np.array(NAMES, object)[rng.integers(0, 2, n)]
    return Places(xy, names, rng.random(n))


def write_zones(
    path: Path,
    shapes: list[Any],
    *,
    crs: str | None = "EPSG:32611",
    layer: str | None = None,
    **fields: Any,
) -> Path:
    columns = {"name": np.array([f"zone {i}" for i in range(len(shapes))], object)} | fields
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(np.array(shapes, object)),
        field_data=list(columns.values()),
        fields=np.array(list(columns), object),
        geometry_type="Unknown",
        crs=crs,
        layer=layer,
    )
    return path


def box(x0: float, y0: float, x1: float, y1: float) -> Any:
    """In metres east and north of the south-west corner of the points' square."""
    south = NORTH - 1000
    return shapely.box(WEST + x0, south + y0, WEST + x1, south + y1)


def read(path: Path, layer: int | str = 0) -> tuple[dict[str, Any], np.ndarray, dict[str, Any]]:
    meta, _, geometry, columns = pyogrio.raw.read(path, layer=layer)
    return meta, shapely.from_wkb(geometry), dict(zip(meta["fields"], columns, strict=True))


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson"])
def test_zones_count_their_own_also_where_they_overlap(tmp_path: Path, suffix: str) -> None:
    holed = box(0, 0, 500, 1000).difference(box(100, 100, 300, 300))
    shapes = [holed, box(400, 0, 1000, 1000), box(5000, 0, 6000, 1000)]
    path = write_zones(tmp_path / "z.gpkg", shapes, n_car=np.array([7, 8, 9]))
    zones = Zones(path)
    found = scattered()
    for start in range(0, 400, 130):
        part = slice(start, start + 130)
        zones.add(Places(found.xy[part], found.names[part], found.scores[part]), UTM)
    zones.write(tmp_path / f"out{suffix}", NAMES)
    meta, _, columns = read(tmp_path / f"out{suffix}")
    if suffix != ".geojson":
        assert meta["crs"] == "EPSG:32611"
    assert columns["name"].tolist() == ["zone 0", "zone 1", "zone 2"]
    assert columns["n_car"].tolist() == [7, 8, 9]  # the zones' own attribute is kept
    for name, column in (("car", "n_car_2"), ("ship", "n_ship")):
        points = [shapely.Point(xy) for xy in found.xy[found.names == name]]
        by_hand = [sum(shape.contains(point) for point in points) for shape in shapes]
        assert columns[column].tolist() == by_hand
    total = columns["n_total"]
    assert (total == columns["n_car_2"] + columns["n_ship"]).all()
    assert total[2] == 0
    # UTM stretches by up to a part in a thousand; areas are those of the ellipsoid.
    np.testing.assert_allclose(columns["km2"], [0.46, 0.6, 1.0], rtol=2e-3)
    np.testing.assert_allclose(columns["per_km2"], total / columns["km2"])
    np.testing.assert_allclose(columns["km2_ship"], columns["n_ship"] / columns["km2"])
    inside = shapely.union_all(np.array(shapes, object))
    assert zones.outside == sum(not inside.contains(shapely.Point(xy)) for xy in found.xy)


def test_counts_do_not_replace_layers_of_the_users(tmp_path: Path) -> None:
    path = write_zones(tmp_path / "z.gpkg", [box(0, 0, 500, 1000)])
    counting = Counting(CountOptions(zones=path, h3=9), UTM, None)
    counting.add(scattered(), UTM)
    for _ in range(2):  # the second time over the first
        made = counting.write(tmp_path / "c")
    for kind, mine in (("zones", "cells"), ("h3", "zones")):
        made[kind].unlink()
        write_zones(made[kind], [box(0, 0, 1, 1)], layer=mine)
        with pytest.raises(UsageError, match=f"_{kind}\\.gpkg .* has other layers.*: {mine}"):
            counting.files(tmp_path / "c")
        made[kind].unlink()


def test_zones_in_another_system_count_the_same(tmp_path: Path) -> None:
    shapes = [
        box(0, 0, 300, 700),
        shapely.MultiPolygon([box(500, 0, 600, 99), box(0, 800, 9, 900)]),
    ]
    to_lonlat = Transformer.from_crs(UTM, 4326, always_xy=True)
    there = [
        shapely.transform(s, lambda x, y: to_lonlat.transform(x, y), interleaved=False)
        for s in shapes
    ]
    plain = Zones(write_zones(tmp_path / "a.gpkg", shapes))
    moved = Zones(write_zones(tmp_path / "b.gpkg", there, crs="EPSG:4326"))
    for zones in (plain, moved):
        zones.add(scattered(), UTM)
    for name in NAMES:
        assert plain.counts()[name].tolist() == moved.counts()[name].tolist()
    assert plain.counts()["car"].sum() > 20


def test_zones_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file of zones"):
        Zones(tmp_path / "none.gpkg")
    (tmp_path / "text.gpkg").write_text("no zones")
    with pytest.raises(DataError, match="zones cannot be read"):
        Zones(tmp_path / "text.gpkg")
    lines = write_zones(tmp_path / "lines.gpkg", [shapely.LineString([(0, 0), (1, 1)])])
    with pytest.raises(DataError, match="must be polygons"):
        Zones(lines)
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        placeless = write_zones(tmp_path / "p.gpkg", [box(0, 0, 1, 1)], crs=None)
    with pytest.raises(UsageError, match=r"p\.gpkg has no coordinate system, but a\.tif has one"):
        Zones(placeless).check(UTM, "a.tif")
    located = Zones(write_zones(tmp_path / "q.gpkg", [box(0, 0, 1, 1)]))
    with pytest.raises(UsageError, match=r"a\.tif has no coordinate system"):
        located.check(None, "a.tif")
    with pytest.raises(UsageError, match="must end with one of"):
        located.write(tmp_path / "out.dxf")
    with pytest.raises(UsageError, match="is the file of zones itself"):
        located.write(tmp_path / "q.gpkg")


@pytest.mark.parametrize("corner", [math.nan, math.inf])
@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
def test_zones_with_corners_that_are_no_numbers_are_named(
    tmp_path: Path, corner: float, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".gpkg":
        with np.errstate(invalid="ignore"):
            odd = shapely.Polygon([(0, 0), (corner, 0), (1, 1), (0, 0)])
        write_zones(path, [shapely.box(0, 0, 1, 1), odd], crs="EPSG:4326")
    else:  # OGR reads these, but does not write them
        ring = [[0, 0], [corner, 0], [1, 1], [0, 0]]
        shape = {"type": "Polygon", "coordinates": [ring]}
        whole = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
        features = [{"type": "Feature", "properties": {}, "geometry": g} for g in (whole, shape)]
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with pytest.raises(DataError, match=rf"a{suffix}: zone 2 has a corner that is no number"):
        Zones(path)


def test_files_of_zones_that_are_damaged_or_none_are_named(tmp_path: Path) -> None:
    good = write_zones(tmp_path / "a.geojson", [shapely.box(0, 0, 1, 1)], crs="EPSG:4326")
    latin = tmp_path / "latin.geojson"
    latin.write_bytes(good.read_bytes().replace(b"zone 0", b"z\xf6ne 0"))
    with pytest.raises(DataError, match=r"latin\.geojson: .* not UTF-8 .*: save it as UTF-8"):
        Zones(latin)
    absurd = write_zones(tmp_path / "b.gpkg", [shapely.box(0, 0, 1e13, 1e13)])
    with pytest.raises(DataError, match=r"b\.gpkg: zones lie outside of their coordinate system"):
        Zones(absurd)
    (tmp_path / "folder.gpkg").mkdir()
    with pytest.raises(DataError, match=r"folder\.gpkg: zones cannot be read"):
        Zones(tmp_path / "folder.gpkg")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(DataError, match=r"a\.parquet: .*; give \.gpkg, \.fgb or \.geojson"):
        Zones(tmp_path / "a.parquet")


@pytest.mark.parametrize("zones_from", [0, -180])
@pytest.mark.parametrize("objects_from", [0, -180])
def test_longitudes_meet_whatever_turn_they_count_by(
    tmp_path: Path, zones_from: int, objects_from: int
) -> None:
    def lon(degrees: float, lowest: int) -> float:
        return (degrees - lowest) % 360 + lowest

    wests = [lon(degrees, zones_from) for degrees in (-110, 10)]
    shapes = [shapely.box(west, 40, west + 5, 45) for west in wests]
    world = shapely.box(zones_from, -90, zones_from + 360, 90)
    path = write_zones(tmp_path / "a.gpkg", [*shapes, world], crs="EPSG:4326")
    zones = Zones(path)
    xy = np.array([(lon(x, objects_from), 42.0) for x in (-109, -108, 11, 100, 180)])
    zones.add(Places(xy, np.array(["ship"] * 5, object), np.ones(5)), georef.WGS84)
    assert zones.counts()["ship"].tolist() == [2, 1, 5]
    assert zones.outside == 0


def test_zones_in_a_sites_own_system_have_no_known_area(tmp_path: Path) -> None:
    site = 'LOCAL_CS["site",UNIT["metre",1]]'
    zones = Zones(write_zones(tmp_path / "a.gpkg", [shapely.box(0, 0, 10, 10)], crs=site))
    one = Places(np.array([[5.0, 5.0]]), np.array(["ship"], object), np.ones(1))
    zones.add(one, zones.crs)
    zones.write(tmp_path / "out.gpkg")
    _, _, columns = read(tmp_path / "out.gpkg")
    assert columns["n_total"].tolist() == [1]
    assert np.isnan(columns["km2"]).all()


def test_metres_are_not_turned(tmp_path: Path) -> None:
    zones = Zones(write_zones(tmp_path / "a.gpkg", [box(0, 0, 100, 100)]))
    middle = np.array([[WEST + 50.0, NORTH - 950.0], [WEST - 310.0, NORTH - 950.0]])
    zones.add(Places(middle, np.array(["ship"] * 2, object), np.ones(2)), UTM)
    assert zones.counts()["ship"].tolist() == [1]
    assert zones.outside == 1


def test_pixels_are_counted_in_zones_of_pixels(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        path = write_zones(tmp_path / "p.gpkg", [shapely.box(0, 0, 10, 10)], crs=None)
    options = CountOptions(zones=path)
    counting = Counting(options, None, None)
    xy = np.array([[5.0, 5.0], [10.0, 3.0], [11.0, 3.0]])
    counting.add(Places(xy, np.array(["car"] * 3, object), np.ones(3)), None)
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        files = counting.write(tmp_path / "a", ["car"])
    _, _, columns = read(files["zones"])
    assert columns["n_car"].tolist() == [2]
    assert np.isnan(columns["km2"]).all()
    with pytest.raises(UsageError, match="need objects with a coordinate system"):
        Counting(CountOptions(grid_m=10), None, None)


@pytest.mark.parametrize("epsg", [32611, 2229])
def test_a_grid_counts_as_by_hand_and_its_sum_is_all(tmp_path: Path, epsg: int) -> None:
    """In metres and in feet: a cell is 100 m all the same."""
    crs, found = CRS.from_epsg(epsg), scattered()
    xy = np.stack(Transformer.from_crs(UTM, crs, always_xy=True).transform(*found.xy.T), axis=1)
    grid = Grid(100, crs)
    grid.add(Places(xy[:150], found.names[:150], found.scores[:150]), crs)
    grid.add(Places(found.xy[150:], found.names[150:], found.scores[150:]), UTM)
    grid.write(tmp_path / "g.tif", NAMES)
    with rasterio.open(tmp_path / "g.tif") as file:
        bands = file.read()
        assert file.descriptions == ("total", *NAMES)
        assert file.crs.to_epsg() == epsg
        transform = file.transform
    unit = crs.axis_info[0].unit_conversion_factor
    assert transform.a * unit == pytest.approx(100)
    assert (transform.c / transform.a) % 1 == pytest.approx(0, abs=1e-6)
    counts = bands * 0.01
    assert counts.sum(axis=(1, 2)).round(3).tolist() == [
        400,
        *(int((found.names == name).sum()) for name in NAMES),
    ]
    row, column = rasterio.transform.rowcol(transform, *xy.T)
    by_hand = np.zeros(bands.shape[1:])
    np.add.at(by_hand, (np.array(row), np.array(column)), 1)
    np.testing.assert_allclose(counts[0], by_hand, atol=1e-4)


def test_a_grid_covers_the_extent_also_where_nothing_was_found(tmp_path: Path) -> None:
    grid = Grid(50, UTM, (WEST + 10, NORTH - 990, WEST + 990, NORTH))
    grid.write(tmp_path / "g.tif", ["car"])
    with rasterio.open(tmp_path / "g.tif") as file:
        assert file.shape == (20, 20)
        assert tuple(file.bounds) == (WEST, NORTH - 1000, WEST + 1000, NORTH)
        assert not file.read().any()
    Grid(50, UTM).write(tmp_path / "none.tif", ["car"])
    with rasterio.open(tmp_path / "none.tif") as file:
        assert file.shape == (1, 1)


def test_no_overviews_of_an_older_grid_stay_beside_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "g.tif"
    for count in (1, 50):
        grid = Grid(10, UTM, (WEST, NORTH - 640, WEST + 640, NORTH))
        xy = np.full((count, 2), (WEST + 5, NORTH - 5))
        grid.add(Places(xy, np.array(["ship"] * count, object), np.ones(count)), UTM)
        grid.write(path, ["ship"])
        if count == 1:
            with rasterio.Env(TIFF_USE_OVR="YES"), rasterio.open(path, "r+") as file:
                file.build_overviews([2], Resampling.average)
            (tmp_path / "g.tif.aux.xml").write_text("<PAMDataset/>")
            (tmp_path / "g.qml").write_text("theirs")
            assert (tmp_path / "g.tif.ovr").exists()
    with rasterio.open(path) as file:
        quarters = file.read(1, out_shape=(32, 32), resampling=Resampling.average)
    assert quarters.max() == 50 / 1e-4 / 4
    assert {each.name for each in tmp_path.iterdir()} == {"g.tif", "g.qml"}


def test_a_grid_has_a_system_whose_unit_is_a_length() -> None:
    assert density.projected(UTM, (WEST, NORTH, WEST + 10, NORTH + 10)) == UTM
    degrees = CRS.from_epsg(4326)
    assert density.projected(degrees, (-115.3, 36.1, -115.1, 36.2)).to_epsg() == 32611
    assert density.projected(degrees, (20.1, -34.1, 20.2, -34.0)).to_epsg() == 32734
    assert density.projected(degrees, (-10, 36, 20, 60)).to_epsg() == 6933
    web = CRS.from_epsg(3857)
    x, y = Transformer.from_crs(4326, 3857, always_xy=True).transform(-115.2, 36.1)
    assert density.projected(web, (x, y, x + 9, y + 9)).to_epsg() == 32611


def test_longitudes_reach_the_shorter_way_around_the_globe() -> None:
    degrees = CRS.from_epsg(4326)
    both = np.array([[179.9, -17, 179.95, -16], [-179.95, -18, -179.9, -17]])
    assert survey.extent(both, degrees) == pytest.approx((179.9, -18, 180.1, -16))
    mixed = np.array([[244.7, 36, 244.8, 37], [-115.4, 36, -115.3, 37]])
    assert survey.extent(mixed, degrees) == pytest.approx((-115.4, 36, -115.2, 37))
    world = np.array([[-180.0, -90, 180, 90]])
    assert survey.extent(world, degrees) == (-180, -90, 180, 90)
    assert survey.extent(np.array([[0.0, 0, 900, 1]]), UTM) == (0, 0, 900, 1)
    across = survey.moved((815000, 8118000, 825000, 8118100), CRS.from_epsg(32760), degrees)
    assert 179.9 < across[0] < 180 < across[2] < 180.1


@pytest.mark.parametrize(
    ("extent", "epsg"),
    [
        ((179.8, -17.3, 180.01, -17.0), 32760),
        ((179.99, -17.3, 180.2, -17.0), 32701),
        ((244.7, 36.1, 244.8, 36.2), 32611),
    ],
)
def test_a_grid_across_the_180th_meridian_lies_in_one_zone(
    extent: tuple[float, float, float, float], epsg: int
) -> None:
    degrees = CRS.from_epsg(4326)
    zone = density.projected(degrees, extent)
    assert zone.to_epsg() == epsg
    x0, _, x1, _ = survey.moved(extent, degrees, zone)
    assert x1 - x0 < 25_000


@pytest.mark.parametrize(("epsg", "made"), [(2154, 2154), (5880, 5880), (3413, 3413), (4326, 6933)])
def test_a_grid_of_nothing_found_nowhere_has_one_empty_cell(
    tmp_path: Path, epsg: int, made: int
) -> None:
    """The origin of a system may lie in another UTM zone, or beyond the ground."""
    counting = Counting(CountOptions(grid_m=100), CRS.from_epsg(epsg), None)
    with rasterio.open(counting.write(tmp_path / "c", ["car"])["grid"]) as file:
        assert file.crs.to_epsg() == made
        assert file.read().tolist() == [[[0]], [[0]]]


@pytest.mark.parametrize("size", [0, -5, float("nan"), 1e9])
def test_a_cell_of_no_size_is_refused(size: float) -> None:
    with pytest.raises(UsageError, match="cell of a grid must be over 0"):
        Grid(size, UTM)


def test_a_grid_of_too_many_cells_is_refused_before_the_search() -> None:
    with pytest.raises(UsageError, match="choose larger cells"):
        Grid(0.01, UTM, (WEST, NORTH - 1000, WEST + 1000, NORTH))


@pytest.mark.parametrize("epsg", [3857, 3395, 3832])
def test_a_grid_is_not_made_in_systems_that_stretch_areas(epsg: int) -> None:
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(9.0, 60.0)
    crs = CRS.from_epsg(epsg)
    assert density.projected(crs, (x, y, x + 900, y + 900)).to_epsg() == 32632
    for kept in (32632, 3035, 6933):
        x, y = Transformer.from_crs(4326, kept, always_xy=True).transform(9.0, 60.0)
        same = CRS.from_epsg(kept)
        assert density.projected(same, (x, y, x + 900, y + 900)) == same


def test_counting_in_a_sites_own_system(tmp_path: Path) -> None:
    site = CRS.from_wkt('LOCAL_CS["site grid",UNIT["metre",1]]')
    extent = (0.0, 0.0, 100.0, 100.0)
    counting = Counting(CountOptions(grid_m=50), site, extent)
    counting.add(
        places.Places(np.array([[10.0, 60.0]]), np.array(["car"], object), np.ones(1)), site
    )
    with rasterio.open(counting.write(tmp_path / "c")["grid"]) as file:
        assert file.read(1).tolist() == [[400, 0], [0, 0]]
    with pytest.raises(UsageError, match="H3 cells need longitude"):
        Counting(CountOptions(h3=8), site, extent)
    moon = CRS.from_user_input("IAU_2015:30100")
    with pytest.raises(UsageError, match="a grid needs metres"):
        Counting(CountOptions(grid_m=50), moon, extent)


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".parquet"])
def test_h3_cells_are_those_of_the_library(tmp_path: Path, suffix: str) -> None:
    found = scattered()
    cells = Hexagons(9)
    cells.add(found, UTM)
    path = tmp_path / f"c{suffix}"
    cells.write(path, NAMES)
    if suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
        columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
        shapes = shapely.from_wkb(columns.pop("geometry"))
    else:
        meta, shapes, columns = read(path)
        assert meta["crs"] == "EPSG:4326"
    lon, lat = Transformer.from_crs(UTM, 4326, always_xy=True).transform(*found.xy.T)
    by_hand = Counter(
        (h3.latlng_to_cell(y, x, 9), name) for x, y, name in zip(lon, lat, found.names, strict=True)
    )
    at = {cell: i for i, cell in enumerate(columns["h3"])}
    assert set(at) == {cell for cell, _ in by_hand}
    for (cell, name), count in by_hand.items():
        assert columns[f"n_{name}"][at[cell]] == count
    assert columns["n_total"].sum() == 400
    np.testing.assert_allclose(columns["per_km2"] * columns["km2"], columns["n_total"])
    for cell, index in at.items():
        y, x = h3.cell_to_latlng(cell)
        assert shapes[index].contains(shapely.Point(x, y))
        assert shapes[index].exterior.is_ccw


def test_h3_refusals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="from 0 to 15, not 16"):
        Hexagons(16)
    with pytest.raises(UsageError, match="must end with one of"):
        Hexagons(3).write(tmp_path / "c.csv")
    across = Hexagons(2)
    across.add(Places(np.array([[180.0, 0.0]]), np.array(["car"], object), np.ones(1)), CRS(4326))
    across.write(tmp_path / "c.gpkg")
    (shape,) = read(tmp_path / "c.gpkg")[1]
    assert shape.bounds[2] - shape.bounds[0] < 10
    monkeypatch.setitem(sys.modules, "h3", None)
    with pytest.raises(UsageError, match=r"rs-tinynet\[geo\]"):
        Hexagons(3)


@pytest.mark.parametrize("kind", ["gpkg", "fgb", "parquet", "shp", "geojson", "csv"])
def test_places_are_the_centres_of_any_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    low = rng.random((25, 2)) * 500
    boxes = np.concatenate([low, low + 8], axis=1).astype(np.float32)
    found = Detections(boxes, rng.random(25).astype(np.float32), rng.integers(0, 2, 25))
    head = Header(
        source="a.tif",
        class_names=NAMES,
        category_ids=(1, 2),
        crs=UTM,
        transform=Affine(0.4, 0.3, WEST, 0.3, -0.4, NORTH),
    )
    path = tmp_path / f"a!b{writers.SUFFIXES[kind]}"
    with writers.create(path, kind, head) as file:
        file.add(found)
    monkeypatch.setattr(places, "CHUNK", 10)
    crs = places.system(path)
    assert crs is not None
    parts = list(places.read(path))
    assert [len(part) for part in parts] == [10, 10, 5]
    xy = np.concatenate([part.xy for part in parts])
    back = np.stack(Transformer.from_crs(crs, UTM, always_xy=True).transform(*xy.T), axis=1)
    middles = (boxes[:, :2] + boxes[:, 2:]).astype(np.float64) / 2
    want = np.stack(
        [
            WEST + 0.4 * middles[:, 0] + 0.3 * middles[:, 1],
            NORTH + 0.3 * middles[:, 0] - 0.4 * middles[:, 1],
        ],
        axis=1,
    )
    order, expected = np.lexsort(back.T.round(2)), np.lexsort(want.T.round(2))
    tolerance = 0.02 if kind in ("geojson", "csv") else 1e-6
    np.testing.assert_allclose(back[order], want[expected], atol=tolerance)
    names = np.concatenate([part.names for part in parts])
    assert names[order].tolist() == np.array(NAMES, object)[found.labels][expected].tolist()
    assert len(parts[0].of(["car"], 0.5)) == int(
        ((parts[0].names == "car") & (parts[0].scores >= 0.5)).sum()
    )


def test_the_middle_of_a_box_cut_at_the_dateline_is_on_it() -> None:
    cut = shapely.MultiPolygon([shapely.box(179.9, 1, 180, 2), shapely.box(-180, 1, -179.7, 2)])
    np.testing.assert_allclose(
        places.middles(np.array([cut], object), degrees=True), [[-179.9, 1.5]]
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.gpkg", "no detections", "not a file of detections"),
        ("a.parquet", "no detections", "not GeoParquet"),
        ("a.csv", "a,b\n1,2\n", "has no column class_name, score"),
        ("a.csv", "class_name,score\ncar,1\n", "columns lon and lat"),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "has no column"),
    ],
)
def test_files_of_something_else_are_refused(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        places.system(tmp_path / name), list(places.read(tmp_path / name))


def feature(*, name: str = "car", score: Any = 0.5, x: float = WEST) -> dict[str, Any]:
    ring = [[x, NORTH], [WEST + 9, NORTH], [WEST + 9, NORTH + 9], [x, NORTH]]
    return {
        "type": "Feature",
        "properties": {"class_name": name, "score": score},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }


@pytest.mark.filterwarnings("ignore:Non closed ring:RuntimeWarning")
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"score": "high"}, "object 2 has the score 'high': give it a number"),
        ({"name": "f\u00e9rry"}, r"line \d+ is not UTF-8 \(byte 0xe9\)"),
        ({"x": math.inf}, "object 2 lies nowhere"),
        ({"x": 1e308}, "object 2 lies nowhere"),
    ],
)
def test_features_that_cannot_be_counted_are_named(
    tmp_path: Path, wrong: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "CHUNK", 1)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    found = {"type": "FeatureCollection", "crs": crs, "features": [feature(), feature(**wrong)]}
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="latin-1")
    with pytest.raises(DataError, match=words) as caught:
        list(places.read(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("car,high,9,50", "object 2 has the score 'high'"),
        ("x" * 200_000, "line 3: not a row of a CSV"),
        ("car,0.5,9,200", "object 2 lies nowhere"),
    ],
)
def test_rows_that_cannot_be_counted_are_named(
    tmp_path: Path, row: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "CHUNK", 1)
    (tmp_path / "a.csv").write_text(f"class_name,score,lon,lat\ncar,0.5,9,50\n{row}\n")
    with pytest.raises(DataError, match=words):
        list(places.read(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("score", "geometry", "geo", "words"),
    [
        ([0.5, 0.5], [b"x", b"y"], {"crs": None}, "object 1 lies nowhere"),
        ([0.5, 0.5], [1, 2], {"crs": None}, "its geometry is no WKB"),
        (["0.5", "high"], None, {"crs": None}, "object 2 has the score 'high'"),
        ([0.5, 0.5], None, {"crs": {"a": 1}}, "not GeoParquet that can be read"),
        ([0.5, 0.5], None, 5, "not GeoParquet that can be read"),
    ],
)
def test_geoparquet_that_cannot_be_counted_says_why(
    tmp_path: Path, score: list[Any], geometry: list[Any] | None, geo: Any, words: str
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    wkb = [shapely.to_wkb(box(0, 0, 1, 1))] * 2
    table = pyarrow.table(
        {"class_name": ["car", "car"], "score": score, "geometry": geometry or wkb}
    )
    metadata = {b"geo": json.dumps({"columns": {"geometry": geo}}).encode()}
    path = tmp_path / "a.parquet"
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(DataError, match=words):
        places.system(path), list(places.read(path))


def test_damaged_geoparquet_and_folders_are_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    wkb = [shapely.to_wkb(box(0, 0, 1, 1))] * 2000
    table = pyarrow.table({"class_name": ["car"] * 2000, "score": [0.5] * 2000, "geometry": wkb})
    metadata = {b"geo": json.dumps({"columns": {"geometry": {"crs": None}}}).encode()}
    path = tmp_path / "a.parquet"
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + b"\xff" * 200 + whole[220:])
    with pytest.raises(DataError, match=r"a\.parquet: damaged"):
        list(places.read(path))
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(DataError, match=r"a\.csv: is a folder"):
        list(places.read(tmp_path / "a.csv"))


def test_a_file_of_no_known_kind_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        places.system(tmp_path / "a.gpkg")
    (tmp_path / "a.dxf").touch()
    with pytest.raises(UsageError, match=r"end with \.gpkg"):
        places.system(tmp_path / "a.dxf")


def test_bounds_move_with_their_edges() -> None:
    there = survey.moved((WEST, NORTH, WEST + 9e4, NORTH + 9e4), UTM, CRS.from_epsg(4326))
    back = survey.moved(there, CRS.from_epsg(4326), UTM)
    assert back[0] <= WEST
    assert back[3] >= NORTH + 9e4


@pytest.mark.parametrize("by", [{"grid_m": 30.0}, {"h3": 9}])
def test_objects_outside_of_their_own_system_are_named(by: dict[str, Any]) -> None:
    counting = Counting(CountOptions(**by), UTM, None)
    lost = Places(np.array([[1e13, 0.0]]), np.array(["ship"], object), np.array([0.5]))
    with pytest.raises(DataError, match=r"a\.gpkg: objects lie outside of their coordinate system"):
        counting.add(lost, CRS.from_epsg(32612), source="a.gpkg")


def test_one_object_beyond_the_map_does_not_cost_the_others(tmp_path: Path) -> None:
    disc = CRS.from_proj4("+proj=geos +h=35786023 +lon_0=0 +sweep=y +datum=WGS84")
    globe = write_zones(tmp_path / "globe.gpkg", [shapely.box(-180, -90, 180, 90)], crs="EPSG:4326")
    counting = Counting(CountOptions(zones=globe, h3=2), disc, None)
    xy = np.array([[0, 0], [9e6, 0], [1e5, 1e5]], np.float64)
    counting.add(Places(xy, np.array(["ship", "ship", "car"], object), np.ones(3)), disc)
    assert (counting.count, counting.unplaced) == (2, 1)
    assert counting.by_class == {"ship": 1, "car": 1}
    assert counting.zones is not None
    assert counting.zones.outside == 0
    # Of a scene whose middle is on the ground even one that finds nothing else.
    counting.add(Places(xy[1:2], np.array(["ship"], object), np.ones(1)), disc)
    assert (counting.count, counting.unplaced) == (2, 2)


def test_a_grid_that_goes_beyond_the_ground_is_refused() -> None:
    disc = CRS.from_proj4("+proj=geos +h=35786023 +lon_0=0 +sweep=y +datum=WGS84")
    with pytest.raises(UsageError, match="goes beyond the ground"):
        Counting(CountOptions(grid_m=1000.0), disc, (-5.5e6, -5.5e6, 5.5e6, 5.5e6))
