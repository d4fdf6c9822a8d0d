"""What tests of more than one folder share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from rstinynet.data.synthetic import make_synthetic

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def load_script():
    """Makes a module of a program that is in no package, by its path in the repository."""
    loaded = []

    def load(path):
        spec = importlib.util.spec_from_file_location(f"script_{Path(path).stem}", ROOT / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look there
        loaded.append(spec.name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory):
    """Makes a data set of synthetic images with a train and a val split."""

    def make(*, train, val, size):
        folder = tmp_path_factory.mktemp("mine")
        make_synthetic(folder, images=train, size=size)
        make_synthetic(folder, images=val, size=size, split="val")
        return folder

    return make
