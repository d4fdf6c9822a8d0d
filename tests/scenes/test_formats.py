"""Every format by every kind of scene, against rasterio, pyproj and what other programs read."""

from __future__ import annotations

import csv
import json
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio.transform
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer

from rstinynet.detections import Detections
from rstinynet.errors import UsageError
from rstinynet.files import unparsed
from rstinynet.scenes import features, georef, writers
from rstinynet.scenes.features import Header

LOCATED = ("gpkg", "fgb", "parquet", "shp")
PLACES = {
    "utm": ("EPSG:32611", Affine(0.5, 0, 664000, 0, -0.5, 4000000)),
    "rotated": ("EPSG:32611", Affine(0.4, 0.3, 664000, 0.3, -0.4, 4000000)),
    "south up": ("EPSG:32733", Affine(0.3, 0, 300000, 0, 0.3, 6200000)),
    "geographic": ("EPSG:4326", Affine(2.7e-6, 0, -115.23, 0, -2.7e-6, 36.14)),
    "feet": ("EPSG:2229", Affine(1, 0, 6480000, 0, -1, 1840000)),
}


def header(place: str | None = "utm", **changes: Any) -> Header:
    crs, transform = (None, None) if place is None else PLACES[place]
    known: dict[str, Any] = {
        "source": "scene.tif",
        "class_names": ("car", "ship & <boat>"),
        "category_ids": (9, 3),
        "crs": None if crs is None else CRS(crs),
        "transform": transform,
    }
    return Header(**known | changes)


def detections(n: int, *, seed: int = 1, side: float = 900) -> Detections:
    rng = np.random.default_rng(seed)
    low = rng.random((n, 2)) * side
    boxes = np.concatenate([low, low + rng.uniform(2, 20, (n, 2))], axis=1)
    return Detections(
        boxes.astype(np.float32), rng.random(n).astype(np.float32), rng.integers(0, 2, n)
    )


def written(
    folder: Path, kind: str, head: Header, found: Detections, **options: Any
) -> tuple[Path, dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
    """The file, OGR's description of it, its polygons and its columns."""
    path = folder / f"a{writers.SUFFIXES[kind]}"
    with writers.create(path, kind, head, **options) as file:
        file.add(found)
    if kind == "parquet":
        return path, *read_parquet(path)
    meta, _, geometry, values = pyogrio.raw.read(path, layer=0)
    columns = dict(zip(meta["fields"].tolist(), values, strict=True))
    return path, meta, shapely.from_wkb(geometry), columns


def to_pixels(transform: Affine, ground: np.ndarray) -> np.ndarray:
    """Points (N, 2) of the ground in pixels, by rasterio."""
    row, column = rasterio.transform.rowcol(transform, *ground.T, op=lambda value: value)
    return np.stack([column, row], axis=1)


def read_parquet(path: Path) -> tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    geo = json.loads(pyarrow.parquet.read_metadata(path).metadata[b"geo"])
    assert geo["primary_column"] == "geometry"
    assert geo["version"] == "1.1.0"
    meta = geo["columns"]["geometry"]
    assert meta["encoding"] == "WKB"
    in_schema = json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]
    assert in_schema == {name: value for name, value in meta.items() if name != "bbox"}
    if meta["crs"] is not None:
        meta["crs"] = ":".join(CRS.from_json_dict(meta["crs"]).to_authority())
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    return meta, shapely.from_wkb(columns.pop("geometry")), columns


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(0, 60000, width=32),
    y=st.floats(0, 60000, width=32),
    size=st.floats(0.5, 300, width=32),
    angle=st.floats(-180, 180),
    pixel=st.floats(0.05, 30),
    flip=st.sampled_from([1, -1]),
)
def test_any_affine_is_that_of_rasterio_to_a_millionth_of_a_pixel(
    x: float, y: float, size: float, angle: float, pixel: float, flip: int
) -> None:
    across, down = pixel * np.cos(np.radians(angle)), pixel * np.sin(np.radians(angle))
    transform = Affine(across, -down * flip, 5e5, down, across * flip, 4e6)
    boxes = np.array([[x, y, x + size, y + size]], np.float32)
    found = Detections(boxes, np.ones(1, np.float32), np.zeros(1, np.int64))
    head = header(transform=transform)
    shape = features.shapes(found, head, head.ground_crs)[0]
    assert shape.exterior.is_ccw
    ground = np.array(shape.exterior.coords[:4])
    pixels = to_pixels(transform, ground)
    want = {(boxes[0, i], boxes[0, j]) for i in (0, 2) for j in (1, 3)}
    for corner in want:
        assert np.abs(pixels - corner).max(axis=1).min() < 1e-6 + 1e-8 / pixel


