"""No scene in two splits, shares kept, and the same again for a seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from rstinynet.data.annotations import Category, LabelledImage, LabelledSet
from rstinynet.data.split import by_block, by_prefix, by_scene, divide
from rstinynet.errors import DataError, UsageError


def labelled(paths):
    none = np.zeros(0)
    images = tuple(
        LabelledImage(
            id=at,
            path=path,
            width=10,
            height=10,
            boxes=np.zeros((0, 4), np.float32),
            labels=none.astype(np.int64),
            areas=none,
            crowd=none.astype(np.bool_),
            known=np.ones(1, np.bool_),
            exhaustive=np.ones(1, np.bool_),
        )
        for at, path in enumerate(paths)
    )
    return LabelledSet(images=images, categories=(Category(1, "a"),), fingerprint="f")


@pytest.fixture
def tiles(tmp_path):
    return labelled(
        [tmp_path / f"scene{s}__{x}_0.png" for s in range(20) for x in range(s % 4 + 1)]
    )


def scenes(split):
    return {image.path.stem.split("__")[0] for image in split.images}


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.1, 0.9))
@settings(max_examples=20, deadline=None)
def test_every_scene_is_whole_in_one_split(seed, share):
    made = labelled([Path(f"/s{s}__{x}_0.png") for s in range(20) for x in range(s % 4 + 1)])
    parts = divide(made, {"train": share, "val": 1 - share}, group=by_scene(), seed=seed)
    assert not scenes(parts["train"]) & scenes(parts["val"])
    assert sorted(i.id for part in parts.values() for i in part.images) == list(range(50))
    assert len(parts["train"]) == pytest.approx(50 * share, abs=4)


def test_a_seed_gives_the_same_splits_and_another_others(tiles):
    shares = {"train": 0.7, "val": 0.2, "test": 0.1}
    once = divide(tiles, shares, group=by_scene(), seed=1)
    assert divide(tiles, shares, group=by_scene(), seed=1) == once
    assert scenes(divide(tiles, shares, group=by_scene(), seed=2)["val"]) != scenes(once["val"])
    assert len({part.fingerprint for part in once.values()}) == 3
    assert all(len(part) for part in once.values())


def test_groups_by_expression_and_prefix(tiles, tmp_path):
    image = replace(tiles.images[0], path=tmp_path / "area7-tile9.png")
    assert by_scene(r"^area(\d+)")(image) == "7"
    assert by_scene()(image) == "area7-tile9"
    assert by_scene()(replace(image, path=tmp_path / "a_b_0_600.png")) == "a_b"
    for stem in ("P0_7__1__0___824", "P0_7__0.5__1648___0"):  # of one scene at two scales
        assert by_scene()(replace(image, path=tmp_path / f"{stem}.png")) == "P0_7"
    assert by_prefix(5)(image) == "area7"
    with pytest.raises(DataError, match="does not match"):
        by_scene("^zone(.)")(image)
    with pytest.raises(DataError, match="does not match"):
        by_scene(r"area7(-nothing)?")(image)


def test_georeferenced_tiles_go_by_block(tmp_path):
    paths = []
    for at, west in enumerate((10.0, 10.0001, 10.1, 10.1001)):
        path = tmp_path / f"{at}.tif"
        place = rasterio.Affine(1e-6, 0, west, 0, -1e-6, 50)
        options = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:4326"}
        with rasterio.open(path, "w", width=10, height=10, transform=place, **options) as file:
            file.write(np.zeros((1, 10, 10), np.uint8))
        paths.append(path)
    found = divide(labelled(paths), {"a": 1, "b": 1}, group=by_block(1000))
    assert sorted(sorted(i.id for i in part.images) for part in found.values()) == [[0, 1], [2, 3]]
    with pytest.raises(DataError, match="not georeferenced"):
        divide(labelled([tmp_path / "a.png"]), {"a": 1}, group=by_block(1000))


def test_what_makes_no_sense_is_refused(tiles):
    with pytest.raises(UsageError, match="must be above 0"):
        divide(tiles, {"train": 1, "val": -1}, group=by_scene())
    with pytest.raises(DataError, match=r"1 groups .* into 2 splits"):
        divide(tiles, {"train": 1, "val": 1}, group=by_prefix(5))
    for make in (lambda: by_scene("("), lambda: by_scene("abc"), lambda: by_prefix(0)):
        with pytest.raises(UsageError):
            make()
    with pytest.raises(UsageError, match="above 0 metres"):
        by_block(0)
