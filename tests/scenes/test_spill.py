"""Detections beyond memory: all of them, once, best first, in a bounded number of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rstinynet.detections import Detections
from rstinynet.scenes.spill import Spill, best_first, pack, unpack


def some(count: int, seed: int) -> Detections:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 900, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(4, 20, (count, 2))], axis=1)
    scores = rng.integers(0, 20, count) / 20  # many ties
    return Detections(
        boxes.astype(np.float32), scores.astype(np.float32), rng.integers(0, 3, count)
    )


def test_rows_hold_detections_exactly() -> None:
    found = some(50, 0)
    back = unpack(pack(found))
    np.testing.assert_array_equal(back.boxes, found.boxes)
    np.testing.assert_array_equal(back.scores, found.scores)
    np.testing.assert_array_equal(back.labels, found.labels)


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_spilled_equals_held_whatever_the_order_and_chunk(tmp_path: Path, size: int) -> None:
    parts = [some(n, seed) for seed, n in enumerate([0, 90, 1, 300, 40, 0, 120])]
    whole = Detections.concatenate(parts)
    whole = whole[best_first(whole)]
    spill = Spill(100, folder=tmp_path)
    for part in reversed(parts):
        spill.add(part)
    assert spill.spilled > 0
    for _ in range(2):  # as often as asked
        chunks = list(spill.chunks(size))
        assert max(map(len, chunks)) <= size
        np.testing.assert_array_equal(Detections.concatenate(chunks).boxes, whole.boxes)
        np.testing.assert_array_equal(spill.all().scores, whole.scores)
    assert len(spill) == len(whole)
    np.testing.assert_array_equal(spill.counts(5), np.bincount(whole.labels, minlength=5))
    assert list(tmp_path.iterdir()) == []  # nameless: nothing to leave behind
    spill.close()
    assert (len(spill), spill.spilled) == (0, 0)


def test_nothing_is_normal() -> None:
    spill = Spill()
    spill.add(Detections.empty())
    assert len(spill) == len(spill.all()) == spill.spilled == 0
    assert spill.counts(2).tolist() == [0, 0]
