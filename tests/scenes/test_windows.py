"""Windows cover everything; cores partition it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstinynet.errors import UsageError
from rstinynet.scenes.windows import count, rows, spans


@given(length=st.integers(1, 3000), tile=st.integers(32, 700), share=st.floats(0, 0.9))
def test_spans_are_whole_tiles_inside_that_share_at_least_the_overlap(
    length: int, tile: int, share: float
) -> None:
    overlap = int(tile * share)
    found = spans(length, tile, overlap)
    size = min(tile, length)
    assert found[0].start == 0
    assert found[-1].start + size == length
    for one, other in pairwise(found):
        assert one.start < other.start
        assert one.start + size - other.start >= overlap
        assert one.high == other.low
        assert other.start <= one.high <= one.start + size


def test_every_pixel_lies_in_one_core() -> None:
    owners = np.zeros((230, 310), int)
    y, x = np.mgrid[:230, :310] + 0.5
    windows = [w for row in rows(310, 230, tile=100, overlap=30) for w in row]
    for window in windows:
        x0, y0, x1, y1 = window.core
        owners += (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        assert (window.width, window.height) == (100, 100)
    assert (owners == 1).all()
    assert len(windows) == count(310, 230, tile=100, overlap=30)


def test_refuses_an_overlap_as_large_as_the_tile() -> None:
    with pytest.raises(UsageError, match="overlap must be"):
        spans(1000, 100, 100)
