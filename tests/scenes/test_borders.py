"""Batches filled across scenes: fewer forward passes, and the same objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rstinynet.detections import Detections
from rstinynet.errors import DataError
from rstinynet.scenes.borders import BorderEngine
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.ledger import Ledger
from rstinynet.scenes.stream import Engine, PredictOptions, predict

OPTIONS = PredictOptions(tile=64, overlap=16)
SIZES = ((64, 64), (64, 160), (64, 64), (64, 64), (40, 64), (112, 160))


@pytest.fixture
def scenes(
    paint: Callable[..., np.ndarray], write_tiff: Callable[..., Path], tmp_path: Path
) -> list[Path]:
    """1, 3, 1, 1, 1 and 6 tiles; the fifth scene's is smaller than the others'."""
    return [
        write_tiff(
            tmp_path / f"{at}.tif",
            paint(*size, [(5 + at, 8, 15 + 2 * at, 20), (30, 12 + at, 40, 30), (50, 20, 62, 30)]),
        )
        for at, size in enumerate(SIZES)
    ]


def search(
    detector: Detector, scenes: list[Path], engine: Engine | None, folder: Path
) -> tuple[dict[str, Detections], int]:
    """What each scene that can be read holds, and the number of forward passes."""
    detector.batch = 4
    before = detector.model.forwards  # type: ignore[attr-defined]
    found: dict[str, Detections] = {}
    for path in scenes:
        try:
            with Ledger(folder / path.stem) as ledger:
                result = predict(detector, path, OPTIONS, ledger=ledger, engine=engine)
                ledger.finish()
        except DataError:
            continue
        found[path.name] = result.detections
    return found, detector.model.forwards - before  # type: ignore[attr-defined]


def same(first: dict[str, Detections], second: dict[str, Detections]) -> None:
    assert first.keys() == second.keys()
    for name, found in first.items():
        assert len(found) > 0
        np.testing.assert_array_equal(found.boxes, second[name].boxes)
        np.testing.assert_array_equal(found.scores, second[name].scores)


def test_scenes_share_batches_and_hold_the_same(
    detector: Detector, scenes: list[Path], tmp_path: Path
) -> None:
    alone, forwards = search(detector, scenes, None, tmp_path / "a")
    engine = BorderEngine(detector, scenes, OPTIONS)
    together, fewer = search(detector, scenes, engine, tmp_path / "b")
    same(together, alone)
    # 4 tiles, 2 tiles, the small one, 4 and 2; before, a pass for each scene and two for the last.
    assert (forwards, fewer) == (7, 5)


def test_a_broken_scene_does_not_harm_its_neighbours(
    detector: Detector, scenes: list[Path], tmp_path: Path
) -> None:
    whole = scenes[1].read_bytes()
    scenes[1].write_bytes(whole[: len(whole) // 2])  # opens, and its later tiles cannot be read
    scenes[2].write_bytes(b"no picture")
    alone, forwards = search(detector, scenes, None, tmp_path / "a")
    engine = BorderEngine(detector, scenes, OPTIONS)
    together, fewer = search(detector, scenes, engine, tmp_path / "b")
    assert "1.tif" not in together
    assert len(together) == 4
    same(together, alone)
    assert fewer < forwards


def test_a_scene_that_changed_or_was_begun_is_searched_in_its_own_turn(
    detector: Detector, scenes: list[Path], paint: Callable[..., np.ndarray],
    write_tiff: Callable[..., Path], tmp_path: Path,
) -> None:  # fmt: skip
    engine = BorderEngine(detector, scenes[:4], OPTIONS, begun=[str(scenes[3])])
    search(detector, scenes[:1], engine, tmp_path / "a")
    write_tiff(scenes[1], paint(64, 160, [(100, 30, 110, 40)]))
    found, _ = search(detector, scenes[1:2], engine, tmp_path / "b")
    np.testing.assert_allclose(found["1.tif"].boxes, [[100, 30, 110, 40]], atol=1e-3)
    alone, _ = search(detector, scenes[2:4], None, tmp_path / "c")
    together, forwards = search(detector, scenes[2:4], engine, tmp_path / "d")
    same(together, alone)
    # The third went along with the second; the fourth has a ledger to ask.
    assert forwards == 1
