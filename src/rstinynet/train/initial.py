"""What a model starts from: chance, ImageNet, or the weights of an earlier run."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from rstinynet.errors import WeightsError
from rstinynet.model.detector import DetectorModel
from rstinynet.model.foreign import initialise_from_ultralytics, read_checkpoint
from rstinynet.model.lite0 import Lite0Backbone, imagenet_state, load_imagenet
from rstinynet.model.presets import build
from rstinynet.model.weights import load_weights

log = logging.getLogger(__name__)


def initial_model(
    name: str, num_classes: int, *, seed: int, init: Path | str | None = None
) -> DetectorModel:
    """The named model, its weights drawn from `seed`.

    A model on EfficientNet-Lite0 gets ImageNet weights, where `init` does not fill its trunk.
    `init`, a weights file or the name of shipped weights, gives every tensor that fits by name and
    shape. An Ultralytics checkpoint (`.pt`) initialises the models yolo11*, and is read without
    running its code.

    Raises WeightsError if `init` cannot be read or nothing of it fits.
    """
    torch.manual_seed(seed)
    model = build(name, num_classes)
    if init is not None and Path(init).suffix == ".pt":
        copied, left = initialise_from_ultralytics(model, read_checkpoint(init))
        log.info(
            "--init: %d of %d tensors come from %s; new: %s",
            len(copied),
            len(copied) + len(left),
            init,
            ", ".join(left) or "none",
        )
    elif init is not None:
        copy_fitting(model, init)
    elif isinstance(model.backbone, Lite0Backbone):
        load_imagenet(model.backbone.trunk, imagenet_state())
    return model


def copy_fitting(model: DetectorModel, init: Path | str) -> int:
    """Copy tensors of `init` that fit `model` by name and shape; how many values were copied.

    A trunk of EfficientNet-Lite0 that they do not fill begins from ImageNet weights.
    """
    source, metadata = load_weights(init)
    theirs = source.state_dict()
    ours = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in theirs.items()
        if name in ours and ours[name].shape == tensor.shape
    }
    copied: int = sum(tensor.numel() for tensor in fitting.values())
    total = sum(tensor.numel() for tensor in ours.values())
    if not any(tensor.ndim > 1 for tensor in fitting.values()):
        raise WeightsError(f"nothing in {init} ({metadata.model}) fits this model")
    if isinstance(model.backbone, Lite0Backbone):
        trunk = [name for name in ours if name.startswith("backbone.trunk.")]
        if not fitting.keys() >= set(trunk):
            load_imagenet(model.backbone.trunk, imagenet_state())
    model.load_state_dict(fitting, strict=False)
    log.info("--init: %.0f %% of the model's values come from %s", 100 * copied / total, init)
    return copied
