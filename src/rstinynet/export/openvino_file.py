"""An ONNX model as OpenVINO's two files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx

from rstinynet.errors import ExportError
from rstinynet.files import write_bytes
from rstinynet.model.metadata import METADATA_KEY


def to_openvino(made: onnx.ModelProto) -> Any:
    """The same network for OpenVINO, with our metadata in its rt_info."""
    try:
        import openvino
    except ImportError as error:
        raise ExportError(
            "the format openvino needs OpenVINO: pip install 'rs-tinynet[export]'"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(made.SerializeToString())
        # Not convert_model, which starts processes that report the use to its makers.
        model = openvino.Core().read_model(str(path))
    properties = {entry.key: entry.value for entry in made.metadata_props}
    model.set_rt_info(properties[METADATA_KEY], METADATA_KEY)
    return model


def write_openvino(path: Path, model: Any, *, half: bool) -> None:
    """Write `path` (.xml) and its .bin, beside and renamed; the weights first."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / path.name
        openvino.save_model(model, beside, compress_to_fp16=half)
        write_bytes(path.with_suffix(".bin"), beside.with_suffix(".bin").read_bytes())
        write_bytes(path, beside.read_bytes())