@settings(max_examples=40, deadline=None)
@given(lon=st.floats(-179, 179), lat=st.floats(-80, 80), target=st.sampled_from([4326, 3857]))
def test_a_placed_detection_reads_back_through_pyproj_to_its_pixel(
    lon: float, lat: float, target: int
) -> None:
    """From an object's longitude and latitude to a pixel, to the ground again, to the pixel."""
    zone = 32600 + int((lon + 180) // 6) % 60 + 1 + (100 if lat < 0 else 0)
    crs = CRS.from_epsg(zone)
    east, north = Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
    transform = Affine(0.5, 0, round(east) - 200, 0, -0.5, round(north) + 300)
    x, y = to_pixels(transform, np.array([[east, north]]))[0]
    box = np.array([[x - 4, y - 4, x + 4, y + 4]], np.float32)
    found = Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64))
    head = header(crs=crs, transform=transform)
    shape = features.shapes(found, head, CRS.from_epsg(target))[0]
    corners = np.array(shape.exterior.coords[:4])
    back = Transformer.from_crs(target, crs, always_xy=True).transform(*corners.T)
    pixels = to_pixels(transform, np.stack(back, axis=1))
    np.testing.assert_allclose(pixels.min(axis=0), box[0, :2], atol=1e-6)
    np.testing.assert_allclose(pixels.max(axis=0), box[0, 2:], atol=1e-6)
    # What was placed is where it was placed: float32 boxes hold 2**-14 of a pixel here.
    np.testing.assert_allclose(pixels.mean(axis=0), (x, y), atol=1e-3)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", LOCATED)
def test_other_programs_read_place_extent_and_attributes(
    kind: str, place: str, tmp_path: Path
) -> None:
    head, found = header(place), detections(30)
    path, meta, shapes, columns = written(tmp_path, kind, head, found)
    assert meta["crs"] == PLACES[place][0]
    order = np.argsort(columns["det_id"])
    want = features.columns(found, head)
    assert list(columns) == list(want)
    assert max(map(len, columns)) <= 10
    for name, values in want.items():
        if values.dtype == object:
            assert columns[name][order].tolist() == values.tolist()
        else:
            np.testing.assert_allclose(columns[name][order], values, rtol=1e-12)
    pixels = to_pixels(head.transform, shapely.get_coordinates(shapes[order])).reshape(-1, 5, 2)
    boxes = np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)
    np.testing.assert_allclose(boxes, found.boxes, atol=1e-6)
    info = {} if kind == "parquet" else pyogrio.read_info(path, layer=0, force_total_bounds=True)
    extent = meta["bbox"] if kind == "parquet" else info["total_bounds"]
    np.testing.assert_allclose(
        extent, shapely.total_bounds(features.shapes(found, head, head.crs)), rtol=1e-12
    )


@pytest.mark.parametrize("kind", LOCATED)
@pytest.mark.parametrize("place", ["geographic", None])
def test_nothing_found_keeps_schema_and_system(
    kind: str, place: str | None, tmp_path: Path
) -> None:
    head = header(place)
    with warnings_of(place):
        _, meta, shapes, columns = written(tmp_path, kind, head, Detections.empty())
    assert len(shapes) == 0
    assert list(columns) == list(features.columns(Detections.empty(), head))
    assert meta["crs"] == (None if place is None else "EPSG:4326")


def warnings_of(place: str | None) -> Any:
    from contextlib import nullcontext

    return pytest.warns(UserWarning, match="in pixels") if place is None else nullcontext()


