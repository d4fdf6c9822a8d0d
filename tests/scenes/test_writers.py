"""Files read back by other programs: the attributes, the places, the empty case."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.transform import rowcol

from rstinynet.data.folder import open_split
from rstinynet.errors import UsageError
from rstinynet.scenes import writers
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.result import Result

ATTRIBUTES = [
    "det_id",
    "class_id",
    "class_name",
    "score",
    "px_xmin",
    "px_ymin",
    "px_xmax",
    "px_ymax",
    "width_m",
    "height_m",
    "source",
]
BLOBS = [(10, 20, 26, 27), (60, 70, 70, 80), (100, 20, 112, 30)]


@pytest.fixture
def result(
    detector: Detector,
    paint: Callable[..., np.ndarray],
    write_tiff: Callable[..., Path],
    tmp_path: Path,
) -> Result:
    path = tmp_path / "scene.tif"
    transform = Affine(0.4, 0.3, 664000, 0.3, -0.4, 4000000)
    return detector.predict(write_tiff(path, paint(128, 128, BLOBS), transform=transform))


def test_geopackage_holds_places_and_attributes_in_the_source_crs(
    result: Result, tmp_path: Path
) -> None:
    files = result.save(tmp_path / "out", formats=["gpkg"])
    path = files["gpkg"]
    assert [name for name, _ in pyogrio.list_layers(path)] == ["detections", "layer_styles"]
    meta, _, geometry, columns = pyogrio.raw.read(path, layer="detections")
    assert meta["crs"] == "EPSG:32611"
    assert meta["geometry_type"] == "Polygon"
    assert list(meta["fields"]) == ATTRIBUTES
    assert max(map(len, ATTRIBUTES)) <= 10
    row = dict(zip(ATTRIBUTES, columns, strict=True))
    assert sorted(row["class_name"]) == ["car", "ship", "ship"]
    assert row["source"].tolist() == ["scene.tif"] * 3
    np.testing.assert_array_equal(row["det_id"], [1, 2, 3])
    np.testing.assert_allclose(row["width_m"], (row["px_xmax"] - row["px_xmin"]) / 2, rtol=1e-3)
    with rasterio.open(result.source) as scene:
        for i, shape in enumerate(shapely.from_wkb(geometry)):
            ground = np.array(shape.exterior.coords)
            row_, column = rowcol(scene.transform, *ground.T, op=lambda value: value)
            pixels = np.stack([column, row_], axis=1)
            box = [row[key][i] for key in ("px_xmin", "px_ymin", "px_xmax", "px_ymax")]
            np.testing.assert_allclose([*pixels.min(0), *pixels.max(0)], box, atol=1e-6)


def test_style_colours_every_class(result: Result, tmp_path: Path) -> None:
    style = result.save(tmp_path / "out", formats=["gpkg"])["qml"]
    assert style.stem == "scene_detections"
    root = ElementTree.parse(style).getroot()
    assert [c.get("value") for c in root.iter("category")] == ["car", "ship"]
    assert len(list(root.iter("symbol"))) == 2


def test_geojson_is_longitude_latitude_counter_clockwise(result: Result, tmp_path: Path) -> None:
    path = result.save(tmp_path / "out", formats=["geojson"])["geojson"]
    content = json.loads(path.read_text())
    assert "crs" not in content
    for feature in content["features"]:
        ring = shapely.LinearRing(feature["geometry"]["coordinates"][0])
        assert ring.is_ccw
        assert ring.is_closed
        assert -116 < ring.bounds[0] < -115
        assert list(feature["properties"]) == ATTRIBUTES
    assert pyogrio.read_info(path)["features"] == 3


def test_coco_and_csv(result: Result, tmp_path: Path) -> None:
    files = result.save(tmp_path / "out", formats=["coco", "csv"], image_id=7)
    coco = json.loads(files["coco"].read_text())
    assert {entry["image_id"] for entry in coco} == {7}
    assert sorted(entry["category_id"] for entry in coco) == [3, 9, 9]
    boxes = sorted([x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in coco))
    np.testing.assert_allclose(boxes, sorted(BLOBS), atol=2e-3)
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert list(rows[0]) == [*ATTRIBUTES, "lon", "lat"]
    assert len(rows) == 3


def test_nothing_found_keeps_schema_and_crs(
    detector: Detector, write_tiff: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "dark.tif", np.full((64, 64, 3), 9, np.uint8))
    result = detector.predict(path)
    files = result.save(tmp_path / "out", formats=["gpkg", "geojson", "coco", "csv", "png"])
    info = pyogrio.read_info(files["gpkg"], layer="detections")
    assert (info["features"], info["crs"], info["geometry_type"]) == (0, "EPSG:32611", "Polygon")
    assert info["fields"].tolist() == ATTRIBUTES
    assert json.loads(files["geojson"].read_text())["features"] == []
    assert json.loads(files["coco"].read_text()) == []
    assert len(files["csv"].read_text().splitlines()) == 1


def test_without_a_crs_positions_are_pixels_with_a_warning(
    detector: Detector, paint: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    result = detector.predict(paint(64, 64, [(10, 20, 26, 27)]))
    assert result.default_formats() == ("png", "coco")
    with pytest.warns(UserWarning, match="written in pixels"):
        files = result.save(tmp_path, formats=["gpkg"])
    assert pyogrio.read_info(files["gpkg"], layer="detections")["crs"] is None
    np.testing.assert_allclose(
        pyogrio.read_bounds(files["gpkg"], layer="detections")[1].T, [[10, 20, 26, 27]], atol=1e-3
    )
    with pytest.raises(UsageError, match="GeoJSON needs"):
        result.save(tmp_path, formats=["geojson"])


def test_the_source_is_never_replaced(
    detector: Detector, write_tiff: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "a_detections.png"
    write_tiff(tmp_path / "a.tif", np.zeros((64, 64, 3), np.uint8)).rename(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="replace the source"):
        detector.predict(path).save(tmp_path, formats=["png"], name="a")
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["csv", "gpkg", "geojson"])
def test_results_can_be_read_as_labels(result: Result, tmp_path: Path, kind: str) -> None:
    """docs/data.md: so that they can be corrected and trained on."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    shutil.copy(result.source, data / "images")
    shutil.copy(result.save(tmp_path / "out", formats=[kind])[kind], data / f"train.{kind}")
    labelled = open_split(data, "train")
    (image,) = labelled.images
    names = [labelled.names[label] for label in image.labels.tolist()]
    assert names == [result.class_names[label] for label in result.detections.labels.tolist()]
    # GeoJSON has 7 decimals of a degree: about a centimetre, and a pixel is half a metre.
    np.testing.assert_allclose(image.boxes, result.detections.boxes, atol=0.05)


def test_a_style_that_a_user_saved_is_kept(tmp_path: Path) -> None:
    path, beside = tmp_path / "a.gpkg", tmp_path / "a.qml"
    assert writers.write_style(path, "gpkg", ("car",)) == {"qml": beside}
    first = beside.read_bytes()
    assert writers.write_style(path, "gpkg", ("car", "ship")) == {"qml": beside}
    assert beside.read_bytes() != first
    theirs = '<!DOCTYPE qgis PUBLIC>\n<qgis version="3.34.4-Prizren" labelsEnabled="1">\n'
    beside.write_text(theirs)
    assert writers.write_style(path, "gpkg", ("car",)) == {}
    assert beside.read_text() == theirs
