"""What tests of more than one folder share."""

from __future__ import annotations

import pytest

from rstinynet.data.synthetic import make_synthetic


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory):
    """Makes a data set of synthetic images with a train and a val split."""

    def make(*, train, val, size):
        folder = tmp_path_factory.mktemp("mine")
        make_synthetic(folder, images=train, size=size)
        make_synthetic(folder, images=val, size=size, split="val")
        return folder

    return make
