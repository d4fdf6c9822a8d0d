"""`rstinynet predict` and `rstinynet demo` end to end, with a detector that finds bright blobs."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow
import pyogrio
import pytest
import rasterio
import torch
from affine import Affine
from pyogrio.errors import DataSourceError
from pyproj.exceptions import ProjError

from rstinynet.cli.main import run
from rstinynet.detections import Detections
from rstinynet.errors import UsageError
from rstinynet.model.weights import WeightsMetadata
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.result import Result


class BlobDetector(Detector):
    """Boxes of the bright blobs of 3 to 20 pixels, all of class vehicle."""

    seen: ClassVar[list[dict[str, Any]]] = []
    """The options of each call."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.metadata = WeightsMetadata(
            model="blobs", names=("ship", "vehicle"), category_ids=(1, 2), imgsz=640
        )

    def detect_batch(self, images: Any, **options: Any) -> list[Detections]:
        self.seen.append({"size": images[0].shape[:2]} | options)
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> Detections:
        bright = (image[..., 0] > 230).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
        found = [
            (x, y, x + w, y + h)
            for x, y, w, h, _ in stats[1:].tolist()
            if 3 <= h <= 20 and 3 <= w <= 20
        ]
        boxes = np.array(found, np.float32).reshape(-1, 4)
        return Detections(
            boxes, np.full(len(boxes), 0.7, np.float32), np.ones(len(boxes), np.int64)
        )


