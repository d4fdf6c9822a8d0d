"""A limit on memory: read, refused when too small, and held whatever the size of the scene."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rstinynet.errors import UsageError
from rstinynet.scenes import memory
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.reader import Scene
from rstinynet.scenes.stream import PredictOptions, predict

MIB = 2**20


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2**31), ("800 MB", 8 * 10**8), ("3e9", 3 * 10**9), ("64k", 64_000)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert memory.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "2TiB x", "1.2.3M", "0"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="such as 2GiB"):
        memory.parse_size(text)


def test_a_limit_too_small_for_the_model_says_what_is_needed(detector: Detector) -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    with pytest.raises(UsageError, match=r"limit of 50 MiB is too small.*give at least \d+MiB"):
        predict(detector, image, PredictOptions(memory_limit=50 * MIB))


def test_less_room_makes_smaller_parts(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak_bytes", lambda: 100 * MIB)
    with Scene(np.zeros((2000, 2000, 3), np.uint8)) as scene:
        plans = [
            memory.plan(detector, scene, tile=640, batch=1, limit=limit)
            for limit in (210 * MIB, 300 * MIB, 2**40, None)
        ]
    for less, more in pairwise(plans):
        assert less.cache <= more.cache
        assert less.rows <= more.rows
    assert plans[0].rows < plans[-1].rows
    assert memory.exceeded(99 * MIB)[0].startswith("the search held 100 MiB")
    assert memory.exceeded(101 * MIB) == memory.exceeded(None) == ()


def test_more_objects_than_rows_are_all_written(
    detector: Detector,
    paint: Callable[..., np.ndarray],
    scattered: list[tuple[int, int, int, int]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    image = paint(400, 500, scattered)
    whole = predict(detector, image, PredictOptions(tile=128))
    small = memory.Plan(cache=2**24, ahead=1, readers=1, rows=7)
    monkeypatch.setattr(memory, "plan", lambda *args, **options: small)
    spilled = predict(detector, image, PredictOptions(tile=128))
    assert spilled.found.spilled > 0
    np.testing.assert_array_equal(spilled.boxes.xyxy, whole.boxes.xyxy)
    assert spilled.counts() == whole.counts()
    assert len(spilled.found.best(5)) == 5
    first = spilled.save(tmp_path / "a", formats=["csv", "png"])["csv"]
    second = whole.save(tmp_path / "b", formats=["csv"])["csv"]
    assert first.read_bytes() == second.read_bytes()


def test_the_limit_is_held_on_a_scene_larger_than_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # 15,000 by 15,000 by 3 is 644 MiB; the program alone takes most of what is allowed.
    script = Path(__file__).parents[2] / "benchmarks" / "scene_memory.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--sides", "15000", "--limit", "620MiB"])
    assert runpy.run_path(str(script))["main"]() == 0
    side, objects, found, _, peak, above, _ = (
        float(cell) for cell in capsys.readouterr().out.splitlines()[-1].strip("| ").split("|")
    )
    assert (side, found) == (15000, objects)
    assert above < 200
    assert peak <= 620


def test_what_the_model_takes_is_measured_at_the_scales_of_the_search(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    find = detector.backend.find

    def noted(batch: np.ndarray, **options: Any) -> Any:
        seen.append(batch.shape[1:3])
        return find(batch, **options)

    monkeypatch.setattr(detector.backend, "find", noted)
    detector.predict(np.zeros((64, 64, 3), np.uint8), scale=(1, 2), memory_limit=2**35)
    # Once before the search, and once for its one tile.
    assert seen == [(64, 64), (128, 128)] * 2
