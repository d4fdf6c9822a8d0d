"""`rstinynet count` on files of detections, and the same counts inside `predict`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import CRS

from rstinynet.cli.main import run
from rstinynet.detections import Detections
from rstinynet.scenes import writers
from rstinynet.scenes.features import Header


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """Three cars and a ship, 10 m apart along x."""
    x = np.arange(4, dtype=np.float32) * 20
    boxes = np.stack([x, x * 0, x + 8, x * 0 + 8], axis=1)
    scores = np.array([0.9, 0.8, 0.3, 0.7], np.float32)
    head = Header(
        source="a.tif",
        class_names=("car", "ship"),
        category_ids=(1, 2),
        crs=CRS.from_epsg(32611),
        transform=Affine(0.5, 0, 664000, 0, -0.5, 4000000),
    )
    with writers.create(tmp_path / "found.gpkg", "gpkg", head) as file:
        file.add(Detections(boxes, scores, np.array([0, 0, 0, 1])))
    return tmp_path / "found.gpkg"


@pytest.fixture
def zones(tmp_path: Path) -> Path:
    """The west half, with two cars, and the whole."""
    shapes = np.array(
        [shapely.box(664000, 3999900, 664020, 4e6), shapely.box(664000, 3999900, 664100, 4e6)]
    )
    path = tmp_path / "zones.geojson"
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(shapes),
        field_data=[np.array(["west", "all"], object)],
        fields=np.array(["name"], object),
        geometry_type="Polygon",
        crs="EPSG:32611",
        RFC7946="NO",
    )
    return path


def test_all_three_counts(
    found: Path, zones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["count", str(found), "--zones", str(zones), "--grid", "10", "--h3", "8", "--json"]
    assert run(arguments) == 0
    shown = capsys.readouterr()
    said = json.loads(shown.out)
    assert said["count"] == 4
    assert said["counts"] == {"car": 3, "ship": 1}
    assert (said["zones"], said["outside"]) == (2, 0)
    assert "counted 4 objects, 0 of them in none of the 2 zones" in shown.err
    names = {kind: Path(path).name for kind, path in said["files"].items()}
    assert names == {"zones": "found_zones.gpkg", "grid": "found_grid.tif", "h3": "found_h3.gpkg"}
    meta, _, _, columns = pyogrio.raw.read(said["files"]["zones"])
    table = dict(zip(meta["fields"], (c.tolist() for c in columns), strict=True))
    assert (table["n_car"], table["n_ship"], table["n_total"]) == ([2, 3], [0, 1], [2, 4])
    with rasterio.open(said["files"]["grid"]) as file:
        assert file.read(1).tolist() == [[10000.0] * 4]
        assert file.read(3).tolist() == [[0, 0, 0, 10000.0]]


def test_classes_and_confidence_choose(
    found: Path, zones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--classes", "car,plane", "--conf", "0.5", "--out", str(tmp_path / "o"), "--json"]
    assert run(["count", str(found), "--zones", str(zones), *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["counts"] == {"car": 2}
    meta, _, _, columns = pyogrio.raw.read(said["files"]["zones"])
    table = dict(zip(meta["fields"], (c.tolist() for c in columns), strict=True))
    assert (table["n_car"], table["n_plane"]) == ([2, 2], [0, 0])
    assert Path(said["files"]["zones"]).parent == tmp_path / "o"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "say what to count by"),
        (["--grid", "0"], 2, "must be over 0"),
        (["--h3", "99"], 2, "from 0 to 15"),
        (["--conf", "2", "--h3", "3"], 2, "--conf must lie"),
        (["--h3", "3", "--out", __file__], 2, "is a file, not a folder"),
        (["--zones", "missing.gpkg"], 3, "no such file of zones"),
    ],
)
def test_refusals(
    found: Path,
    arguments: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["count", str(found), *arguments]) == code
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("bom.csv", "\ufeffclass_name,score,lon,lat\ncar,0.5,9,50\n", "counted 1 objects"),
        ("nan.csv", "class_name,score,lon,lat\ncar,0.5,nan,50\n", "object 1 lies nowhere"),
        ("far.csv", "class_name,score,lon,lat\ncar,0.5,9,95\n", "object 1 lies nowhere"),
        ("half.csv", "class_name,score,lon,lat\ncar,0.5,9,\n", "object 1 lies nowhere"),
        ("text.csv", "class_name,score,lon,lat\ncar,0.5,east,50\n", "hold degrees, not text"),
        ("nameless.csv", "class_name,score,lon,lat\n,0.5,9,50\n", "has no class_name"),
    ],
)
@pytest.mark.parametrize("by", [["--grid", "100"], ["--h3", "8"]])
def test_tables_from_elsewhere(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    words: str,
    by: list[str],
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    code = 0 if "counted" in words else 3
    assert run(["count", str(tmp_path / name), "--out", str(tmp_path / "o"), *by]) == code
    assert words in " ".join(capsys.readouterr().err.split())


def test_objects_on_both_sides_of_the_180th_meridian_lie_on_one_grid(tmp_path: Path) -> None:
    rows = ["class_name,score,lon,lat", "ship,.9,179.95,-17.0", "ship,.9,-179.94,-17.1"]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    assert run(["count", str(tmp_path / "a.csv"), "--grid", "100"]) == 0
    with rasterio.open(tmp_path / "a_grid.tif") as file:
        assert file.crs.to_epsg() == 32701
        assert file.width < 130
        assert file.read(1).sum() == pytest.approx(200)


@pytest.mark.filterwarnings("ignore:.*lie beyond what the coordinate system maps:UserWarning")
@pytest.mark.parametrize("kind", ["csv", "geojson", "gpkg", "parquet"])
def test_objects_beyond_the_map_are_said_and_the_others_counted(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = Header(
        source="scene.tif",
        class_names=("ship",),
        category_ids=(1,),
        crs=CRS("+proj=geos +h=35785831 +lon_0=0 +sweep=y"),
        transform=Affine(1000, 0, 5_000_000, 0, -1000, 50_000),
    )
    boxes = np.array([[20, 40, 40, 60], [800, 40, 820, 60]], np.float32)  # on the disk, and off it
    path = tmp_path / f"a{writers.SUFFIXES[kind]}"
    with writers.create(path, kind, head, crs=CRS.from_epsg(4326)) as file:
        file.add(Detections(boxes, np.ones(2, np.float32), np.zeros(2, np.int64)))
    assert run(["count", str(path), "--grid", "1000", "--h3", "3", "--json"]) == 0
    shown = capsys.readouterr()
    said = json.loads(shown.out)
    assert (said["count"], said["unplaced"], said["counts"]) == (1, 1, {"ship": 1})
    words = " ".join(shown.err.split())
    assert "counted 1 objects" in words
    assert "1 more are not counted" in words


def test_a_file_of_objects_without_a_place_counts_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = {"type": "Feature", "properties": {"class_name": "car", "score": 1}, "geometry": None}
    whole = {"type": "FeatureCollection", "features": [none, none]}
    (tmp_path / "a.geojson").write_text(json.dumps(whole))
    (tmp_path / "a.csv").write_text("class_name,score,lon,lat\ncar,1,,\ncar,1,,\n")
    for name in ("a.geojson", "a.csv"):
        assert run(["count", str(tmp_path / name), "--grid", "100"]) == 0
        assert "counted 0 objects" in (words := " ".join(capsys.readouterr().err.split()))
        assert "2 more are not counted" in words


def test_files_that_cannot_be_counted_say_why(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin.csv").write_bytes("class_name,score,lon,lat\nférry,1,2,3\n".encode("latin1"))
    (tmp_path / "zones.csv").write_text("name\nwest\n")
    shapes = np.array([shapely.Polygon(), shapely.box(0, 0, 1, 1)], object)
    pyogrio.raw.write(
        str(tmp_path / "holes.gpkg"),
        geometry=shapely.to_wkb(shapes),
        field_data=[np.array(["car", "car"], object), np.array([0.5, 0.5])],
        fields=np.array(["class_name", "score"], object),
        geometry_type="Polygon",
        crs="EPSG:32611",
        layer="detections",
        driver="GPKG",
    )
    for arguments, words in (
        (["latin.csv", "--h3", "8"], "text in UTF-8"),
        (["holes.gpkg", "--grid", "10"], "object 1 lies nowhere"),
        ([found.name, "--zones", str(tmp_path / "zones.csv")], "a table without any"),
    ):
        assert run(["count", str(tmp_path / arguments[0]), *arguments[1:]]) == 3
        assert words in " ".join(capsys.readouterr().err.split())


def test_a_class_that_is_not_there_is_said(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["count", str(found), "--grid", "10", "--out", str(tmp_path / "o")]
    assert run([*arguments, "--classes", "cra,ship"]) == 0
    assert "has no object of cra; it has car, ship" in " ".join(capsys.readouterr().err.split())
    assert run([*arguments, "--classes", ","]) == 2


def test_objects_without_a_score_count_at_no_confidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("class_name,score,lon,lat\ncar,nan,9,50\ncar,0.5,9,50\n")
    for conf, count in (("0", 2), ("0.1", 1)):
        arguments = ["--conf", conf, "--grid", "100", "--out", str(tmp_path / "o")]
        assert run(["count", str(tmp_path / "a.csv"), *arguments]) == 0
        assert f"counted {count} objects" in " ".join(capsys.readouterr().err.split())
