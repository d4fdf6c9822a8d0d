"""Parameter counts against YOLO11's and the paper's (Table III, scale m, 8 classes)."""

from __future__ import annotations

import pytest
import torch

from rstinynet.model.presets import build

PAPER_TABLE_3 = {
    "yolo11m": 20_059_176,
    "paper-mdca-m": 20_553_992,
    "paper-arb-m": 30_294_440,
    "paper-pfdh-m": 21_339_925,
    "paper-mdca-arb-m": 30_789_252,
    "paper-arb-pfdh-m": 32_159_637,
    "paper-full-m": 32_159_657,
}
YOLO11 = {  # 80 classes, 8 classes, 8 classes fused
    "yolo11n": (2_624_080, 2_591_400, 2_583_712),
    "yolo11s": (9_458_752, 9_430_888, 9_415_896),
    "yolo11m": (20_114_688, 20_059_176, 20_036_200),
    "yolo11l": (25_372_160, 25_316_648, 25_285_480),
    "yolo11x": (56_966_176, 56_883_016, 56_836_264),
}


@pytest.fixture(autouse=True)
def _on_paper_only():
    with torch.device("meta"):  # counting needs no memory
        yield


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("name", "published"), PAPER_TABLE_3.items())
def test_seven_of_the_papers_counts_are_met_exactly(name, published):
    assert count(build(name, 8).without_auxiliary()) == published


def test_the_eighth_count_differs_by_a_known_amount():
    published = 22_059_206
    assert count(build("paper-mdca-pfdh-m", 8)) - published == -719_257


@pytest.mark.parametrize(("name", "counts"), YOLO11.items())
def test_yolo11_counts(name, counts):
    assert count(build(name, 80)) == counts[0]
    model = build(name, 8)
    assert count(model) == counts[1]
    assert count(model.deployed()) == counts[2]


def test_stride_4_level_costs_what_the_spec_says():
    assert count(build("yolo11m-p2", 8)) - count(build("yolo11m", 8)) == 494_792


def test_links_of_the_dual_backbone():
    backbone = build("paper-arb-m", 8).backbone
    assert count(backbone.links) == 1_530_944
    assert count(backbone.composite) == 8_704_320


def test_four_mdca_modules_at_scale_m_have_112_parameters():
    from rstinynet.model.config import MDCAConfig, ModelConfig
    from rstinynet.model.detector import DetectorModel

    config = ModelConfig(scale="m", num_classes=8, levels=(2, 3, 4, 5), mdca=MDCAConfig())
    assert count(DetectorModel(config).attention) == 112


def test_deployed_rs_tinynet_m_without_level_5():
    from rstinynet.model.config import ModelConfig
    from rstinynet.model.detector import DetectorModel

    config = ModelConfig(scale="m", num_classes=8, levels=(2, 3, 4))
    assert count(DetectorModel(config)) == 16_124_456
