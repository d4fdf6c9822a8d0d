"""A data folder small enough to be learnt by heart."""

from __future__ import annotations

import shutil

import pytest

from rstinynet.data.synthetic import make_synthetic


@pytest.fixture(scope="session")
def tiles(tmp_path_factory):
    """A folder with four tiles, the same for train and val."""
    folder = tmp_path_factory.mktemp("tiles")
    annotations = make_synthetic(folder, images=4, size=64, seed=3)
    shutil.copyfile(annotations, folder / "val.json")
    return folder
