"""Recipes, and changing them by text."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstinynet.errors import UsageError
from rstinynet.train import overrides
from rstinynet.train.job import Job
from rstinynet.train.recipe import RECIPES, Recipe, paper, setting_names, tiny


def test_paper_recipe_states_the_papers_settings():
    recipe = paper()
    assert (recipe.epochs, recipe.batch, recipe.imgsz) == (600, 16, 800)
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.937, 5e-4)
    assert recipe.loss.nwd_weight == 0
    assert (recipe.norm_batches, recipe.augment.min_visibility) == (0, 0.1)


def test_mosaic_is_closed_for_a_fifth_of_a_run_at_most():
    assert paper().mosaic_share == pytest.approx(590 / 600)
    assert replace(paper(), epochs=10).mosaic_share == pytest.approx(0.8)
    assert replace(paper(), close_mosaic=0).mosaic_share == 1
    assert overrides.with_overrides(paper(), {"mosaic_prob": "0"}).mosaic_share == 0


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_survives_being_written_and_read(name):
    recipe = overrides.named_recipe(name)
    assert recipe.name == name
    assert overrides.from_values(overrides.as_values(recipe)) == recipe
    assert overrides.differences(recipe) == {}


def test_settings_are_changed_by_text():
    changed = overrides.with_overrides(
        tiny(),
        overrides.parse_assignments(
            [
                "lr0=1e-3",
                "warmup-iterations=50",
                "augment.mosaic_prob=0.25",
                "topk=13",
                "scale=0.5,2",
                "symmetries=none",
                "fit=letterbox",
            ]
        )
        | {"max_minutes": "none", "licence": "CC BY 4.0"},
    )
    assert (changed.lr0, changed.warmup_iterations, changed.max_minutes) == (1e-3, 50, None)
    assert (changed.augment.mosaic_prob, changed.loss.topk) == (0.25, 13)
    assert changed.augment.scale == (0.5, 2.0)
    assert (changed.augment.symmetries, changed.augment.fit) == ("none", "letterbox")
    assert changed.licence == "CC BY 4.0"
    assert set(overrides.differences(changed)) == {
        "lr0",
        "warmup_iterations",
        "licence",
        "augment.mosaic_prob",
        "augment.fit",
        "augment.scale",
        "augment.symmetries",
        "loss.topk",
    }


@given(st.sampled_from(setting_names()))
def test_every_setting_has_a_name_that_is_found(name):
    value = overrides.as_values(paper())
    for part in name.split("."):
        value = value[part]
    assert overrides.with_overrides(paper(), {name: value}) == paper()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("mosiac_prob=0.5", "did you mean 'mosaic_prob'"),
        ("augment.mosiac_prob=0.5", "did you mean 'augment.mosaic_prob'"),
        ("lr0=fast", "'lr0' cannot be"),
        ("imgsz=100", "multiple of 32"),
        ("epochs=0", "at least 1"),
        ("close_mosaic=-1", "0 or more"),
        ("optimizer=lion", "'optimizer' cannot be"),
        ("lr0", "key=value"),
        ("topk=0", "at least 1"),
    ],
)
def test_unfit_settings_are_refused(assignment, message):
    with pytest.raises(UsageError, match=message):
        overrides.with_overrides(Recipe(), overrides.parse_assignments([assignment]))


@pytest.mark.parametrize("licence", ["CC BY-NC-SA 4.0", "A, B and C", "none", "[x]"])
def test_recorded_command_makes_the_same_run(licence):
    recipe = overrides.with_overrides(
        tiny(), {"licence": licence, "scale": "0.5, 2", "max_minutes": "3"}
    )
    assert recipe.licence == licence
    words = shlex.split(Job(model="m", data=Path("a b"), out=Path("r"), recipe=recipe).command())
    assert words[words.index("--data") + 1] == "a b"
    given = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert overrides.with_overrides(tiny(), overrides.parse_assignments(given)) == recipe


def test_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'short'"):
        overrides.named_recipe("shrot")
