"""What goes wrong with files and disks: named, or recovered from, and nothing lost."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from rstinynet.cli.main import run
from rstinynet.errors import DataError
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.ledger import Ledger, exists
from rstinynet.scenes.spill import Spill
from rstinynet.scenes.stream import PredictOptions, predict

Writer = Callable[..., Path]
OPTIONS = PredictOptions(tile=128, overlap=32)


@pytest.fixture
def scene(write_tiff: Writer, paint: Callable[..., np.ndarray], tmp_path: Path) -> Path:
    """512 by 512 with 16 objects, in compressed blocks of 128."""
    blobs = [(x, y, x + 9, y + 9) for y in range(50, 512, 128) for x in range(50, 512, 128)]
    image = paint(512, 512, blobs)
    image[..., 2] = np.random.default_rng(0).integers(0, 60, (512, 512))  # so blocks have a size
    return write_tiff(
        tmp_path / "scene.tif", image, tiled=True, blockxsize=128, blockysize=128,
        compress="deflate",
    )  # fmt: skip


@pytest.fixture
def command(detector: Detector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs `rstinynet predict` with the detector of blobs."""
    monkeypatch.setattr(Detector, "load", lambda *args, **options: detector)

    def _run(source: Path, *more: str) -> int:
        return run(["predict", str(source), "--out", str(tmp_path / "out"), *more])

    return _run


def test_a_read_error_in_the_middle_says_where_and_keeps_what_is_done(
    detector: Detector, scene: Path, tmp_path: Path
) -> None:
    good = scene.read_bytes()
    with rasterio.open(scene) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_2_2", "TIFF", bidx=1))
    broken = bytearray(good)
    broken[offset : offset + 40] = b"\xff" * 40
    scene.write_bytes(broken)
    folder = tmp_path / "ledger"
    with (
        pytest.raises(DataError, match=r"pixels at x \d+, y \d+ cannot be read.*damaged"),
        Ledger(folder) as ledger,
    ):
        predict(detector, scene, OPTIONS, ledger=ledger)
    assert 0 < ledger.done < ledger.total
    with Ledger(folder, resume=True) as again:
        # Another read error, the same place: what was done is still there, and is not redone.
        with pytest.raises(DataError, match="cannot be read"):
            predict(detector, scene, OPTIONS, ledger=again)
        assert again.resumed >= ledger.done


def test_a_truncated_scene_is_named_and_the_others_are_done(
    command: Any, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.tif"
    cut.write_bytes(scene.read_bytes()[: scene.stat().st_size // 2])
    assert command(scene, str(cut), "--format", "csv") == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "cut.tif" in said
    assert (tmp_path / "out" / "scene_detections.csv").read_text().count("\n") == 17
    assert not (tmp_path / "out" / "cut_detections.csv").exists()


def test_a_missing_band_is_named(
    command: Any, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(scene, "--bands", "4,3,2") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "numbers from 1 to 3" in said
    assert "not 4,3,2" in said


def test_a_disk_full_while_writing_leaves_the_search_to_resume(
    command: Any,
    detector: Detector,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rstinynet.files.Path.replace", full)
        assert command(scene, "--format", "csv", "--tile", "128", "--overlap", "32") != 0
    assert "No space left on device" in " ".join(capsys.readouterr().err.split())
    ledger = tmp_path / "out" / "scene_detections.ledger"
    assert exists(ledger)
    assert [path.name for path in ledger.parent.glob("*.csv")] == []
    before = detector.model.forwards  # type: ignore[attr-defined]
    again = ["--format", "csv", "--tile", "128", "--overlap", "32", "--resume"]
    assert command(scene, *again) == 0
    assert detector.model.forwards == before  # type: ignore[attr-defined]
    assert (ledger.parent / "scene_detections.csv").read_text().count("\n") == 17
    assert not ledger.exists()


def test_a_disk_full_for_spilled_detections_leaves_the_ledger(
    detector: Detector, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Spill) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = predict(detector, scene, OPTIONS)
    folder = tmp_path / "ledger"
    with monkeypatch.context() as patch:
        patch.setattr("rstinynet.scenes.spill.ROWS", 3)
        patch.setattr("rstinynet.scenes.memory.ROWS", 3)
        patch.setattr(Spill, "_write_run", full)
        with pytest.raises(OSError, match="No space left"), Ledger(folder) as ledger:
            predict(detector, scene, OPTIONS, ledger=ledger)
    with Ledger(folder, resume=True) as again:
        result = predict(detector, scene, OPTIONS, ledger=again)
        assert again.resumed > 0
    np.testing.assert_array_equal(result.boxes.xyxy, whole.boxes.xyxy)


def test_a_scene_without_a_place_is_searched_in_pixels(
    command: Any, write_tiff: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    image = np.full((100, 100, 3), 40, np.uint8)
    image[20:30, 40:50] = 250
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), image)
    assert command(path, "--format", "gpkg,csv") == 0
    assert "no coordinate system" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "out" / "a_detections.csv").read_text().count("\n") == 2
    assert command(path, "--gsd", "0.5") == 2
    assert "--scale" in capsys.readouterr().err
