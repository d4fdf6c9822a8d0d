"""The result's shape and its conversions."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rstinynet.errors import UsageError
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.result import Result

BLOBS = [(10, 20, 26, 27), (60, 70, 70, 80)]


@pytest.fixture
def result(
    detector: Detector,
    paint: Callable[..., np.ndarray],
    write_tiff: Callable[..., Path],
    tmp_path: Path,
) -> Result:
    return detector.predict(write_tiff(tmp_path / "scene.tif", paint(100, 128, BLOBS)))


def test_reads_like_other_results(result: Result) -> None:
    assert len(result) == len(result.boxes) == 2
    assert result.names == {0: "car", 1: "ship"}
    assert result.boxes.xyxy.shape == result.boxes.xywh.shape == (2, 4)
    assert (np.diff(result.boxes.conf) <= 0).all()
    assert result.counts() == {"car": 1, "ship": 1}
    assert result.size == (128, 100)
    by_class = dict(zip(result.boxes.cls.tolist(), result.boxes.xywh, strict=True))
    np.testing.assert_allclose(by_class[0], [65, 75, 10, 10], atol=1e-3)


def test_geodataframe_is_in_the_source_crs(result: Result) -> None:
    pytest.importorskip("geopandas")
    frame = result.to_geodataframe()
    assert frame.crs.to_epsg() == 32611
    assert frame.geometry.area.tolist() == pytest.approx(
        [(box[2] - box[0]) * (box[3] - box[1]) / 4 for box in result.boxes.xyxy], rel=1e-4
    )


def test_supervision_gets_arrays_and_names(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UsageError, match="pip install supervision"):
        result.to_supervision()

    class Taken:
        def __init__(self, **arrays: Any) -> None:
            self.arrays = arrays

    stand_in = types.ModuleType("supervision")
    stand_in.Detections = Taken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    arrays = result.to_supervision().arrays
    np.testing.assert_array_equal(arrays["xyxy"], result.boxes.xyxy)
    assert sorted(arrays["data"]["class_name"]) == ["car", "ship"]


def test_refuses_an_unknown_format(result: Result, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gpkg, geojson, fgb, parquet, shp, coco, csv, png"):
        result.save(tmp_path, formats=["dxf"])
