"""What a model's config takes, and what it refuses before anything is built."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rstinynet.errors import UsageError
from rstinynet.model.config import MDCAConfig, ModelConfig, PFDHConfig
from rstinynet.model.detector import DetectorModel
from rstinynet.model.presets import NAMES, config

NAN = float("nan")


def made(**changes: Any) -> ModelConfig:
    given: dict[str, Any] = {"scale": "n", "num_classes": 3}
    return ModelConfig(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": "q"}, "ModelConfig.scale must be one of n, s, m, l, x, not 'q'"),
        ({"scale": ["n"]}, r"ModelConfig.scale must be one of n, s, m, l, x, not \['n'\]"),
        ({"num_classes": 0}, "ModelConfig.num_classes must be a whole number of 1 or more, not 0"),
        ({"num_classes": "3"}, "num_classes must be a whole number of 1 or more, not '3'"),
        ({"num_classes": 2.5}, "num_classes must be .* not 2.5"),
        ({"num_classes": NAN}, "num_classes must be .* not nan"),
        ({"num_classes": True}, "num_classes must be .* not True"),
        ({"num_classes": None}, "num_classes must be .* not None"),
        ({"backbone": "resnet"}, "ModelConfig.backbone must be one of yolo11, lite0, not 'resnet'"),
        ({"backbone": None}, "backbone must be .* not None"),
        ({"arb": "both"}, "ModelConfig.arb must be one of none, dual, pgi, not 'both'"),
        ({"arb": None}, "arb must be .* not None"),
        ({"levels": ()}, r"ModelConfig.levels must be .* consecutive numbers from 2 to 5.* \(\)"),
        ({"levels": (3,)}, r"levels must be .* not \(3,\)"),
        ({"levels": (3, 5)}, r"levels must be .* not \(3, 5\)"),
        ({"levels": (4, 5, 6)}, r"levels must be .* not \(4, 5, 6\)"),
        ({"levels": (1, 2, 3)}, r"levels must be .* not \(1, 2, 3\)"),
        ({"levels": (5, 4, 3)}, r"levels must be .* not \(5, 4, 3\)"),
        ({"levels": [3, 4, 5]}, r"levels must be a tuple .* not \[3, 4, 5\]"),
        ({"levels": ("3", "4")}, r"levels must be .* not \('3', '4'\)"),
        ({"levels": (3.0, 4.0)}, r"levels must be .* not \(3.0, 4.0\)"),
        ({"levels": (NAN, 4)}, r"levels must be .* not \(nan, 4\)"),
        ({"levels": 3}, "levels must be .* not 3"),
        ({"levels": None}, "levels must be .* not None"),
        ({"levels": "345"}, "levels must be .* not '345'"),
        ({"mdca": True}, "ModelConfig.mdca must be an MDCAConfig, or None to be off, not True"),
        ({"mdca": "none"}, "mdca must be .* not 'none'"),
        ({"pfdh": True}, "ModelConfig.pfdh must be a PFDHConfig, or None to be off, not True"),
        ({"pfdh": MDCAConfig()}, "pfdh must be .* not MDCAConfig"),
        ({"class_width": 0}, "class_width must be a whole number of 1 or more, or None .* not 0"),
        ({"class_width": "64"}, "class_width must be .* not '64'"),
        ({"class_width": NAN}, "class_width must be .* not nan"),
        (
            {"pfdh": PFDHConfig(reduced=(8, 8))},
            r"reduced must have one number for each of the levels \(3, 4, 5\), not \(8, 8\)",
        ),
        ({"backbone": "lite0", "arb": "pgi"}, "use arb='none', not 'pgi'"),
    ],
)
def test_a_model_of_nonsense_is_refused_by_field_and_value(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        made(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": "some"}, "MDCAConfig.sites must be one of all, finest, not 'some'"),
        ({"rule": "max"}, "MDCAConfig.rule must be one of sum, product, not 'max'"),
        ({"grid": 0}, "MDCAConfig.grid must be a whole number of 1 or more, not 0"),
        ({"grid": NAN}, "grid must be .* not nan"),
        ({"kernel": 4}, "MDCAConfig.kernel must be an odd whole number .* not 4"),
        ({"kernel": -1}, "kernel must be .* not -1"),
        ({"kernel": "3"}, "kernel must be .* not '3'"),
    ],
)
def test_attention_of_nonsense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MDCAConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "PFDHConfig.width must be a whole number of 1 or more, not 0"),
        ({"width": -64}, "width must be .* not -64"),
        ({"width": None}, "width must be .* not None"),
        ({"reduced": (16, 0, 8)}, r"PFDHConfig.reduced must be a tuple .* not \(16, 0, 8\)"),
        ({"reduced": [16, 16, 16]}, r"reduced must be a tuple .* not \[16, 16, 16\]"),
        ({"reduced": 16}, "reduced must be .* not 16"),
        ({"light_head": "yes"}, "PFDHConfig.light_head must be True or False, not 'yes'"),
        ({"init": "kaiming"}, "PFDHConfig.init must be one of xavier, torch, not 'kaiming'"),
    ],
)
def test_fusion_of_nonsense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PFDHConfig(**changes)


def test_every_named_model_has_a_config_and_numpys_numbers_are_numbers() -> None:
    assert all(config(name, 8).num_classes == 8 for name in NAMES)
    assert made(num_classes=np.int64(3)) == made()


@pytest.mark.parametrize(
    "changes",
    [
        {"levels": (4, 5), "mdca": MDCAConfig(kernel=1, rule="product", grid=1)},
        {"levels": (2, 3), "pfdh": PFDHConfig(width=1, reduced=(1, 1), init="torch")},
        {"class_width": 1, "arb": "dual", "mdca": MDCAConfig(sites="finest", kernel=7)},
        {"backbone": "lite0", "levels": (2, 3, 4, 5), "pfdh": PFDHConfig(light_head=True)},
        {"scale": "s", "backbone": "lite0", "class_width": 5},
    ],
)
def test_what_is_allowed_can_be_built_and_run(changes: dict[str, Any]) -> None:
    model = DetectorModel(made(**changes)).train()
    maps = model(torch.rand(2, 3, 64, 64)).main
    assert [m.shape[1] for m in maps] == [64 + 3] * len(model.config.levels)
