"""What a model starts from: chance, ImageNet, or the weights of an earlier run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rstinynet.errors import WeightsError
from rstinynet.model.detector import DetectorModel
from rstinynet.model.foreign import read_checkpoint, translated
from rstinynet.model.lite0 import Lite0Backbone, imagenet_state, load_imagenet
from rstinynet.model.presets import build
from rstinynet.model.weights import load_weights

log = logging.getLogger(__name__)


def initial_model(
    name: str,
    num_classes: int,
    *,
    seed: int,
    init: Path | str | None = None,
    names: Sequence[str] = (),
) -> DetectorModel:
    """The named model, its weights drawn from `seed`.

    A model on EfficientNet-Lite0 gets ImageNet weights, where `init` does not fill its trunk.
    `init`, a weights file or the name of shipped weights, gives every tensor that fits by name and
    shape, and the outputs of those of the classes `names` (by label) that it knows by that name.
    An Ultralytics checkpoint (`.pt`) gives the models yolo11* the same, and is read without
    running its code.

    Raises WeightsError if `init` cannot be read or nothing of it fits.
    """
    torch.manual_seed(seed)
    model = build(name, num_classes)
    if init is not None:
        copy_fitting(model, init, names=names)
    elif isinstance(model.backbone, Lite0Backbone):
        load_imagenet(model.backbone.trunk, imagenet_state())
    return model


def copy_fitting(model: DetectorModel, init: Path | str, *, names: Sequence[str]) -> int:
    """Copy tensors of `init` that fit `model` by name and shape; how many values were copied.

    `init` is a weights file, the name of shipped weights, or an Ultralytics checkpoint. Of the last
    convolution of each class branch, the rows of those of the model's classes `names` (by label)
    are copied that `init` has under the same name; the others stay as they are, at their prior. A
    trunk of EfficientNet-Lite0 that `init` does not fill begins from ImageNet weights. Raises
    WeightsError if `init` cannot be read or nothing of it fits.
    """
    theirs, their_names, kind = _read(model, init)
    ours = model.state_dict()
    outputs = _class_outputs(model)
    fitting = {
        name: tensor
        for name, tensor in theirs.items()
        if name in ours and name not in outputs and ours[name].shape == tensor.shape
    }
    copied: int = sum(tensor.numel() for tensor in fitting.values())
    total = sum(tensor.numel() for tensor in ours.values())
    if not any(tensor.ndim > 1 for tensor in fitting.values()):
        raise WeightsError(f"nothing in {init} ({kind}) fits this model")
    known = [name for name in names if name in their_names]
    rows = [names.index(name) for name in known]
    from_rows = [their_names.index(name) for name in known]
    taken: list[str] = []
    for name in outputs:
        if name in theirs and theirs[name].shape == (len(their_names), *ours[name].shape[1:]):
            values = theirs[name][from_rows]
            fitting[name] = _with_rows(ours[name], rows, values)
            copied += values.numel()
            if values.ndim > 1:  # A bias alone tells no class from another.
                taken = known
    if isinstance(model.backbone, Lite0Backbone):
        trunk = [name for name in ours if name.startswith("backbone.trunk.")]
        if not fitting.keys() >= set(trunk):
            load_imagenet(model.backbone.trunk, imagenet_state())
    model.load_state_dict(fitting, strict=False)
    log.info(
        "--init: %.0f %% of the model's values come from %s; classes by name: %s; new classes: %s",
        100 * copied / total,
        init,
        ", ".join(taken) or "none",
        ", ".join(name for name in names if name not in taken) or "none",
    )
    return copied


def _read(model: DetectorModel, init: Path | str) -> tuple[dict[str, Tensor], tuple[str, ...], str]:
    """The tensors of `init` by our names, its classes by label, and what model it is of."""
    if Path(init).suffix == ".pt":
        checkpoint = read_checkpoint(init)
        return translated(model, checkpoint.tensors), checkpoint.names, "an Ultralytics checkpoint"
    source, metadata = load_weights(init)
    return source.state_dict(), tuple(metadata.names), metadata.model


def _class_outputs(model: DetectorModel) -> list[str]:
    """Names of the tensors that have a row for each class."""
    found = []
    for level, branch in enumerate(model.head.classify):
        assert isinstance(branch, nn.Sequential)
        last = f"head.classify.{level}.{len(branch) - 1}"
        found += [f"{last}.weight", f"{last}.bias"]
    return found


def _with_rows(tensor: Tensor, rows: Sequence[int], values: Tensor) -> Tensor:
    """A copy of `tensor` (C, ...) that has `values` (len(rows), ...) as these rows."""
    changed = tensor.clone()
    changed[list(rows)] = values
    return changed
