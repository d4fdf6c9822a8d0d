"""What a model costs: parameters, and floating-point operations of the form that is deployed.

Operations are 2 a multiply-accumulate, of convolutions, matrix products and the two products of
attention (q·k and attention·v); activations, pooling, resizing and decoding count nothing. By this
convention YOLO11m with 8 classes has 106.0 GFLOPs at 800 by 800.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rstinynet.errors import UsageError
from rstinynet.model.detector import DetectorModel
from rstinynet.model.presets import build

MOST_COUNTED = 65536
"""Largest side of an image whose cost is counted; far above, torch's sizes overflow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Size and cost of one model."""

    parameters: int
    """Trainable and frozen, BatchNorm not folded, without the parts that only training uses."""
    parameters_deployed: int
    """The same with BatchNorm folded into the convolutions."""
    gflops: float
    """1e9 operations of one forward pass of the deployed form on one image."""
    strides: tuple[int, ...]
    """Pixels between neighbouring anchors of each level, finest first."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "gflops": round(self.gflops, 3), "strides": list(self.strides)}


def cost_of(model: DetectorModel, *, imgsz: int = 800) -> Cost:
    """Cost of `model` on an image of `imgsz` by `imgsz` pixels; nothing is computed.

    Raises UsageError where `imgsz` is not a positive multiple of the model's divisor, or over
    `MOST_COUNTED`.
    """
    _check_size(model, imgsz)
    # On the meta device tensors have shapes and no values: any size costs no time or memory.
    return _cost_of_shapes(copy.deepcopy(model).to("meta"), imgsz)


def cost_of_named(name: str, *, num_classes: int = 8, imgsz: int = 800) -> Cost:
    """Cost of a named model, built without making its weights. UsageError for an unknown name."""
    with torch.device("meta"):
        model = build(name, num_classes)
    _check_size(model, imgsz)
    return _cost_of_shapes(model, imgsz)


def _check_size(model: DetectorModel, imgsz: int) -> None:
    if imgsz < 1 or imgsz % model.size_divisor:
        raise UsageError(
            f"imgsz must be a positive multiple of {model.size_divisor}, not {imgsz}; the nearest "
            f"is {max(1, round(imgsz / model.size_divisor)) * model.size_divisor}"
        )
    if imgsz > MOST_COUNTED:
        raise UsageError(f"imgsz must be at most {MOST_COUNTED} pixels, not {imgsz}")


def _cost_of_shapes(model: DetectorModel, imgsz: int) -> Cost:
    training_only = (model.auxiliary_branch, model.auxiliary_head)
    dropped = sum(count_parameters(part) for part in training_only if part is not None)
    deployed = model.deployed()
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        deployed(torch.empty(1, 3, imgsz, imgsz, device="meta"))
    return Cost(
        parameters=count_parameters(model) - dropped,
        parameters_deployed=count_parameters(deployed),
        gflops=counter.get_total_flops() / 1e9,
        strides=tuple(model.strides),
    )


def count_parameters(module: nn.Module) -> int:
    """All parameters, trainable and frozen, each shared one once."""
    return sum(parameter.numel() for parameter in module.parameters())
