"""Random weights with something to find, so that selection and NMS have work in a measurement."""

from __future__ import annotations

import torch
from torch import nn

from rstinynet.detections import Float32Array
from rstinynet.model.decode import REG_MAX
from rstinynet.model.detector import DetectorModel

CLASSES = 8
CANDIDATES = 300
"""(Anchor, class) pairs that pass the threshold; the shipped weights have about as many on a
crowded image."""
CONF = 0.25


def enliven(model: DetectorModel, x_13HW: Float32Array, *, candidates: int = CANDIDATES) -> None:
    """Change the head's last convolutions, in place.

    On this input so many candidates then score over `CONF`, and boxes are about a stride across.
    """
    model.eval()
    for name, tensor in model.state_dict().items():
        # Else activations of random weights fade to one value on the way.
        if name.endswith("running_var"):
            tensor.fill_(0.1)
    with torch.inference_mode():
        maps = model(torch.from_numpy(x_13HW)).main
    narrow = -torch.arange(REG_MAX, dtype=torch.float32).repeat(4)
    logits = []
    with torch.no_grad():
        for classify, box, level in zip(model.head.classify, model.head.box, maps, strict=True):
            scores = level[0, 4 * REG_MAX :].clone()
            factor = 1.5 / float(scores.std().clamp(min=1e-6))
            last, sides = _last(classify), _last(box)
            assert last.bias is not None
            assert sides.bias is not None
            last.weight.mul_(factor)
            last.bias.copy_((last.bias - scores.mean()) * factor)
            logits.append(((scores - scores.mean()) * factor).flatten())
            sides.weight.mul_(0.1 / float(level[0, : 4 * REG_MAX].std().clamp(min=1e-6)))
            sides.bias.copy_(narrow)
        flat = torch.cat(logits)
        # Half-way between the last that passes and the first that does not.
        best = flat.topk(min(candidates + 1, len(flat))).values[-2:].mean()
        shift = torch.logit(torch.tensor(CONF)) - best
        for classify in model.head.classify:
            last = _last(classify)
            assert last.bias is not None
            last.bias.add_(shift)


def _last(branch: nn.Module) -> nn.Conv2d:
    assert isinstance(branch, nn.Sequential)
    conv = branch[-1]
    assert isinstance(conv, nn.Conv2d)
    return conv