@pytest.mark.parametrize("kind", LOCATED)
def test_without_a_system_positions_are_pixels(kind: str, tmp_path: Path) -> None:
    found = detections(3)
    with pytest.warns(UserWarning, match="in pixels"):
        _, _, shapes, columns = written(tmp_path, kind, header(None), found)
    order = np.argsort(columns["det_id"])
    np.testing.assert_array_equal(shapely.bounds(shapes[order]), found.boxes)
    assert np.isnan(columns["width_m"].astype(float)).all()


@pytest.mark.parametrize("kind", writers.SUFFIXES)
def test_chunks_make_the_file_that_one_piece_makes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, found = header(), detections(50)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder in (whole, pieces):
        folder.mkdir()
    first = tmp_path / "whole" / f"a{writers.SUFFIXES[kind]}"
    with writers.create(first, kind, head) as file:
        file.add(found)
    monkeypatch.setattr(writers, "CHUNK", 7)
    second = tmp_path / "pieces" / f"a{writers.SUFFIXES[kind]}"
    with writers.create(second, kind, head) as file:
        for start in range(0, 50, 5):
            file.add(found[start : start + 5])
    if kind in ("geojson", "coco", "csv"):
        assert first.read_text() == second.read_text()
        return
    read = read_parquet if kind == "parquet" else read_ogr
    (_, a, left), (_, b, right) = read(first), read(second)
    in_a, in_b = np.argsort(left["det_id"]), np.argsort(right["det_id"])
    assert shapely.equals_exact(a[in_a], b[in_b]).all()
    assert all(left[name][in_a].tolist() == right[name][in_b].tolist() for name in left)
    assert sorted(left["det_id"]) == list(range(1, 51))


def read_ogr(path: Path) -> tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
    meta, _, geometry, values = pyogrio.raw.read(path, layer=0)
    return meta, shapely.from_wkb(geometry), dict(zip(meta["fields"], values, strict=True))


@pytest.mark.parametrize("name", ["hey!you", "c:d", "a;b", "q?x", "zip:x"])
def test_folders_and_files_may_have_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "you").mkdir()
    (tmp_path / "you" / f"{name}.gpkg").write_bytes(b"theirs")
    monkeypatch.chdir(tmp_path)
    head, found = header(), detections(5)
    for kind, suffix in writers.SUFFIXES.items():
        for _ in range(2):  # the second time over the first
            with writers.create(Path(name) / f"{name}{suffix}", kind, head) as file:
                file.add(found)
    for kind in LOCATED:
        with unparsed(Path(name) / f"{name}{writers.SUFFIXES[kind]}") as path:
            read = read_parquet if kind == "parquet" else read_ogr
            assert sorted(read(Path(path))[2]["det_id"]) == [1, 2, 3, 4, 5]
    assert {p.name for p in tmp_path.iterdir()} == {name, "you"}
    assert (tmp_path / "you" / f"{name}.gpkg").read_bytes() == b"theirs"
    made = {*writers.SUFFIXES.values(), ".shx", ".dbf", ".prj", ".cpg"}
    assert {p.name for p in Path(name).iterdir()} == {f"{name}{suffix}" for suffix in made}


