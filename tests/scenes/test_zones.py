"""Counts stand beside whatever attributes the zones have, and whatever their shapes."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from pyproj import CRS

from rstinynet.errors import DataError, UsageError
from rstinynet.scenes.places import Places
from rstinynet.scenes.zones import Zones

WGS84 = CRS.from_epsg(4326)
SQUARE = [[9.0, 50.0], [9.1, 50.0], [9.1, 50.1], [9.0, 50.1], [9.0, 50.0]]


def write_zones(path: Path, rings: list[Any], properties: list[dict[str, Any]]) -> Path:
    features = [
        {
            "type": "Feature",
            "properties": each,
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        }
        for ring, each in zip(rings, properties, strict=True)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def count(path: Path, out: Path) -> None:
    zones = Zones(path)
    zones.add(Places(np.array([[9.05, 50.05]]), np.array(["ship"], object), np.ones(1)), WGS84)
    zones.write(out, ["ship"])


def counted(path: Path, out: Path) -> dict[str, list[Any]]:
    count(path, out)
    meta, _, _, columns = pyogrio.raw.read(out)
    return dict(zip(meta["fields"], (column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson", ".FGB"])
@pytest.mark.parametrize(
    ("properties", "kept"),
    [
        ([{"fid": 1}, {"fid": 1}], {"fid": [1, 1]}),
        ([{"fid": 7}, {"fid": 9}], {"fid": [7, 9]}),
        ([{"FID": "x"}, {"FID": "y"}], {"FID": ["x", "y"]}),
        ([{"fid": 1.5}, {"fid": 2.5}], {"fid": [1.5, 2.5]}),
        ([{"fid": None}, {"fid": None}], {"fid": [None, None]}),
        ([{"Geom": "x", "fid": 2}, {"Geom": "y", "fid": 2}], {"Geom": ["x", "y"], "fid": [2, 2]}),
        ([{"Name": "a", "name": "b"}] * 2, {"Name": ["a", "a"], "name_2": ["b", "b"]}),
    ],
)
def test_attributes_of_any_name_are_kept(
    tmp_path: Path, suffix: str, properties: list[dict[str, Any]], kept: dict[str, list[Any]]
) -> None:
    path = write_zones(tmp_path / "z.geojson", [SQUARE, SQUARE], properties)
    columns = counted(path, tmp_path / f"out{suffix}")
    assert columns["n_ship"] == [1, 1]
    assert {name: columns[name] for name in kept} == kept


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson"])
def test_a_zone_without_extent_has_no_area_and_no_objects(tmp_path: Path, suffix: str) -> None:
    rings = [SQUARE, [[9.0, 50.0]] * 4]
    path = write_zones(tmp_path / "z.geojson", rings, [{"name": "a"}, {"name": "b"}])
    columns = counted(path, tmp_path / f"out{suffix}")
    assert columns["n_total"] == [1, 0]
    assert columns["km2"][1] == 0 < columns["km2"][0]


def rows(path: Path) -> list[dict[str, Any]]:
    """What the GeoPackage's table of zones stores, without the shapes."""
    with closing(sqlite3.connect(path)) as database:
        table = database.execute("SELECT * FROM zones ORDER BY fid")
        names = [column[0] for column in table.description]
        return [
            {name: value for name, value in zip(names, row, strict=True) if name != "geom"}
            for row in table
        ]