@pytest.fixture(autouse=True)
def _blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    BlobDetector.seen.clear()
    monkeypatch.setattr(Detector, "load", lambda *args, **options: BlobDetector())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A PNG and a located TIFF of the same stem, one object each."""
    image = np.full((100, 120, 3), 30, np.uint8)
    image[20:28, 40:50] = 255
    path = tmp_path / "in"
    path.mkdir()
    cv2.imwrite(str(path / "a.png"), image)
    profile = {"driver": "GTiff", "width": 120, "height": 100, "count": 3, "dtype": "uint8"}
    place = {"crs": "EPSG:32611", "transform": Affine(0.3, 0, 664000, 0, -0.3, 4e6)}
    with rasterio.open(path / "a.tif", "w", **profile, **place) as file:
        file.write(image.transpose(2, 0, 1))
    return path


def test_folder_of_two_with_one_stem(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["predict", str(folder), "--out", str(out), "--json"]) == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert "a.png" in shown.err
    assert summary["failed"] == 0
    png, tif = summary["sources"]
    assert (png["counts"], tif["counts"]) == ({"vehicle": 1}, {"vehicle": 1})
    assert (png["crs"], tif["crs"]) == (None, "EPSG:32611")
    assert (tif["width"], tif["height"]) == (120, 100)
    assert set(png["files"]) == {"png", "coco"}
    assert set(tif["files"]) == {"png", "coco", "gpkg", "qml"}
    files = [*png["files"].values(), *tif["files"].values()]
    assert len(set(files)) == len(files) == len(list(out.iterdir()))
    assert pyogrio.read_info(tif["files"]["gpkg"], layer="detections")["features"] == 1
    assert json.loads(Path(tif["files"]["coco"]).read_text())[0]["image_id"] == tif["image_id"]


def test_failed_sources_are_recorded_and_the_rest_go_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "zero.png").touch()
    (folder / "text.jpg").write_text("no image")
    content = (folder / "a.tif").read_bytes()
    (folder / "cut.tif").write_bytes(content[: len(content) // 2])
    sources = [str(folder), str(folder / "missing.tif")]
    assert run(["predict", *sources, "--out", str(tmp_path / "out"), "--json"]) == 3
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    failed = {Path(r["source"]).name: r["error"] for r in summary["sources"] if "error" in r}
    assert set(failed) == {"zero.png", "text.jpg", "cut.tif", "missing.tif"}
    assert "0 bytes" in failed["zero.png"]
    assert "no such file" in failed["missing.tif"]
    assert "4 of 6 sources" in shown.err.replace("\n", " ")
    assert sum("counts" in record for record in summary["sources"]) == 2


def test_options_reach_the_detector(folder: Path, tmp_path: Path) -> None:
    arguments = ["--conf", "0.4", "--iou", "0.3", "--max-det", "7", "--scale", "2", "--tile", "64"]
    arguments += ["--tta", "4"]
    source = str(folder / "a.png")
    assert run(["predict", source, "--out", str(tmp_path / "out"), *arguments]) == 0
    expected = {"size": (64, 64), "conf": 0.4, "iou": 0.3, "max_det": 7, "scale": (2.0,)}
    expected |= {"tta": 4}
    assert BlobDetector.seen
    assert all(options == expected for options in BlobDetector.seen)


def test_nothing_given_leaves_the_choice_to_the_weights(folder: Path, tmp_path: Path) -> None:
    assert run(["predict", str(folder / "a.png"), "--out", str(tmp_path / "out")]) == 0
    defaults = {"size": (100, 120), "conf": None, "iou": 0.6, "max_det": 1500, "scale": None}
    defaults |= {"tta": 1}
    assert BlobDetector.seen == [defaults]


def test_a_source_that_the_options_do_not_suit_leaves_the_others_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    sources = [str(tmp_path / "empty"), str(folder), str(folder / "a.png"), str(folder / "*.jp2")]
    arguments = ["--out", str(tmp_path / "out"), "--format", "geojson", "--json"]
    assert run(["predict", *sources, *arguments]) == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary["failed"] == 3
    words = {Path(r["source"]).name: r.get("error", "") for r in summary["sources"]}
    assert "no images" in words["empty"]
    assert "no file matches" in words["*.jp2"]
    assert "no coordinate system" in words["a.png"]
    assert words["a.tif"] == ""
    assert len(BlobDetector.seen) == 1  # the picture without a place was not searched at all


@pytest.mark.parametrize(
    "error",
    [
        OSError("disk full"),
        ProjError("no grid"),
        DataSourceError("locked"),
        UsageError("no"),
        sqlite3.OperationalError("disk I/O error"),
        pyarrow.ArrowInvalid("no schema"),
    ],
)
def test_an_error_in_writing_one_source_leaves_the_others_alone(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    save = Result.save

    def fail(self: Result, *args: Any, **options: Any) -> dict[str, Path]:
        if self.source.endswith(".png"):
            raise error
        return save(self, *args, **options)

    monkeypatch.setattr(Result, "save", fail)
    assert run(["predict", str(folder), "--out", str(tmp_path / "out"), "--json"]) == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary["failed"] == 1
    assert str(error) in next(r["error"] for r in summary["sources"] if "error" in r)


def test_options_reach_the_result(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--format", "csv,coco", "--classes", "ship", "--bands", "1", "--tile", "64"]
    source = str(folder / "a.png")
    assert run(["predict", source, "--out", str(out), *arguments, "--overlap", "20"]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["a_detections.csv", "a_detections.json"]
    assert json.loads((out / "a_detections.json").read_text()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--format", "dxf"], 2, "gpkg,geojson,fgb,parquet,shp,coco,csv,png"),
        (["--classes", "vehicel"], 2, "did you mean 'vehicle'"),
        (["--bands", "a"], 2, "--bands takes numbers"),
        (["--bands", "7"], 2, "bands must be"),
        (["--conf", "3"], 2, "conf must lie in"),
        (["--tile", "64", "--overlap", "70"], 2, "overlap must be"),
        (["--format", ","], 2, "must not be empty"),
        (["--size", "vehicle=9"], 2, "size is CLASS=LEAST:MOST"),
        (["--size", "vehicel=1:9"], 2, "did you mean 'vehicle'"),
        (["--size", "vehicle=1:9"], 2, "give metres a pixel by --source-gsd"),
        (["--source-gsd", "0"], 2, "source_gsd must be over 0"),
    ],
)
def test_refused_options(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    source = str(folder / "a.png")
    assert run(["predict", source, "--out", str(tmp_path / "out"), *arguments]) == code
    assert words in " ".join(capsys.readouterr().err.split())


def test_empty_folder_and_glob_without_matches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, words in ((tmp_path, "no images"), (tmp_path / "*.tif", "no file matches")):
        assert run(["predict", str(source), "--out", str(tmp_path / "out")]) == 3
        assert words in " ".join(capsys.readouterr().err.split())


def test_the_source_folder_as_output_leaves_the_source(folder: Path) -> None:
    before = (folder / "a.png").read_bytes()
    assert run(["predict", str(folder / "a.png"), "--out", str(folder)]) == 0
    assert (folder / "a.png").read_bytes() == before


def test_demo_names_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--out", str(tmp_path / "demo")]) == 0
    shown = capsys.readouterr().out
    for path in (tmp_path / "demo").iterdir():
        assert path.name in shown
    path = tmp_path / "demo" / "vegas_pan_detections.gpkg"
    assert pyogrio.read_info(path, layer="detections")["crs"] == "EPSG:4326"
    assert "rstinynet predict YOUR_SCENE.tif" in shown


def test_a_scene_without_any_data_is_noted_in_the_summary(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rasterio.open(folder / "a.tif", "r+") as file:
        file.nodata = 7
        file.write(np.full((3, 100, 120), 7, np.uint8))
    arguments = ["--out", str(tmp_path / "out"), "--format", "csv", "--json"]
    assert run(["predict", str(folder / "a.tif"), *arguments]) == 0
    shown = capsys.readouterr()
    assert "no pixel is valid" in shown.err
    (record,) = json.loads(shown.out)["sources"]
    assert any("no pixel is valid" in note for note in record["notes"])
