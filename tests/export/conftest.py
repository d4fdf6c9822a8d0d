"""A small model, and its ONNX file, that the tests of this folder share."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from rstinynet.cli.main import run
from rstinynet.model.presets import build
from rstinynet.model.weights import WeightsMetadata, save_weights

SIDE = 96


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A model whose fresh head finds something everywhere, with thresholds to match."""
    torch.manual_seed(0)
    model = build("yolo11n", 2)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.fill_(0.03)
    with torch.no_grad():
        for branch in model.head.classify:
            branch[-1].bias.zero_()
        maps = model.eval()(torch.rand(1, 3, SIDE, SIDE)).main
        for branch, level in zip(model.head.classify, maps, strict=True):
            factor = 1.5 / level[0, 64:].std()
            branch[-1].weight.mul_(factor)
            branch[-1].bias.fill_(float(-2 - level[0, 64:].mean() * factor))
    metadata = WeightsMetadata(
        model="yolo11n",
        names=("vehicle", "storage-tank"),
        category_ids=(1, 4),
        imgsz=SIDE,
        conf=0.3,
        gsd_m=(0.2, 0.4),
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, model, metadata)
    return path


@pytest.fixture(scope="session")
def exported(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    assert run(["export", str(weights), "--out", str(path)]) == 0
    return path


WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(name, name="torch")
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="session")
def without_torch():
    """Runs code, with arguments, in a process that cannot import torch."""

    def run_code(code, *arguments):
        command = [sys.executable, "-c", WITHOUT_TORCH + code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run_code