BIG = 9007199254740993
"""The least whole number that a float cannot hold."""


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson"])
def test_values_are_those_of_the_zones(tmp_path: Path, suffix: str) -> None:
    first = {
        "key": BIG,
        "at": "2026-01-02T03:04:05+02:00",
        "day": "2026-01-02",
        "yes": True,
        "part": 0.1,
        "tags": ["a", "b"],
        "keys": [BIG, 1],
        "more": {"k": [1, None]},
        "text": "K\u00f6ln",
    }
    none = dict.fromkeys(first)
    path = write_zones(tmp_path / "z.geojson", [SQUARE, SQUARE], [first, none])
    out = tmp_path / f"out{suffix}"
    count(path, out)
    if suffix == ".geojson":
        kept = [feature["properties"] for feature in json.loads(out.read_text())["features"]]
        assert [{name: row[name] for name in first} for row in kept] == [first, none]
        return
    if suffix == ".gpkg":  # which has no lists: GDAL and QGIS know that this text is JSON
        stored, empty = rows(out)
        assert [stored[name] for name in ("key", "at", "day", "yes", "part", "text")] == [
            BIG, first["at"], first["day"], 1, 0.1, first["text"],
        ]  # fmt: skip
        assert [json.loads(stored[name]) for name in ("tags", "keys", "more")] == [
            first["tags"], first["keys"], first["more"],
        ]  # fmt: skip
        assert {empty[name] for name in first} == {None}
        return
    meta, _, _, columns = pyogrio.raw.read(out, datetime_as_string=True)
    read = dict(zip(meta["fields"], columns, strict=True))
    assert read["at"].tolist() == [first["at"], None]
    table = pyogrio.read_arrow(out)[1]
    assert table["key"].to_pylist() == [BIG, None]
    assert table["yes"].to_pylist() == [True, None]
    assert json.loads(table["keys"][0].as_py()) == first["keys"]


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson"])
def test_attributes_may_have_the_names_that_arrow_gives(tmp_path: Path, suffix: str) -> None:
    own = {"wkb_geometry": "x", "OGC_FID": 5, "ogc_fid2": 6}
    path = write_zones(tmp_path / "z.geojson", [SQUARE], [own])
    columns = counted(path, tmp_path / f"out{suffix}")
    number = "OGC_FID" if suffix == ".gpkg" else "OGC_FID_2"
    assert [columns[name] for name in ("wkb_geometry", number, "ogc_fid2")] == [["x"], [5], [6]]


@pytest.mark.parametrize("encoding", ["UTF-8", "ISO-8859-1"])
@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("name", ["name", "n\u00e4me"])
def test_a_shapefile_may_not_say_its_encoding(
    tmp_path: Path, encoding: str, said: bool, name: str
) -> None:
    pyogrio.raw.write(
        str(tmp_path / "z.shp"),
        shapely.to_wkb(np.array([shapely.Polygon(SQUARE)])),
        [np.array(["K\u00f6ln"], object)],
        np.array([name], object),
        geometry_type="Polygon",
        crs="EPSG:4326",
        encoding=encoding,
    )
    if not said:
        (tmp_path / "z.cpg").unlink()
    assert counted(tmp_path / "z.shp", tmp_path / "out.gpkg")[name] == ["K\u00f6ln"]


def test_a_list_of_allowed_values_is_not_named_where_it_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "z.gpkg"
    shapes = shapely.to_wkb(np.array([shapely.Polygon(SQUARE)]))
    place = {"geometry_type": "Polygon", "crs": "EPSG:4326", "layer": "z"}
    pyogrio.raw.write(path, shapes, [np.array([3])], np.array(["code"], object), **place)
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(DOMAIN)
    count(path, tmp_path / "out.gpkg")
    (row,) = rows(tmp_path / "out.gpkg")
    assert row["code"] == 3
    with closing(sqlite3.connect(tmp_path / "out.gpkg")) as database:
        described = database.execute("SELECT name, constraint_name FROM gpkg_data_columns")
        assert described.fetchall() == [("kind of zone", None)]


DOMAIN = """
CREATE TABLE gpkg_data_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL, name TEXT,
    title TEXT, description TEXT, mime_type TEXT, constraint_name TEXT,
    CONSTRAINT pk_gdc PRIMARY KEY (table_name, column_name));
CREATE TABLE gpkg_data_column_constraints (constraint_name TEXT NOT NULL,
    constraint_type TEXT NOT NULL, value TEXT, min NUMERIC, min_is_inclusive BOOLEAN,
    max NUMERIC, max_is_inclusive BOOLEAN, description TEXT);
INSERT INTO gpkg_extensions VALUES
    ('gpkg_data_columns', NULL, 'gpkg_schema', 'http://www.geopackage.org/spec/', 'read-write'),
    ('gpkg_data_column_constraints', NULL, 'gpkg_schema', 'http://www.geopackage.org/spec/',
     'read-write');
INSERT INTO gpkg_data_columns VALUES ('z', 'code', 'kind of zone', NULL, NULL, NULL, 'kinds');
INSERT INTO gpkg_data_column_constraints VALUES
    ('kinds', 'enum', '3', NULL, NULL, NULL, NULL, 'three');
"""


