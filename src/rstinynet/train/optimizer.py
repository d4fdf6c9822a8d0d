"""The optimiser and its parameter groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rstinynet.model.backbone import Trunk
from rstinynet.model.lite0 import Lite0Trunk
from rstinynet.train import schedule
from rstinynet.train.recipe import Recipe

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Weights, norms and biases, each apart for the pretrained trunk (see `trunk`) and the rest.

    Only weights decay. Every group carries `is_bias` and `lr_factor` for the schedule.
    """
    decay = recipe.weight_decay
    if recipe.nominal_batch is not None:
        summed = max(1, round(recipe.nominal_batch / recipe.batch)) * recipe.batch
        decay *= summed / recipe.nominal_batch
    sorted_out: dict[tuple[bool, str], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        in_trunk = module_name.startswith("backbone.trunk")
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if name == "bias":
                kind = "bias"
            elif isinstance(module, NORMS) or parameter.ndim <= 1:
                kind = "norm"
            else:
                kind = "weight"
            sorted_out.setdefault((in_trunk, kind), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": decay if kind == "weight" else 0.0,
            "is_bias": kind == "bias",
            "lr_factor": recipe.backbone_lr_factor if in_trunk else 1.0,
        }
        for (in_trunk, kind), parameters in sorted(sorted_out.items())
    ]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW; one kernel for all parameters.

    On a CPU that takes AdamW's step of YOLO11n from 11 to 5 ms.
    """
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "adamw":
        betas = (recipe.momentum, 0.999)
        return torch.optim.AdamW(groups, lr=recipe.lr0, betas=betas, fused=True)
    momentum = recipe.momentum
    nesterov = momentum > 0  # without momentum there is none to look ahead by, and torch refuses
    return torch.optim.SGD(groups, lr=recipe.lr0, momentum=momentum, nesterov=nesterov, fused=True)


def set_rates(
    optimizer: torch.optim.Optimizer, recipe: Recipe, *, done: float, iteration: int, warmup: int
) -> float:
    """Set every group's learning rate, and SGD's momentum; return the rate of the main weights."""
    for group in optimizer.param_groups:
        rate = schedule.learning_rate(
            recipe, done, iteration=iteration, warmup=warmup, is_bias=group["is_bias"]
        )
        group["lr"] = rate * group["lr_factor"]
        if recipe.optimizer == "sgd":
            group["momentum"] = schedule.momentum(recipe, iteration=iteration, warmup=warmup)
    return schedule.learning_rate(recipe, done, iteration=iteration, warmup=warmup, is_bias=False)


def trunk(model: nn.Module) -> nn.Module | None:
    """The part of the backbone that pretrained weights fill: `model.backbone.trunk`."""
    found = getattr(getattr(model, "backbone", None), "trunk", None)
    return found if isinstance(found, nn.Module) else None


def freeze_backbone(model: nn.Module, *, frozen: bool, level: int = 0) -> None:
    """Hold or release the backbone's trunk: its parameters and its norms' statistics.

    The parts that lead to pyramid level `level` are held in either case.
    """
    part = trunk(model)
    if part is None:
        return
    part.requires_grad_(not frozen)
    part.train(not frozen)
    for held in part.up_to(level) if isinstance(part, Trunk | Lite0Trunk) else ():
        held.requires_grad_(False)
        held.train(False)
