"""Counting parameters and operations."""

from __future__ import annotations

import pytest
import torch

from rstinynet.errors import UsageError
from rstinynet.model.cost import cost_of, cost_of_named, count_parameters
from rstinynet.model.presets import build


def test_operations_of_yolo11m_with_attentions_products() -> None:
    # 8 classes, 800 by 800. docs/models.md has the other models' figures, tested there.
    assert round(cost_of_named("yolo11m").gflops, 1) == 106.0


def test_ours_costs_less_than_its_goal() -> None:
    assert cost_of_named("rs-tinynet-m").gflops <= 145
    assert cost_of_named("rs-tinynet-n").gflops <= 2 * cost_of_named("yolo11n").gflops


def test_training_only_parts_are_not_counted() -> None:
    model = build("rs-tinynet-n", 8)
    cost = cost_of(model, imgsz=320)
    assert count_parameters(model) > cost.parameters > cost.parameters_deployed
    assert cost.parameters == count_parameters(model.without_auxiliary())


def test_the_model_is_left_as_it_was() -> None:
    model = build("yolo11n", 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cost_of(model, imgsz=64)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_convolutions_grow_with_the_area() -> None:
    # No attention in the lite backbone, so that all operations go with the number of pixels.
    once, four = (cost_of_named("rs-tinynet-lite", imgsz=side).gflops for side in (320, 640))
    assert four / once == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("imgsz", [0, -32, 100])
def test_a_size_that_the_strides_do_not_divide_is_refused(imgsz: int) -> None:
    with pytest.raises(UsageError, match="positive multiple of 32"):
        cost_of_named("yolo11n", imgsz=imgsz)
