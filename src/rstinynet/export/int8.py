"""Weights and activations of an exported model in eight bits, by nncf."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rstinynet.data.folder import open_split, splits_of
from rstinynet.data.image import read_rgb
from rstinynet.detections import Float32Array
from rstinynet.errors import DataError, ExportError, UsageError
from rstinynet.export.onnx_file import INPUT
from rstinynet.export.sizes import PREFIX
from rstinynet.model.detector import DetectorModel
from rstinynet.scenes.sources import SUFFIXES

BETWEEN = {
    "onnx": "Add Mul Concat MatMul ReduceMean Softmax Sigmoid Div Sub Resize AveragePool MaxPool",
    "openvino": "Add Multiply Concat MatMul ReduceMean Softmax Sigmoid Divide Subtract Interpolate "
    "AvgPool MaxPool",
}
"""What lies between convolutions, by the format's names."""
MOST_IMAGES = 128
"""Most images that calibration reads."""


def quantise(
    model: Any, images: Sequence[Float32Array], *, keep: Sequence[str], accurate: bool = False
) -> Any:
    """A quantised copy of an ONNX or OpenVINO model.

    `images` are inputs (1, 3, S, S) to calibrate on. Nodes whose names begin as one of `keep` stay
    in float; with `accurate` also depthwise convolutions and what lies between convolutions, and in
    OpenVINO biases are corrected layer by layer on what the layers before really give.
    Ranges of activations need not be symmetric: SiLU's are not.
    """
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use to its makers
    try:
        import nncf
    except ImportError as error:
        raise ExportError("--int8 needs nncf: pip install 'rs-tinynet[export]'") from error
    # Not nncf.set_log_level: it changes other people's handlers on its logger too.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    inputs: list[Any] = [np.asarray(image) for image in images]
    form = "onnx" if isinstance(model, onnx.ModelProto) else "openvino"
    if form == "onnx":
        names = [node.name for node in model.graph.node]
        apart = [n.name for n in model.graph.node if n.op_type == "Conv" and _groups(n) > 1]
        inputs = [{INPUT: image} for image in inputs]
    else:
        from openvino._offline_transformations import apply_moc_transformations

        # Joins what is one operation, as convert_model does: a SiLU in two parts would be rounded
        # between them and computed apart from its convolution, in half as much time again.
        apply_moc_transformations(model, cf=False)
        nodes = model.get_ordered_ops()
        names = [node.get_friendly_name() for node in nodes]
        apart = [n.get_friendly_name() for n in nodes if n.get_type_name() == "GroupConvolution"]
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        # Of ONNX nncf loses a node on the way, and takes the fast one.
        fast_bias_correction=not accurate or form == "onnx",
        ignored_scope=nncf.IgnoredScope(
            names=[name for name in names if name.startswith((PREFIX, *keep))]
            + (apart if accurate else []),
            types=BETWEEN[form].split() if accurate else [],
            validate=False,
        ),
    )


def _groups(node: onnx.NodeProto) -> int:
    return next((int(one.i) for one in node.attribute if one.name == "group"), 1)


def kept_in_float(model: DetectorModel, parts: Sequence[str] = ()) -> list[str]:
    """What the names of nodes begin with that stay in float: the last convolutions, and `parts`.

    UsageError for a part that the model does not have.
    """
    there = [name for name, _ in model.named_children()]
    for part in parts:
        if part not in there:
            raise UsageError(f"the model has no part {part!r} to keep in float; it has {there}")
    return ["decode/", *last_convolutions(model), *(f"{part}." for part in parts)]


def last_convolutions(model: DetectorModel) -> list[str]:
    """Names of the head's last convolutions, of classes and of sides."""
    branches = {"box": model.head.box, "classify": model.head.classify}
    return [
        f"head.{kind}.{level}.{len(list(branch.children())) - 1}"
        for kind, levels in branches.items()
        for level, branch in enumerate(levels)
    ]


def calibration_images(folder: Path) -> list[Any]:
    """Up to `MOST_IMAGES` images of a folder, spread evenly; DataError without any.

    Of a labelled data set those of its train split, so that the others stay unseen.
    """
    if folder.exists() and "train" in splits_of(folder):
        paths = [image.path for image in open_split(folder, "train").images]
    else:
        paths = (
            sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if folder.is_dir()
            else []
        )
    if not paths:
        raise DataError(
            f"calibration needs a folder of images like those the model is for; {folder} has none"
        )
    chosen = np.unique(np.linspace(0, len(paths) - 1, MOST_IMAGES).round().astype(int))
    return [read_rgb(paths[at]) for at in chosen]
