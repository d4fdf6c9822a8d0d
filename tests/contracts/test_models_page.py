"""The numbers of docs/models.md are those of the models."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from rstinynet.model.cost import Cost, cost_of_named

TEXT = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
SIZES = re.findall(
    r"^\| `([\w-]+)` \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) \| ([\d, ]+) \|", TEXT, re.M
)
PAPER = re.findall(
    r"^\| [\w+ ]+ \| `([\w-]+)` \| ([\d,]+) \| ([\d,]+) \| (-?[\d,]+) \| ([\d.]+) \|", TEXT, re.M
)


def number(text: str) -> int:
    return int(text.replace(",", ""))


@functools.cache
def cost(name: str) -> Cost:
    return cost_of_named(name, num_classes=8, imgsz=800)


def test_both_tables_are_there() -> None:
    assert len(SIZES) == 16
    assert len(PAPER) == 8


@pytest.mark.parametrize(("name", "parameters", "deployed", "gflops", "strides"), SIZES)
def test_sizes(name: str, parameters: str, deployed: str, gflops: str, strides: str) -> None:
    found = cost(name)
    assert found.parameters == number(parameters)
    assert found.parameters_deployed == number(deployed)
    assert f"{found.gflops:.1f}" == gflops
    assert ", ".join(map(str, found.strides)) == strides


@pytest.mark.parametrize(("name", "paper", "ours", "difference", "gflops"), PAPER)
def test_the_papers_rows(name: str, paper: str, ours: str, difference: str, gflops: str) -> None:
    found = cost(name)
    assert found.parameters == number(ours)
    assert number(ours) - number(paper) == number(difference)
    assert f"{found.gflops:.1f}" == gflops
