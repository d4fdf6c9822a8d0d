"""The synthetic set is deterministic and its boxes are tight around what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from rstinynet.data.folder import open_split
from rstinynet.data.image import read_rgb
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import UsageError


def test_the_same_seed_makes_the_same_files(tmp_path):
    for name in ("a", "b"):
        make_synthetic(tmp_path / name, images=2, size=64, seed=5)
    make_synthetic(tmp_path / "c", images=2, size=64, seed=6)
    first, second, other = (
        b"".join(path.read_bytes() for path in sorted((tmp_path / name).rglob("*.*")))
        for name in "abc"
    )
    assert first == second
    assert first != other


def test_boxes_are_tight_around_objects_that_stand_out(tmp_path):
    make_synthetic(tmp_path, images=3, size=128)
    for image in open_split(tmp_path, "train").images:
        pixels = read_rgb(image.path).astype(int)
        assert set(image.labels.tolist()) == {0, 1}
        outlier = (pixels.min(axis=2) >= 200) | (pixels.max(axis=2) <= 45)
        for left, top, right, bottom in image.boxes.astype(int):
            inside = outlier[top:bottom, left:right]
            assert inside.any(axis=0).all()
            assert inside.any(axis=1).all()
            around = outlier[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2]
            assert around.sum() == inside.sum()


def test_partial_labels_know_one_class_an_image(tmp_path):
    make_synthetic(tmp_path, images=4, size=96, partial=True)
    labelled = open_split(tmp_path, "train")
    assert [image.known.tolist() for image in labelled.images] == [
        [True, False],
        [False, True],
        [True, False],
        [False, True],
    ]
    assert all(
        np.isin(image.labels, np.flatnonzero(image.known)).all() for image in labelled.images
    )


def test_too_small_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="at least 44 pixels"):
        make_synthetic(tmp_path, size=16)