@pytest.mark.parametrize("kind", writers.SUFFIXES)
def test_an_error_leaves_what_was_there_and_nothing_else(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{writers.SUFFIXES[kind]}"
    path.write_bytes(b"what was there")

    def fail() -> None:
        with writers.create(path, kind, header()) as file:
            file.add(detections(writers.CHUNK + 1))
            raise OSError("no more pixels")

    with pytest.raises(OSError, match="no more pixels"):
        fail()
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
from test_formats import detections, header
from rstinynet.scenes import writers
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
for kind, suffix in writers.SUFFIXES.items():
    try:
        with writers.create(Path({folder!r}) / ("a" + suffix), kind, header()) as file:
            file.add(detections(3000))
        print(kind, "written")
    except Exception as error:
        print(kind, "refused", type(error).__name__)
"""


def test_a_full_disk_is_an_error_and_no_file(tmp_path: Path) -> None:
    """A limit on the size of files fails writes as a full disk does."""
    code = FULL.format(tests=str(Path(__file__).parent), folder=str(tmp_path), limit=50_000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(said) == set(writers.SUFFIXES)
    assert all(words.startswith("refused") for words in said.values()), said
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 50_000


def test_a_shapefile_comes_with_its_companions_and_replaces_all_of_them(tmp_path: Path) -> None:
    head = header(source="é" * 200 + ".tif")
    for count in (40, 2):
        path, meta, shapes, columns = written(tmp_path, "shp", head, detections(count))
        assert len(shapes) == count
    assert {p.suffix for p in tmp_path.iterdir()} == {".shp", ".shx", ".dbf", ".prj", ".cpg"}
    assert meta["geometry_type"] == "Polygon"
    assert set(columns["source"]) == {"é" * 127}
    assert not shapely.is_ccw(shapely.get_exterior_ring(pyogrio_outer(path))).any()


def pyogrio_outer(path: Path) -> np.ndarray:
    """Outer rings as the shapefile stores them, which is clockwise, read from its bytes."""
    import struct

    content, at, found = path.read_bytes(), 100, []
    while at < len(content):
        (length,) = struct.unpack(">i", content[at + 4 : at + 8])
        body = content[at + 8 : at + 8 + 2 * length]
        parts, points = struct.unpack("<ii", body[36:44])
        assert parts == 1
        xy = struct.unpack(f"<{2 * points}d", body[48 : 48 + 16 * points])
        found.append(shapely.Polygon(np.array(xy).reshape(-1, 2)))
        at += 8 + 2 * length
    return np.array(found)


def test_the_geopackage_carries_its_style(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    path, *_ = written(tmp_path, "gpkg", header(), detections(2))
    meta, _, _, values = pyogrio.raw.read(path, layer="layer_styles")
    row = dict(zip(meta["fields"], (column[0] for column in values), strict=True))
    assert (row["f_table_name"], row["f_geometry_column"]) == ("detections", "geom")
    assert row["useAsDefault"] == 1
    root = ElementTree.fromstring(row["styleQML"].split("\n", 1)[1])
    assert [c.get("value") for c in root.iter("category")] == ["car", "ship & <boat>"]
    assert [c.get("label") for c in root.iter("category")] == ["car", "ship & <boat>"]


def test_a_geopackage_with_layers_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    path, *_ = written(tmp_path, "gpkg", header(), detections(2))
    written(tmp_path, "gpkg", header(), detections(3))  # ours, with all that belongs to it, is
    point = shapely.to_wkb(np.array([shapely.Point(0, 0)]))
    place = {"geometry_type": "Point", "crs": "EPSG:32611"}
    fields = np.array([], object)
    pyogrio.raw.write(path, point, [], fields, layer="roads", **place, append=True)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE qgis_projects (name TEXT, content TEXT)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"which would be lost: roads, qgis_projects\. Name"):
        written(tmp_path, "gpkg", header(), detections(4))
    assert path.read_bytes() == before
    written(tmp_path, "geojson", header(), detections(4))


def test_another_system_is_pyprojs(tmp_path: Path) -> None:
    head, found, target = header("rotated"), detections(20), CRS.from_epsg(3857)
    _, meta, shapes, columns = written(tmp_path, "gpkg", head, found, crs=target)
    assert meta["crs"] == "EPSG:3857"
    points = shapely.get_coordinates(shapes[np.argsort(columns["det_id"])])
    back = Transformer.from_crs(target, head.crs, always_xy=True).transform(*points.T)
    pixels = to_pixels(head.transform, np.stack(back, axis=1)).reshape(-1, 5, 2)
    np.testing.assert_allclose(pixels.max(axis=1), found.boxes[:, 2:], atol=1e-6)


@pytest.fixture
def dateline() -> tuple[Header, Detections]:
    """UTM zone 60, whose eastern edge is 180 degrees: one box west of it, one across, one east."""
    crs = CRS.from_epsg(32660)
    east, north = Transformer.from_crs(4326, crs, always_xy=True).transform(180.0, -17.0)
    head = header(crs=crs, transform=Affine(0.5, 0, east - 100, 0, -0.5, north))
    x = np.array([20.0, 190.0, 400.0])
    boxes = np.stack([x, np.full(3, 10.0), x + 20, np.full(3, 30.0)], axis=1).astype(np.float32)
    return head, Detections(boxes, np.ones(3, np.float32), np.zeros(3, np.int64))


def test_geojson_cuts_at_the_dateline_and_says_so(
    dateline: tuple[Header, Detections], tmp_path: Path
) -> None:
    head, found = dateline
    path = tmp_path / "a.geojson"

    def write() -> None:
        with writers.create(path, "geojson", head) as file:
            file.add(found)

    with pytest.warns(UserWarning, match="1 objects lie across the 180th meridian"):
        write()
    one, cut, other = (f["geometry"] for f in json.loads(path.read_text())["features"])
    assert (one["type"], cut["type"], other["type"]) == ("Polygon", "MultiPolygon", "Polygon")
    left, right = (shapely.Polygon(part[0]) for part in cut["coordinates"])
    assert left.exterior.is_ccw
    assert right.exterior.is_ccw
    assert left.bounds[2] == 180
    assert right.bounds[0] == -180
    assert left.area + right.area == pytest.approx(shapely.geometry.shape(one).area, rel=1e-2)
    assert shapely.geometry.shape(other).bounds[0] < -179.9


def test_a_layer_in_degrees_goes_on_beyond_the_dateline(
    dateline: tuple[Header, Detections],
) -> None:
    head, found = dateline
    shapes = features.shapes(found, head, georef.WGS84)
    widths = [shape.bounds[2] - shape.bounds[0] for shape in shapes]
    np.testing.assert_allclose(widths, widths[0], rtol=1e-2)
    assert shapes[1].bounds[0] < 180 < shapes[1].bounds[2]


@pytest.fixture
def limb() -> tuple[Header, Detections]:
    """A geostationary scene at the rim of the Earth's disk: one box on it, one across, one off."""
    crs = CRS("+proj=geos +h=35785831 +lon_0=0 +sweep=y")
    head = header(crs=crs, transform=Affine(1000, 0, 5_000_000, 0, -1000, 50_000))
    x = np.array([20.0, 424.0, 800.0])
    boxes = np.stack([x, np.full(3, 40.0), x + 20, np.full(3, 60.0)], axis=1).astype(np.float32)
    return head, Detections(boxes, np.ones(3, np.float32), np.zeros(3, np.int64))


LOST = "scene.tif: 2 objects lie beyond what the coordinate system maps"


def test_geojson_has_objects_off_the_map_without_a_place(
    limb: tuple[Header, Detections], tmp_path: Path
) -> None:
    head, found = limb
    with pytest.warns(UserWarning, match=LOST):
        path, *_ = written(tmp_path, "geojson", head, found)
    one, *others = json.loads(path.read_text())["features"]
    lon, lat = np.array(one["geometry"]["coordinates"][0]).T
    x, y = Transformer.from_crs(4326, head.crs, always_xy=True).transform(lon, lat)
    assert (min(x), max(x)) == pytest.approx((5_020_000, 5_040_000), abs=2)
    assert (min(y), max(y)) == pytest.approx((-10_000, 10_000), abs=2)
    assert [other["geometry"] for other in others] == [None, None]
    assert [other["properties"]["px_xmin"] for other in others] == [424, 800]


def test_csv_leaves_the_degrees_of_objects_off_the_map_open(
    limb: tuple[Header, Detections], tmp_path: Path
) -> None:
    head, found = limb
    path = tmp_path / "a.csv"
    with (
        pytest.warns(UserWarning, match=r"scene.tif: \d objects lie beyond what the coordinate"),
        writers.create(path, "csv", head) as file,
    ):
        file.add(found)
    with path.open() as text:
        rows = list(csv.DictReader(text))
    assert float(rows[0]["lon"]) > 40
    assert (rows[2]["lon"], rows[2]["lat"], rows[2]["px_xmin"]) == ("", "", "800.0")


@pytest.mark.parametrize("kind", LOCATED)
def test_files_in_another_system_have_objects_off_the_map_without_a_place(
    limb: tuple[Header, Detections], tmp_path: Path, kind: str
) -> None:
    head, found = limb
    with pytest.warns(UserWarning, match=LOST):
        _, _, shapes, columns = written(tmp_path, kind, head, found, crs=CRS.from_epsg(3857))
    order = np.argsort(columns["det_id"])
    assert [shapes[at] is None for at in order] == [False, True, True]
    assert columns["px_xmin"][order].tolist() == [20, 424, 800]


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(kind: str, head: Header, path: Path) -> None:
        with writers.create(path, kind, head) as file:
            file.add(detections(1))

    with pytest.raises(UsageError, match="format must be of gpkg, geojson, fgb"):
        create("dxf", header(), tmp_path / "a.dxf")
    with pytest.raises(UsageError, match="GeoJSON needs"):
        create("geojson", header(None), tmp_path / "a.geojson")
    (tmp_path / "file").touch()
    for kind in writers.SUFFIXES:
        with pytest.raises((OSError, DataSourceError, DataLayerError)):
            create(kind, header(), tmp_path / "file" / "a")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"rs-tinynet\[geo\]"):
        create("parquet", header(), tmp_path / "a.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_sites_own_system_needs_no_degrees(tmp_path: Path) -> None:
    head = header(crs=CRS.from_wkt('LOCAL_CS["site grid",UNIT["metre",1]]'))
    with pytest.raises(UsageError, match=r"no way leads.*GeoJSON"):
        writers.check("geojson", "a.tif", head.crs)
    with writers.create(tmp_path / "a.csv", "csv", head) as file:
        file.add(detections(3))
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert len(rows) == 3
    assert "lon" not in rows[0]
    assert float(rows[0]["width_m"]) > 0


@pytest.mark.parametrize("suffix", [".GPKG", ".FGB", ".PARQUET"])
def test_suffixes_may_be_in_capitals(suffix: str, tmp_path: Path) -> None:
    kind = next(kind for kind, own in writers.SUFFIXES.items() if own == suffix.lower())
    path = tmp_path / f"A{suffix}"
    with writers.create(path, kind, header()) as file:
        file.add(detections(3))
    count = (
        len(read_parquet(path)[1])
        if kind == "parquet"
        else len(pyogrio.raw.read(path, layer="detections")[2])
    )
    assert count == 3


def test_degrees_beyond_the_dateline_come_back(tmp_path: Path) -> None:
    # A scene in degrees that begins east of Fiji and goes on to 180.001.
    beyond = Affine(1e-5, 0, 179.9995, 0, -1e-5, -17)
    head = header(crs=CRS.from_epsg(4326), transform=beyond)
    boxes = np.array([[0, 0, 9, 9], [48, 0, 53, 9], [70, 0, 80, 9]], np.float32)
    found = Detections(boxes, np.full(3, 0.5, np.float32), np.zeros(3, np.int64))
    with (
        pytest.warns(UserWarning, match="1 objects lie across"),
        writers.create(tmp_path / "a.geojson", "geojson", head) as file,
    ):
        file.add(found)
    made = [one["geometry"] for one in json.loads((tmp_path / "a.geojson").read_text())["features"]]
    assert [shape["type"] for shape in made] == ["Polygon", "MultiPolygon", "Polygon"]
    east = np.array(made[2]["coordinates"][0])[:, 0]
    np.testing.assert_allclose([east.min(), east.max()], [-179.9998, -179.9997], atol=1e-7)
    with writers.create(tmp_path / "a.csv", "csv", head) as file:
        file.add(found)
    lon = [
        float(row["lon"]) for row in csv.DictReader((tmp_path / "a.csv").read_text().splitlines())
    ]
    np.testing.assert_allclose(lon, [179.999545, -179.999995, -179.99975], atol=1e-6)


def test_geojson_counts_as_csv_does(tmp_path: Path) -> None:
    head, found = header("south up"), detections(9)
    for kind in ("geojson", "csv"):
        with writers.create(tmp_path / kind, kind, head) as file:
            file.add(found)
    listed = json.loads((tmp_path / "geojson").read_text())["features"]
    lines = (tmp_path / "csv").read_text().splitlines()
    assert len(listed) == len(lines) - 1 == 9
    for feature, line in zip(listed, lines[1:], strict=True):
        middle = shapely.geometry.shape(feature["geometry"]).centroid
        np.testing.assert_allclose(
            [middle.x, middle.y], [float(v) for v in line.split(",")[-2:]], atol=2e-7
        )
        assert str(feature["properties"]["det_id"]) == line.split(",")[0]
