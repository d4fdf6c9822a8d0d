"""Every named family at scale n gives in ONNX Runtime and OpenVINO what it gives in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rstinynet.export.check import compare, torch_output
from rstinynet.export.onnx_file import build_onnx, write_onnx
from rstinynet.export.openvino_file import to_openvino, write_openvino
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.model.presets import NAMES, build
from rstinynet.runtime.onnx_backend import OnnxBackend
from rstinynet.runtime.openvino_backend import OpenvinoBackend

FAMILIES = [name for name in NAMES if name.endswith(("-n", "11n", "n-p2", "-lite"))]
SIDE = 96
"""Not a multiple of MDCA's grid at any level."""


@pytest.mark.parametrize("name", FAMILIES)
def test_both_runtimes_equal_torch(name, tmp_path):
    torch.manual_seed(0)
    model = build(name, 3)
    for part, tensor in model.state_dict().items():
        if part.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif part.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    metadata = WeightsMetadata(model=name, names=("a", "b", "c"), category_ids=(1, 2, 3))
    made = build_onnx(model, metadata, imgsz=SIDE)
    # A batch that the graph was not recorded with.
    x = np.random.default_rng(0).random((3, 3, SIDE, SIDE), np.float32)
    wanted = torch_output(model.deployed(), x)

    write_onnx(tmp_path / "m.onnx", made)
    exported = OnnxBackend(tmp_path / "m.onnx", device="cpu")
    compare(wanted, exported.output(x), precision="float32", where="onnx")
    assert exported.side == SIDE

    write_openvino(tmp_path / "m.xml", to_openvino(made), half=False)
    compiled = OpenvinoBackend(tmp_path / "m.xml")
    compare(wanted, compiled.output(x), precision="float32", where="openvino")
    assert compiled.metadata == exported.metadata
