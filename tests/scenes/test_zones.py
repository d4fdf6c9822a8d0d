"""Counts stand beside whatever attributes the zones have, and whatever their shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
from pyproj import CRS

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


def counted(path: Path, out: Path) -> dict[str, list[Any]]:
    zones = Zones(path)
    zones.add(Places(np.array([[9.05, 50.05]]), np.array(["ship"], object), np.ones(1)), WGS84)
    zones.write(out, ["ship"])
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
