"""`rstinynet predict` over many scenes: merged files, lists, STAC, failures on record."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from pyogrio.errors import DataSourceError
from pyproj import CRS, Transformer

from rstinynet.cli.main import run
from rstinynet.detections import Detections
from rstinynet.model.weights import WeightsMetadata
from rstinynet.scenes import writers
from rstinynet.scenes.detector import Detector


class BlobDetector(Detector):
    """Boxes of the bright blobs, all of class vehicle."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.metadata = WeightsMetadata(
            model="blobs", names=("ship", "vehicle"), category_ids=(1, 2), imgsz=640
        )

    def detect_batch(self, images: Any, **options: Any) -> list[Detections]:
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> Detections:
        bright = (image[..., 0] > 230).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
        found = [(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:].tolist()]
        boxes = np.array(found, np.float32).reshape(-1, 4)
        return Detections(
            boxes, np.full(len(boxes), 0.7, np.float32), np.ones(len(boxes), np.int64)
        )


@pytest.fixture(autouse=True)
def _blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "load", lambda *args, **options: BlobDetector())


def scene(
    path: Path,
    *,
    epsg: int | None = 32611,
    objects: int = 1,
    east: float = 664000,
    crs: str | None = None,
    transform: Affine | None = None,
) -> Path:
    """A scene of 120 by 100 pixels of 0.3 m; object i is at x 10 + 20 i, y 20, 8 by 6 pixels."""
    image = np.full((100, 120, 3), 30, np.uint8)
    for i in range(objects):
        image[20:26, 10 + 20 * i : 18 + 20 * i] = 255
    path.parent.mkdir(exist_ok=True)
    if epsg is None:
        cv2.imwrite(str(path), image)
        return path
    transform = transform or Affine(0.3, 0, east, 0, -0.3, 4e6)
    place = {"crs": crs or f"EPSG:{epsg}", "transform": transform}
    profile = {"driver": "GTiff", "width": 120, "height": 100, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, **place) as file:
        file.write(image.transpose(2, 0, 1))
    return path


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder of two scenes in one system."""
    scene(tmp_path / "in" / "a.tif", objects=2)
    scene(tmp_path / "in" / "b.tif", east=665000)
    return tmp_path / "in"


def read(path: Path) -> tuple[dict[str, Any], np.ndarray, dict[str, list[Any]]]:
    meta, _, geometry, columns = pyogrio.raw.read(path, layer=0)
    values = {name: column.tolist() for name, column in zip(meta["fields"], columns, strict=True)}
    return meta, shapely.from_wkb(geometry), values


def test_one_merged_file_in_the_scenes_own_system(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, merged = tmp_path / "out", tmp_path / "all.gpkg"
    arguments = ["predict", str(two), "--out", str(out), "--merged", str(merged), "--json"]
    assert run(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["merged"] == str(merged)
    assert [record["files"] for record in summary["sources"]] == [{}, {}]
    assert not out.exists()
    meta, shapes, columns = read(merged)
    assert meta["crs"] == "EPSG:32611"
    assert sorted(columns["source"]) == ["a.tif", "a.tif", "b.tif"]
    assert sorted(columns["det_id"]) == [1, 2, 3]
    of_b = shapes[columns["source"].index("b.tif")]
    np.testing.assert_allclose(of_b.bounds, (665003, 4e6 - 7.8, 665005.4, 4e6 - 6))
    assert merged.with_suffix(".qml").exists()
    # Again over what is there, by a relative path as the shell gives it.
    assert run(arguments) == 0


def test_files_of_one_name_are_told_apart_in_a_merged_file(two: Path, tmp_path: Path) -> None:
    scene(two / "more" / "a.tif", east=666000)
    merged = tmp_path / "all.gpkg"
    named = ["predict", str(two), str(two / "more"), "--out", str(tmp_path / "out")]
    assert run([*named, "--merged", str(merged)]) == 0
    found = ["b.tif", "in/a.tif", "in/a.tif", "more/a.tif"]
    assert sorted(read(merged)[2]["source"]) == found


def test_what_signs_an_address_is_told_neither_of_what_is_done_nor_of_what_failed(
    two: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened = rasterio.open
    scene(tmp_path / "plain.tif", epsg=None)

    def far_away(path: Any, *args: Any, **options: Any) -> Any:
        if "plain" in str(path):
            return opened(tmp_path / "plain.tif")
        return opened(two / "a.tif" if "https" in str(path) else path, *args, **options)

    monkeypatch.setattr(rasterio, "open", far_away)
    arguments = ["https://host/a.tif?sig=SECRET", "https://host/plain.tif?sig=SECRET", "--json"]
    merged = str(tmp_path / "all.gpkg")
    out = str(tmp_path / "out")
    assert run(["predict", *arguments, "--out", out, "--merged", merged, "--grid", "9"]) == 3
    said = capsys.readouterr()
    done, failed = json.loads(said.out)["sources"]
    assert done["source"] == "/vsicurl/https://host/a.tif"
    assert "/vsicurl/https://host/plain.tif has no coordinate system" in failed["error"]
    assert "SECRET" not in said.out + said.err


def test_scenes_of_two_systems_meet_in_longitude_and_latitude(two: Path, tmp_path: Path) -> None:
    scene(two / "c.tif", epsg=32612, east=300000)
    merged = tmp_path / "all.parquet"
    assert run(["predict", str(two), "--out", str(tmp_path / "o"), "--merged", str(merged)]) == 0
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(merged)
    geo = json.loads(table.schema.metadata[b"geo"])
    assert CRS.from_json_dict(geo["columns"]["geometry"]["crs"]).to_epsg() == 4326
    shapes = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
    at = table["source"].to_pylist().index("c.tif")
    there = Transformer.from_crs(4326, 32612, always_xy=True)
    x, y = there.transform(*shapes[at].exterior.coords.xy)
    np.testing.assert_allclose(
        [min(x), min(y), max(x), max(y)], (300003, 4e6 - 7.8, 300005.4, 4e6 - 6), atol=1e-6
    )


def test_a_scene_without_a_place_stays_out_of_a_merged_map(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene(two / "flat.tif", epsg=None)
    (two / "bad.tif").write_text("no image")
    out, merged = tmp_path / "out", tmp_path / "all.fgb"
    arguments = ["--out", str(out), "--merged", str(merged), "--format", "csv", "--json"]
    assert run(["predict", str(two), *arguments]) == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary["failed"] == 2
    assert len(read(merged)[1]) == 3
    assert sorted(p.name for p in out.iterdir()) == [
        "a_detections.csv",
        "b_detections.csv",
        "errors.json",
    ]
    listed = json.loads((out / "errors.json").read_text())
    assert (listed["failed"], listed["of"]) == (2, 4)
    kinds = {Path(e["source"]).name: (e["kind"], e["error"]) for e in listed["errors"]}
    assert kinds["flat.tif"][0] == "UsageError"
    assert "no coordinate system" in kinds["flat.tif"][1]
    assert kinds["bad.tif"][0] == "DataError"
    # A later run without failures takes the list away.
    assert run(["predict", str(two / "a.tif"), *arguments]) == 0
    assert not (out / "errors.json").exists()


def test_scenes_without_any_place_merge_in_pixels_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        scene(tmp_path / "in" / f"{name}.tif", epsg=None)
    merged = tmp_path / "all.gpkg"
    arguments = ["--out", str(tmp_path / "o"), "--merged", str(merged)]
    assert run(["predict", str(tmp_path / "in"), *arguments]) == 0
    assert "positions are written in pixels" in " ".join(capsys.readouterr().err.split())
    meta, shapes, _ = read(merged)
    assert meta["crs"] is None
    np.testing.assert_allclose(shapely.bounds(shapes), [[10, 20, 18, 26]] * 2)


@pytest.mark.parametrize(("asked", "made"), [("ALL.SHP", "ALL.shp"), ("ALL.GPKG", "ALL.GPKG")])
def test_a_merged_files_suffix_may_be_in_capitals(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: str, made: str
) -> None:
    arguments = ["--out", str(tmp_path / "o"), "--merged", str(tmp_path / asked), "--json"]
    assert run(["predict", str(two), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["merged"] == str(tmp_path / made)
    assert len(read(tmp_path / made)[1]) == 3


SITE = 'LOCAL_CS["site grid",UNIT["metre",1]]'


def test_a_scene_in_a_sites_own_system_stays_out_of_what_others_share(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene(two / "site.tif", crs=SITE)
    for kind in (["--merged", str(tmp_path / "all.gpkg")], ["--grid", "10"]):
        out = tmp_path / kind[0].strip("-")
        assert run(["predict", str(two), "--out", str(out), *kind, "--json"]) == 3
        shown = capsys.readouterr()
        assert json.loads(shown.out)["failed"] == 1
        assert "no way leads from the coordinate system of" in " ".join(shown.err.split())
    assert len(read(tmp_path / "all.gpkg")[1]) == 3
    # Alone it is no trouble.
    alone = ["predict", str(two / "site.tif"), "--out", str(tmp_path / "alone"), "--grid", "10"]
    assert run([*alone, "--merged", str(tmp_path / "site.csv")]) == 0
    assert len((tmp_path / "site.csv").read_text().splitlines()) == 2


def test_the_file_of_zones_is_never_written_over(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zones = tmp_path / "out" / "counts_zones.gpkg"
    zones.parent.mkdir()
    pyogrio.raw.write(
        str(zones),
        geometry=shapely.to_wkb(np.array([shapely.box(664000, 399990, 664010, 4000000)])),
        field_data=[],
        fields=np.array([], object),
        geometry_type="Polygon",
        crs="EPSG:32611",
        driver="GPKG",
    )
    before = zones.read_bytes()
    arguments = ["predict", str(two), "--zones", str(zones)]
    for more in (["--out", str(zones.parent)], ["--out", str(tmp_path), "--merged", str(zones)]):
        assert run([*arguments, *more]) == 2
        assert "is the file of zones itself" in " ".join(capsys.readouterr().err.split())
        assert zones.read_bytes() == before
        assert not list(tmp_path.glob("**/*_detections*"))


@pytest.mark.parametrize("theirs", ['{"errors": []}', "[1", "[]", None])
def test_a_file_of_the_users_own_called_errors_json_stays(
    two: Path, tmp_path: Path, theirs: str | None
) -> None:
    out = tmp_path / "out"
    own = out / "errors.json"
    if theirs is None:
        own.mkdir(parents=True)
    else:
        out.mkdir()
        own.write_text(theirs)
    arguments = ["--out", str(out), "--format", "csv"]
    assert run(["predict", str(two / "a.tif"), *arguments]) == 0
    assert own.is_dir() if theirs is None else own.read_text() == theirs
    for _ in range(2):
        assert run(["predict", str(two / "a.tif"), str(two / "none.tif"), *arguments]) == 3
        assert own.is_dir() if theirs is None else own.read_text() == theirs
        assert json.loads((out / "errors_2.json").read_text())["failed"] == 1
    assert run(["predict", str(two / "a.tif"), *arguments]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a_detections.csv", "errors.json"]


def test_no_scene_done_leaves_no_merged_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = tmp_path / "all.gpkg"
    arguments = ["--out", str(tmp_path / "o"), "--merged", str(merged), "--json"]
    assert run(["predict", str(tmp_path / "missing.tif"), *arguments]) == 3
    assert json.loads(capsys.readouterr().out)["failed"] == 1
    assert not merged.exists()


@pytest.mark.parametrize(
    "by", [["--grid", "30"], ["--h3", "9"], ["--zones", "zones.geojson"], ["--merged", "m.geojson"]]
)
@pytest.mark.parametrize(
    ("name", "words"),
    [("none.tif", "is no such file"), ("empty", "has no images"), ("bad.tif", "not an image")],
)
def test_scenes_of_which_none_can_be_opened_fail_for_their_own_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: list[str], name: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("bad.tif").write_bytes(b"II*\0 no image")
    Path("zones.geojson").write_text(
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {},'
        '"geometry": {"type": "Polygon", "coordinates": [[[9, 50], [9.1, 50], [9, 50.1], [9, 50]]]}'
        "}]}"
    )
    assert run(["predict", name, "--out", "out", *by]) == 3
    (error,) = json.loads(Path("out/errors.json").read_text())["errors"]
    assert (error["source"], error["kind"]) == (name, "DataError")
    assert words in error["error"]
    assert [path.name for path in Path("out").iterdir()] == ["errors.json"]


def test_an_error_in_the_merged_file_ends_the_run(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise DataSourceError("disk full")

    monkeypatch.setattr(writers.DetectionFile, "add", fail)
    merged = tmp_path / "all.gpkg"
    arguments = ["--out", str(tmp_path / "o"), "--merged", str(merged)]
    assert run(["predict", str(two), *arguments]) == 1
    assert not merged.exists()


@pytest.mark.parametrize("name", ["all.dxf", "all"])
def test_a_merged_file_of_no_known_kind_is_refused(
    two: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(two), "--out", str(tmp_path), "--merged", str(tmp_path / name)]) == 2
    words = " ".join(capsys.readouterr().err.split())
    assert "must end with one of .gpkg, .geojson, .fgb, .parquet, .shp" in words


def test_lists_and_stac_name_scenes(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("in/a.tif\n")
    items = [
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": name,
            "geometry": None,
            "properties": {"datetime": "2024-05-01T00:00:00Z"},
            "links": [],
            "assets": {key: {"href": f"in/{key}.tif", "type": "image/tiff"}},
        }
        for name, key in (("first", "b"), ("second", "c"))
    ]
    stac = tmp_path / "items.json"
    stac.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    arguments = ["--out", str(tmp_path / "out"), "--format", "csv", "--json", "--asset", "b"]
    assert run(["predict", str(tmp_path / "list.txt"), str(stac), *arguments]) == 3
    records = json.loads(capsys.readouterr().out)["sources"]
    failed = [record for record in records if "error" in record]
    assert [record["source"] for record in failed] == [f"{stac}#second"]
    assert "no asset or picture of a role 'b'" in failed[0]["error"]
    assert {Path(r["source"]).name: r["count"] for r in records if "count" in r} == {
        "a.tif": 2,
        "b.tif": 1,
    }


@pytest.mark.parametrize("merged", [False, True])
def test_a_run_of_many_scenes_goes_on_with_those_that_are_done(
    two: Path,
    tmp_path: Path,
    merged: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupted in the second scene: the first is not searched again, and all is as unbroken."""
    arguments = ["predict", str(two), "--tile", "64", "--json", "--out"]
    extra = ["--merged", str(tmp_path / "all.csv")] if merged else ["--format", "csv"]
    result = tmp_path / "all.csv" if merged else tmp_path / "out" / "a_detections.csv"
    assert run([*arguments, str(tmp_path / "out"), *extra]) == 0
    unbroken = result.read_bytes()
    result.unlink()
    capsys.readouterr()
    seen = {"tiles": 0}
    plain = BlobDetector.detect_batch

    def counted(self: BlobDetector, images: Any, **options: Any) -> list[Detections]:
        seen["tiles"] += len(images)
        if seen["tiles"] == 12:
            raise KeyboardInterrupt
        return plain(self, images, **options)

    monkeypatch.setattr(BlobDetector, "detect_batch", counted)
    assert run([*arguments, str(tmp_path / "again"), *extra]) == 130
    assert "--resume goes on from there" in " ".join(capsys.readouterr().err.split())
    assert result.exists() is False
    assert run([*arguments, str(tmp_path / "again"), *extra, "--resume"]) == 0
    first, second = json.loads(capsys.readouterr().out)["sources"]
    assert first["resumed_tiles"] == 9
    assert second["resumed_tiles"] == 2
    assert seen["tiles"] == 12 + 7
    again = result if merged else tmp_path / "again" / "a_detections.csv"
    assert again.read_bytes() == unbroken
    assert not list(tmp_path.rglob("*.ledger"))


