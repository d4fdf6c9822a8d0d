"""The auxiliary branch: a quarter of its loss teaches, and deployed weights know nothing of it."""

from __future__ import annotations

import csv

import pytest
import torch
from safetensors.torch import load_file

from rstinynet.model.presets import build
from rstinynet.model.weights import load_weights
from rstinynet.train import checkpoint
from rstinynet.train.job import Job
from rstinynet.train.loop import train
from rstinynet.train.overrides import with_overrides
from rstinynet.train.recipe import RECIPES, short

BATCH = 2


@pytest.fixture(scope="module")
def run(synthetic):
    """Trains one step of a model with an auxiliary weight; the run's folder."""
    folder = synthetic(train=BATCH, val=1, size=64)
    given = {"imgsz": 64, "batch": BATCH, "epochs": 1, "val_every": 0, "norm_batches": 0}

    def begin(name, **changes):
        out = folder / f"{name}-{changes}"
        recipe = with_overrides(short(), given | {"compare_unaveraged": False} | changes)
        if not out.exists():
            train(Job(model=name, data=folder, out=out, recipe=recipe))
        return out

    return begin


def auxiliary_share(out):
    """What the first batch's loss has beyond the main head's terms."""
    with (out / "results.csv").open() as file:
        row = {key: float(value) for key, value in next(csv.DictReader(file)).items() if value}
    return row["loss"] - BATCH * (row["box"] + row["cls"] + row["dfl"])


@pytest.mark.parametrize("name", ["rs-tinynet-n", "paper-arb-n"])
def test_a_quarter_of_the_auxiliary_loss_teaches(run, name):
    assert {recipe().auxiliary_weight for recipe in RECIPES.values()} == {0.25}
    quarter, whole = (auxiliary_share(run(name, auxiliary_weight=w)) for w in (0.25, 1.0))
    assert quarter > 1
    assert whole == pytest.approx(4 * quarter, rel=1e-3)
    assert auxiliary_share(run(name, auxiliary_weight=0)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("name", ["rs-tinynet-n", "paper-arb-n"])
def test_a_branch_without_weight_is_not_computed(run, name):
    def auxiliary_values(weight):
        state = checkpoint.load(run(name, auxiliary_weight=weight))
        return [key for key in state["model"] if key.startswith("auxiliary")]

    assert auxiliary_values(0.25)
    assert not auxiliary_values(0)


def test_the_weights_of_a_run_have_no_auxiliary_part(run):
    out = run("rs-tinynet-n")
    for kept in ("best", "last"):
        path = out / "weights" / f"{kept}.safetensors"
        assert not [key for key in load_file(path) if key.startswith("auxiliary")]
    trained = build("rs-tinynet-n", 2)
    assert [key for key in trained.state_dict() if key.startswith("auxiliary")]
    deployed = load_weights(path)[0].deployed()
    assert deployed.auxiliary_branch is None
    assert deployed.auxiliary_head is None
    assert deployed(torch.zeros(1, 3, 64, 64)).auxiliary is None
