"""An ONNX model as OpenVINO's two files, and quantised to eight bits by nncf."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rstinynet.detections import Float32Array
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


def quantise(model: Any, images: Sequence[Float32Array], *, keep: Sequence[str]) -> Any:
    """Weights and activations of an OpenVINO model in eight bits.

    `images` are inputs (1, 3, S, S) to calibrate on. Nodes whose names begin as one of `keep` stay
    in float: the decoding, and the last convolutions.
    """
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use to its makers
    try:
        import nncf
    except ImportError as error:
        raise ExportError("--int8 needs nncf: pip install 'rs-tinynet[export]'") from error
    from openvino._offline_transformations import apply_moc_transformations

    nncf.set_log_level(logging.ERROR)
    # Joins what is one operation, as convert_model does: a SiLU in two parts would be rounded
    # between them and computed apart from its convolution, in half as much time again.
    apply_moc_transformations(model, cf=False)
    names = [node.get_friendly_name() for node in model.get_ordered_ops()]
    kept = [name for name in names if name.startswith(tuple(keep))]
    return nncf.quantize(
        model,
        nncf.Dataset([np.asarray(image) for image in images]),
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
    )


def write_openvino(path: Path, model: Any, *, half: bool) -> None:
    """Write `path` (.xml) and its .bin, beside and renamed; the weights first."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / path.name
        openvino.save_model(model, beside, compress_to_fp16=half)
        write_bytes(path.with_suffix(".bin"), beside.with_suffix(".bin").read_bytes())
        write_bytes(path, beside.read_bytes())
