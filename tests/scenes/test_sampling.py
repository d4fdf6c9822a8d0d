"""Percentiles of scenes too large to be read whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rstinynet.model.weights import Scaling
from rstinynet.scenes import raster, reader
from rstinynet.scenes.windows import Window


@pytest.mark.parametrize("shape", [(40, 900, 1), (900, 40, 1), (300, 300, 1)])
def test_scenes_narrower_than_a_block_are_sampled(
    write_tiff: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int],
) -> None:
    monkeypatch.setattr(raster, "_WHOLE", 1000)
    values = np.random.default_rng(0).integers(100, 201, shape, dtype=np.uint16)
    path = write_tiff(tmp_path / "a.tif", values)
    with reader.Scene(path, scaling=Scaling(kind="percentile", low=0, high=100)) as scene:
        assert scene.limits is not None
        assert (scene.limits[0][0], scene.limits[1][0]) == (100, 200)
        image = scene.read(Window(0, 0, 40, 40, (0, 0, 40, 40))).image
    assert (image.min(), image.max()) == (0, 255)


def test_a_little_data_between_the_blocks_is_sampled_too(
    write_tiff: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raster, "_WHOLE", 1000)
    values = np.zeros((2600, 2600, 1), np.uint16)
    # Blocks of 256 begin every 334 or 335 pixels.
    values[260:330, 260:330] = np.random.default_rng(0).integers(100, 201, (70, 70, 1))
    path = write_tiff(tmp_path / "a.tif", values, nodata=0)
    with reader.Scene(path, scaling=Scaling(kind="percentile", low=0, high=100)) as scene:
        assert scene.limits is not None
        assert (scene.limits[0][0], scene.limits[1][0]) == (100, 200)