def test_counts_of_a_run_are_those_of_its_merged_file(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pyogrio.raw.write(
        tmp_path / "zones.gpkg",
        geometry=shapely.to_wkb([shapely.box(664000, 4e6 - 30, 664006, 4e6)]),
        field_data=[np.array(["west"], object)],
        fields=np.array(["name"], object),
        geometry_type="Polygon",
        crs="EPSG:32611",
    )
    by = ["--zones", str(tmp_path / "zones.gpkg"), "--grid", "10", "--h3", "9"]
    out, merged = tmp_path / "out", tmp_path / "all.gpkg"
    arguments = ["--out", str(out), "--merged", str(merged), "--json"]
    assert run(["predict", str(two), *arguments, *by]) == 0
    in_run = json.loads(capsys.readouterr().out)["counted"]
    assert (in_run["count"], in_run["outside"]) == (3, 2)
    assert run(["count", str(merged), *by, "--classes", "ship,vehicle", "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    for kind in ("zones", "h3"):
        first, second = read(Path(in_run["files"][kind])), read(Path(after["files"][kind]))
        assert first[2] == second[2]
    with (
        rasterio.open(in_run["files"]["grid"]) as first_grid,
        rasterio.open(after["files"]["grid"]) as second_grid,
    ):
        # That of the run covers its scenes, that of the file what it holds.
        assert first_grid.read(1).sum() == second_grid.read(1).sum() == 3 * 10_000
        assert first_grid.bounds.left == 664000
        assert first_grid.bounds.bottom == 4e6 - 30


def test_counting_refuses_what_has_no_place_before_the_search(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene(two / "flat.tif", epsg=None)
    out = str(tmp_path / "out")
    assert run(["predict", str(two), "--out", out, "--grid", "10", "--format", "csv"]) == 3
    assert "which counting needs" in " ".join(capsys.readouterr().err.split())
    assert run(["predict", str(two / "flat.tif"), "--out", out, "--grid", "10"]) == 2


def test_batches_are_filled_across_scenes(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine tiles of a and nine of b in batches of four, as one by one."""
    arguments = ["predict", str(two), "--tile", "64", "--format", "csv", "--out"]
    assert run([*arguments, str(tmp_path / "single")]) == 0
    sizes: list[int] = []
    plain = BlobDetector.detect_batch

    def counted(self: BlobDetector, images: Any, **options: Any) -> list[Detections]:
        sizes.append(len(images))
        return plain(self, images, **options)

    monkeypatch.setattr(BlobDetector, "detect_batch", counted)
    monkeypatch.setattr(BlobDetector, "batch", 4)
    assert run([*arguments, str(tmp_path / "batches")]) == 0
    assert sizes == [4, 4, 4, 4, 2]
    for name in ("a", "b"):
        file = f"{name}_detections.csv"
        single = (tmp_path / "single" / file).read_bytes()
        assert (tmp_path / "batches" / file).read_bytes() == single


def test_results_that_cannot_be_written_are_noticed_before_the_search(
    two: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken.gpkg").mkdir()
    out = ["--out", str(tmp_path / "out")]
    monkeypatch.setattr(Detector, "load", lambda *args, **options: pytest.fail("too late"))
    for arguments, words in (
        (["--out", str(tmp_path / "file")], "file is a file, not a folder"),
        (["--out", str(tmp_path / "file" / "deeper")], "file is a file, not a folder"),
        ([*out, "--merged", str(tmp_path / "file" / "a.gpkg")], "file is a file, not a folder"),
        ([*out, "--merged", str(tmp_path / "taken.gpkg")], "taken.gpkg is a folder"),
    ):
        assert run(["predict", str(two), *arguments]) == 2
        shown = capsys.readouterr().err
        assert words in shown
        assert arguments[-2] in shown
        assert str(two) not in shown
    monkeypatch.setattr("rstinynet.files.os.access", lambda *args: False)
    assert run(["predict", str(two), *out]) == 2
    assert "a folder that you may not change" in capsys.readouterr().err


def test_sources_that_cannot_be_listed_are_reported_and_the_others_searched(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Path.iterdir

    def iterdir(folder: Path) -> Any:
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    (tmp_path / "locked").mkdir()
    text = tmp_path / "paths.txt"
    text.write_text("a" * 5000 + "\nin/b.tif\n")
    (tmp_path / "odd.json").write_text('{"type": "Feature", "stac_version": 1, "assets": []}')
    bytes_only = two / os.fsdecode(b"\xff.tif")
    shutil.copy(two / "a.tif", bytes_only)
    bad = [str(tmp_path / "locked"), str(text), str(tmp_path / "odd.json"), str(bytes_only)]
    out = tmp_path / "out"
    wanted = ["--out", str(out), "--format", "csv", "--merged", str(tmp_path / "all.gpkg")]
    assert run(["predict", str(two / "a.tif"), *bad, *wanted]) == 3
    assert {path.name for path in out.glob("*.csv")} == {"a_detections.csv", "b_detections.csv"}
    assert len(read(tmp_path / "all.gpkg")[1]) == 3
    errors = json.loads((out / "errors.json").read_text())["errors"]
    words = [(error["kind"], error["error"]) for error in errors]
    assert [kind for kind, _ in words] == ["DataError"] * 4
    assert words[0][1] == f"{bad[0]}: cannot be listed: Permission denied; check the path"
    assert "aaa: cannot be listed: File name too long" in words[1][1]
    assert "not STAC that can be read" in words[2][1]
    assert "names in UTF-8 only" in words[3][1]


@pytest.mark.parametrize("by", [["--grid", "30"], ["--h3", "9"], ["--merged", "all.gpkg"]])
def test_a_scene_outside_of_its_own_system_is_left_out(
    two: Path, tmp_path: Path, by: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scene(two / "lost.tif", epsg=4326, transform=Affine(0.001, 0, 1000, 0, -0.001, 500))
    scene(two / "line.tif", transform=Affine(0.3, 0, 664000, 0, 0, 4e6))
    assert run(["predict", str(two), "--out", "out", "--format", "csv", *by]) == 3
    errors = json.loads(Path("out/errors.json").read_text())
    assert errors["of"] == 4
    words = {Path(error["source"]).name: error["error"] for error in errors["errors"]}
    assert sorted(words) == ["line.tif", "lost.tif"]
    assert "its middle, 1000.06, 499.95, is no place in its coordinate system" in words["lost.tif"]
    assert "puts all pixels on one line or nowhere" in words["line.tif"]
    assert len(list(Path("out").glob("*.csv"))) == 2
    if by[0] == "--merged":
        assert len(read(Path("all.gpkg"))[1]) == 3
    # Alone it is reported as well.
    assert run(["predict", str(two / "lost.tif"), "--out", "o", "--grid", "30"]) == 3


def test_names_that_pyogrio_parses_are_written_as_given(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`you/run!.gpkg`, which `hey!you/run!.gpkg` would be taken for, is another's."""
    (two / "a.tif").rename(two / "b!c.tif")
    (tmp_path / "you").mkdir()
    (tmp_path / "you" / "run!.gpkg").write_bytes(b"theirs")
    monkeypatch.chdir(tmp_path)
    square = shapely.box(664000, 3999900, 666000, 4e6)
    pyogrio.raw.write(
        "zones.gpkg",
        geometry=shapely.to_wkb(np.array([square])),
        field_data=[],
        fields=np.array([], object),
        geometry_type="Polygon",
        crs="EPSG:32611",
    )
    Path("zones.gpkg").rename("zones!.gpkg")
    arguments = ["--out", "hey!you", "--merged", "hey!you/run!.gpkg", "--format", "gpkg,parquet"]
    by = ["--zones", "zones!.gpkg", "--grid", "10", "--h3", "9"]
    assert run(["predict", str(two), *arguments, *by]) == 0
    made = {f"{name}_detections.{s}" for name in ("b!c", "b") for s in ("gpkg", "parquet", "qml")}
    made |= {"run!.gpkg", "run!.qml", "counts_zones.gpkg", "counts_grid.tif", "counts_h3.gpkg"}
    assert {path.name for path in Path("hey!you").iterdir()} == made
    assert {path.name for path in tmp_path.iterdir()} == {"in", "you", "hey!you", "zones!.gpkg"}
    assert (tmp_path / "you" / "run!.gpkg").read_bytes() == b"theirs"
    Path("hey!you").rename("plain")
    Path("plain", "run!.gpkg").rename("run.gpkg")
    assert len(read(Path("run.gpkg"))[1]) == 3
    assert read(Path("plain", "counts_zones.gpkg"))[2]["n_vehicle"] == [3]
    with rasterio.open("plain/counts_grid.tif") as file:
        assert file.read(1).sum() == 3e4


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mine.gpkg", ["--merged", "mine.gpkg"]),
        ("o/a_detections.gpkg", []),
        ("o/a_detections.gpkg", ["--merged", "all.csv", "--format", "gpkg"]),
        ("o/counts_h3.gpkg", ["--h3", "9"]),
    ],
)
def test_layers_of_the_users_are_not_lost(
    two: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("o").mkdir()
    pyogrio.raw.write(
        name,
        geometry=shapely.to_wkb(np.array([shapely.Point(0, 0)])),
        field_data=[],
        fields=np.array([], object),
        geometry_type="Point",
        crs="EPSG:32611",
        layer="my_roads",
    )
    before = Path(name).read_bytes()
    monkeypatch.setattr(BlobDetector, "detect_batch", lambda *args, **how: pytest.fail("searched"))
    assert run(["predict", str(two / "a.tif"), "--out", "o", *arguments]) == 2
    assert "has other layers, which would be lost: my_roads" in " ".join(
        capsys.readouterr().err.split()
    )
    assert Path(name).read_bytes() == before
    # No GeoPackage is written of a picture without a place.
    monkeypatch.undo()
    monkeypatch.setattr(Detector, "load", lambda *args, **options: BlobDetector())
    monkeypatch.chdir(tmp_path)
    scene(two / "a.png", epsg=None)
    assert run(["predict", str(two / "a.png"), "--out", "o"]) == 0
    assert Path(name).read_bytes() == before


@pytest.mark.parametrize("name", ["o/a_detections.gpkg", "o/counts_h3.gpkg", "all.gpkg"])
def test_a_file_that_another_program_has_open_is_refused_before_the_search(
    two: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["predict", str(two / "a.tif"), "--out", "o", "--h3", "9", "--merged", "all.gpkg"]
    arguments += ["--format", "gpkg"]
    assert run(arguments) == 0
    code = """if True:
        import sqlite3, sys
        database = sqlite3.connect(sys.argv[1], isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("UPDATE gpkg_contents SET description = 'edited'")
        print("open", flush=True)
        sys.stdin.read()
    """
    monkeypatch.setattr(BlobDetector, "detect_batch", lambda *args, **how: pytest.fail("searched"))
    with subprocess.Popen(
        [sys.executable, "-c", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert run(arguments) == 2
    words = " ".join(capsys.readouterr().err.split())
    assert f"{name} cannot be replaced: another program has this file open" in words
    with closing(sqlite3.connect(name)) as database:
        described = database.execute("SELECT description FROM gpkg_contents").fetchall()
    assert set(described) == {("edited",)}
