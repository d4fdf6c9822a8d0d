"""A packaged model as a STAC item of the Machine Learning Model extension, version 1.4.

STAC 1.1 (https://stacspec.org), MLM (https://github.com/stac-extensions/mlm) and File
(https://github.com/stac-extensions/file). The item has no place on the ground.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rstinynet.export.licence import Licence
from rstinynet.export.onnx_file import INPUT, NMS_IOU, OUTPUT
from rstinynet.model.metadata import Scaling, WeightsMetadata

MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
BANDS = ("red", "green", "blue")
_BANDS = [{"name": name} for name in BANDS]
_TASKS = ["object-detection"]
_BINARY = "application/octet-stream; framework={}"


def mlm_item(
    folder: Path,
    metadata: WeightsMetadata,
    *,
    title: str,
    licence: Licence,
    shape: tuple[int, int],
    parameters: int,
) -> dict[str, Any]:
    """The item of the files in `folder`, whose links lead to files beside it.

    `shape` is the side of the ONNX file's input in pixels and the number of anchors of its output.
    """
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, FILE],
        "id": re.sub(r"[^\w.-]", "-", title),
        "geometry": None,
        "properties": {
            "datetime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "title": title,
            "description": f"Finds {', '.join(metadata.names)} in remote-sensing images.",
            "license": licence.spdx,
            "bands": _BANDS,
            "mlm:name": _name(title),
            "mlm:architecture": metadata.model,
            "mlm:tasks": _TASKS,
            "mlm:framework": "PyTorch",
            "mlm:total_parameters": parameters,
            "mlm:accelerator_constrained": False,
            "mlm:input": [_input(metadata, shape[0])],
            "mlm:output": [_output(metadata, shape[1])],
            "mlm:hyperparameters": {
                "tile": metadata.imgsz,
                "scale": metadata.scale,
                "confidence": list(metadata.class_conf or [metadata.conf]),
                "temperature": metadata.temperature,
                "nms_iou": NMS_IOU,
            },
        },
        "links": [{"rel": "license", "href": "./LICENSE", "type": "text/plain"}],
        "assets": {
            "weights": _model(
                folder / "model.safetensors",
                "Weights, run by rs-tinynet",
                role="mlm:weights",
                artifact="safetensors.torch.save",
            ),
            "onnx": _model(
                folder / "model.onnx",
                "ONNX, run by rs-tinynet, ONNX Runtime or QGIS Deepness",
                role="mlm:compiled",
                artifact="onnx.save",
            ),
            "example": _asset(
                folder / "example.py",
                "Finds the objects of an image",
                type="text/x-python",
                roles=["mlm:source_code", "code"],
            )
            | {"mlm:entrypoint": "example:main"},
            "card": _asset(
                folder / "README.md", "Model card", type="text/markdown", roles=["metadata"]
            ),
        },
    }


def _name(title: str) -> str:
    """As MLM wants it: letters, digits, dots, dashes; a letter first, none of these last."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", title).strip("_.-")
    return name if re.match("[A-Za-z].+", name) else f"model-{name}"


def _input(metadata: WeightsMetadata, side: int) -> dict[str, Any]:
    return {
        "name": INPUT,
        "description": (
            f"RGB of 8 bits{resized(metadata)}, padded with grey (114) at the right and bottom. "
            f"{other_sources(metadata.scaling)} One band is repeated."
        ),
        "bands": list(BANDS),
        "input": {
            "shape": [-1, len(BANDS), side, side],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": [{"type": "min-max", "minimum": 0, "maximum": 255}],
        "resize_type": "pad",
    }


def resized(metadata: WeightsMetadata) -> str:
    """By how much an image is resized first, where it is."""
    return "" if metadata.scale == 1 else f", resized by {metadata.scale:g}"


def other_sources(scaling: Scaling) -> str:
    """How values of other types become 8-bit, as a sentence."""
    if scaling.kind == "dtype":
        return "Sources of other types are divided by the type's largest value."
    what = "percentiles" if scaling.kind == "percentile" else "values"
    return (
        f"Sources of other types are stretched between the {what} {scaling.low:g} and "
        f"{scaling.high:g}."
    )


def _output(metadata: WeightsMetadata, anchors: int) -> dict[str, Any]:
    return {
        "name": OUTPUT,
        "description": (
            "Of each anchor: centre x, centre y, width, height in pixels of the input, then one "
            "score in [0, 1] a class. Overlaps remain: suppress them by class."
        ),
        "tasks": _TASKS,
        "result": {
            "shape": [-1, 4 + len(metadata.names), anchors],
            "dim_order": ["batch", "feature", "anchor"],
            "data_type": "float32",
        },
        "classification:classes": [
            {
                "value": label,
                "name": re.sub(r"[^\w-]", "_", name, flags=re.ASCII),
                "title": name,
                "description": name,
            }
            for label, name in enumerate(metadata.names)
        ],
        "post_processing_function": {"format": "python", "expression": "rstinynet.load"},
    }


def _model(path: Path, title: str, *, role: str, artifact: str) -> dict[str, Any]:
    roles = ["mlm:model", role, "data"]
    # STAC 1.1 allows an item's bands only where an asset names its own.
    return _asset(path, title, type=_BINARY.format(path.suffix[1:]), roles=roles) | {
        "mlm:artifact_type": artifact,
        "bands": _BANDS,
    }


def _asset(path: Path, title: str, *, type: str, roles: list[str]) -> dict[str, Any]:
    content = path.read_bytes()
    return {
        "href": f"./{path.name}",
        "title": title,
        "type": type,
        "roles": roles,
        "file:size": len(content),
        # A multihash: 12 is SHA-256, 20 its length of 32 bytes.
        "file:checksum": f"1220{hashlib.sha256(content).hexdigest()}",
    }