def test_without_pyarrow_zones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zones(tmp_path / "z.geojson", [SQUARE], [{"name": "a"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"zones need pyarrow: pip install 'rs-tinynet\[geo\]'"):
        Zones(path)


WEST, EAST = shapely.box(9.0, 50.0, 9.1, 50.1), shapely.box(9.2, 50.0, 9.3, 50.1)
SEVERAL: list[Any] = [WEST, shapely.MultiPolygon([WEST, EAST]), shapely.Polygon(), None]


def write_layer(path: Path, name: str, shapes: list[Any], kind: str, **options: Any) -> None:
    pyogrio.raw.write(
        str(path),
        shapely.to_wkb(np.array(shapes, object)),
        [np.arange(len(shapes))],
        np.array(["n"], object),
        geometry_type=kind,
        crs="EPSG:4326",
        layer=name,
        **options,
    )


@pytest.mark.parametrize("out", [".gpkg", ".fgb", ".geojson"])
@pytest.mark.parametrize("flat", [True, False])
def test_a_shapefiles_polygons_of_one_and_of_several_parts_become_of_one_kind(
    tmp_path: Path, flat: bool, out: str
) -> None:
    shapes = SEVERAL if flat else [each and shapely.force_3d(each, 7) for each in SEVERAL]
    write_layer(tmp_path / "z.shp", "z", shapes, "Polygon" if flat else "Polygon Z")
    path = tmp_path / f"out{out}"
    assert counted(tmp_path / "z.shp", path)["n_ship"] == [1, 1, 0, 0]
    meta, _, wkb, _ = pyogrio.raw.read(path)
    made = shapely.from_wkb(wkb)
    assert meta["geometry_type"] == ("MultiPolygon" if flat else "MultiPolygon Z")
    assert set(shapely.get_type_id(made[:2])) == {6}
    assert shapely.get_num_geometries(made[:2]).tolist() == [1, 2]
    assert (shapely.get_coordinates(made, include_z=not flat)[:, 2:] == 7).all()
    for old, new in zip(shapes[:2], made[:2], strict=True):
        assert shapely.equals(old, new)
    assert all(each is None or each.is_empty for each in made[2:])


def test_polygons_of_one_part_stay_polygons(tmp_path: Path) -> None:
    write_layer(tmp_path / "z.shp", "z", [WEST, EAST], "Polygon")
    counted(tmp_path / "z.shp", tmp_path / "out.gpkg")
    assert pyogrio.read_info(tmp_path / "out.gpkg")["geometry_type"] == "Polygon"


def test_zones_are_the_only_layer_with_polygons(tmp_path: Path) -> None:
    path = tmp_path / "z.gpkg"
    write_layer(path, "places", [shapely.Point(9, 50)], "Point")
    write_layer(path, "districts", [WEST, EAST], "Polygon", append=True)
    assert counted(path, tmp_path / "out.gpkg")["n_ship"] == [1, 0]
    write_layer(path, "parks", [WEST], "MultiPolygon", append=True)
    with pytest.raises(
        DataError, match=r"there are places \(Point\), districts \(Polygon\), parks \(MultiPolyg"
    ):
        Zones(path)


@pytest.mark.parametrize("kind", ["Polygon", "Unknown"])
def test_zones_are_the_first_layer_where_that_has_polygons(tmp_path: Path, kind: str) -> None:
    write_layer(tmp_path / "z.gpkg", "districts", [WEST, EAST], kind)
    write_layer(tmp_path / "z.gpkg", "parks", [EAST], "Polygon", append=True)
    assert counted(tmp_path / "z.gpkg", tmp_path / "out.gpkg")["n_ship"] == [1, 0]
