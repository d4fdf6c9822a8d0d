"""Recipes, and changing them by text."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rstinynet.errors import UsageError
from rstinynet.train import overrides
from rstinynet.train.job import Job, inference_scale, new_folder
from rstinynet.train.optimizer import make_optimizer
from rstinynet.train.recipe import RECIPES, Recipe, paper, setting_names, short, tiny


def test_paper_recipe_states_the_papers_settings():
    recipe = paper()
    assert (recipe.epochs, recipe.batch, recipe.imgsz) == (600, 16, 800)
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.937, 5e-4)
    assert (recipe.lr0, recipe.lrf, recipe.schedule, recipe.lr_step) == (
        0.01,
        0.01,
        "linear",
        "epoch",
    )
    assert (recipe.warmup_epochs, recipe.warmup_bias_lr, recipe.warmup_momentum) == (3, 0.1, 0.8)
    assert (recipe.nominal_batch, recipe.clip_norm, recipe.amp) == (64, 10, True)
    assert (recipe.ema_decay, recipe.ema_tau, recipe.auxiliary_weight) == (0.9999, 2000, 0.25)
    assert (recipe.norm_batches, recipe.compare_unaveraged) == (0, False)
    loss = recipe.loss
    assert (loss.topk, loss.alpha, loss.beta) == (10, 0.5, 6)
    assert (loss.box_gain, loss.cls_gain, loss.dfl_gain) == (7.5, 0.5, 1.5)
    assert (loss.min_candidate_px, loss.nearest_fallback) == (0, False)
    assert (loss.score_floor, loss.nwd_weight) == (0, 0)
    seen = recipe.augment
    assert (seen.fit, seen.symmetries, seen.cut_boxes) == ("letterbox", "horizontal", "drop")
    assert (seen.mosaic_prob, recipe.close_mosaic) == (1, 10)
    assert (seen.scale, seen.translate, seen.hsv) == ((0.5, 1.5), 0.1, (0.015, 0.7, 0.4))
    assert (seen.degrees, seen.shear, seen.min_box_px, seen.min_visibility) == (0, 0, 2, 0.1)
    assert not any((seen.grey_prob, seen.contrast_prob, seen.blur_prob, seen.noise_prob))
    assert not any((seen.focus_prob, seen.jpeg_prob, seen.paste_prob))


@pytest.mark.parametrize(
    ("recipe", "sizes", "scale"),
    [
        (paper(), [(800, 800)], 1.0),
        (paper(), [(400, 300), (100, 400), (999, 20)], 2.0),
        (tiny(), [(400, 300)], 1.0),
        (replace(paper(), inference_scale=1.5), [(400, 300)], 1.5),
    ],
)
def test_images_are_inferred_at_the_scale_of_training(recipe, sizes, scale):
    images = tuple(SimpleNamespace(width=width, height=height) for width, height in sizes)
    assert inference_scale(recipe, SimpleNamespace(images=images)) == scale


def test_a_run_without_a_place_gets_a_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = new_folder("paper-full-m", paper())
    assert first == Path("runs/paper-full-m-paper")
    first.mkdir(parents=True)
    assert new_folder("paper-full-m", paper()) == Path("runs/paper-full-m-paper-2")


def test_every_setting_is_described_and_what_changed_is_marked():
    recipe = overrides.with_overrides(tiny(), {"lr0": 0.02, "loss.topk": 13, "licence": "CC BY"})
    text = overrides.described(recipe)
    head, _, rest = text.partition("\n")
    assert head == "recipe tiny (* = changed)"
    words = rest.replace("augment:", " ").replace("loss:", " ").split()
    named = {word.partition("=")[0] for word in words if "=" in word}
    assert named == {name.rpartition(".")[2] for name in setting_names()}
    assert {word for word in words if word.endswith("*")} == {
        "lr0=0.02*",
        "topk=13*",
        "licence=CC_BY*",
    }
    assert max(map(len, text.splitlines())) <= 100
    assert "(* = changed)" not in overrides.described(paper())


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
                "paste_across=vehicle",
                "paste_prob=0.5",
                "symmetries=none",
                "fit=letterbox",
            ]
        )
        | {"max_minutes": "none", "licence": "CC BY 4.0"},
    )
    assert (changed.lr0, changed.warmup_iterations, changed.max_minutes) == (1e-3, 50, None)
    assert (changed.augment.mosaic_prob, changed.loss.topk) == (0.25, 13)
    assert changed.augment.scale == (0.5, 2.0)
    assert changed.augment.paste_across == ("vehicle",)
    assert (changed.augment.symmetries, changed.augment.fit) == ("none", "letterbox")
    assert changed.licence == "CC BY 4.0"
    assert set(overrides.differences(changed)) == {
        "lr0",
        "warmup_iterations",
        "licence",
        "augment.mosaic_prob",
        "augment.fit",
        "augment.paste_across",
        "augment.paste_prob",
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
        ("max_minutes=0", "positive, or none"),
        ("nominal_batch=0", "at least 1, or none"),
        ("inference_scale=0", "positive, or none"),
        ("warmup_epochs=nan", "0 or more"),
        ("save_minutes=nan", "0 or more"),
        ("topk=0", "at least 1"),
        ("lr0=inf", "positive"),
        ("weight_decay=inf", "0 or more"),
        ("auxiliary_weight=-1", "0 or more"),
        ("auxiliary_weight=nan", "0 or more"),
        ("warmup_momentum=1.5", r"in \[0, 1\)"),
        ("freeze_backbone_epochs=-2", "0 or more"),
        ("freeze_level=-1", "0 or more"),
        ("warmup_bias_lr=inf", "0 or more"),
        ("backbone_lr_factor=inf", "0 or more"),
        ("nwd_constant=inf", "number of pixels over 0"),
        ("min_box_px=inf", "number from 0 up"),
        ("min_box_px=nan", "number from 0 up"),
    ],
)
def test_unfit_settings_are_refused(assignment, message):
    with pytest.raises(UsageError, match=message):
        overrides.with_overrides(Recipe(), overrides.parse_assignments([assignment]))


@pytest.mark.parametrize(
    ("assignment", "remedy"),
    [
        ("warmup_epochs=9", "warmup_iterations=none"),
        ("distill_views=2", "distill=rs-tinynet-n"),
        ("distill_weight=0.5", "distill=rs-tinynet-n"),
        ("cache_dir=/decoded", "cache=disk"),
        ("patience=3", "val_every=1"),
        ("warmup_momentum=0.5", "optimizer=sgd"),
        ("augment.translate=0.2", "augment.fit=letterbox"),
        ("augment.focus_prob=0.9", "augment.fit=native"),
        ("augment.warp_prob=0.5", "augment.degrees=10"),
        ("augment.warped_boxes=corners", "augment.shear=5"),
        ("loss.nwd_constant=20", "loss.nwd_weight=0.5"),
        ("loss.simd_scale=5,4", "loss.metric=simd"),
        ("loss.field_topk=5", "loss.candidates=receptive_field"),
        ("loss.varifocal_gamma=1", "loss.cls_loss=varifocal"),
        ("loss.class_weight_limit=3", "loss.class_weights=inverse_sqrt"),
    ],
)
def test_settings_that_would_do_nothing_are_refused_but_read_from_older_runs(assignment, remedy):
    given, remedies = (overrides.parse_assignments([text]) for text in (assignment, remedy))
    (name,) = given
    # Where the remedy has nothing to mend, the recipe is made one in which it has.
    undone = {
        "val_every=1": {"val_every": 0},
        "augment.fit=native": {"augment.fit": "letterbox", "augment.focus_prob": 0},
        "loss.nwd_weight=0.5": {"loss.nwd_weight": 0},
    }
    base = overrides.with_overrides(short(), undone.get(remedy, {}))
    with pytest.raises(UsageError, match=f"{name} does nothing w"):
        overrides.with_overrides(base, given)
    recipe = overrides.with_overrides(base, given | remedies)
    assert name in overrides.differences(recipe)
    idle = overrides._replaced(base, given)
    assert overrides.from_values(overrides.as_values(idle)) == idle


@pytest.mark.parametrize("recipe", [paper(), tiny(), short()])
def test_a_recipe_may_be_given_its_own_settings(recipe):
    names = [name for name in setting_names() if name != "warmup_epochs"]  # `short` has none
    own = {name: attrgetter(name)(recipe) for name in names}
    assert overrides.with_overrides(recipe, own) == recipe


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


@pytest.mark.parametrize("path", ["runs/a, b/best.safetensors", "runs/x #2/best", "2024", "[x]"])
def test_paths_are_taken_as_they_are(path):
    recipe = overrides.with_overrides(tiny(), overrides.parse_assignments([f"distill={path}"]))
    assert recipe.distill == path
    assert overrides.from_values(overrides.as_values(recipe)) == recipe
    for nothing in ("none", "null", ""):
        assert overrides.with_overrides(recipe, {"distill": nothing}).distill is None


@pytest.mark.parametrize("name", ["distill", "cache_dir"])
def test_paths_may_begin_with_the_users_home(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = overrides.parse_assignments([f"{name}=~/a b", "cache=disk"])
    assert getattr(overrides.with_overrides(tiny(), given), name) == str(tmp_path / "a b")


def test_the_recorded_command_is_text_whatever_the_data_is_called():
    job = Job(model="m", data=Path(os.fsdecode(b"caf\xe9")), out=Path("r"), recipe=tiny())
    assert "--data 'caf?'" in job.command()
    job.command().encode()


def test_the_recorded_command_keeps_the_name_of_a_model_on_a_hub():
    recipe = replace(tiny(), distill="hub:owner/teacher@abc")
    job = Job(model="m", data=Path("d"), out=Path("r"), recipe=recipe, init="hub:owner/name@abc")
    words = shlex.split(job.command())
    assert words[words.index("--init") + 1] == "hub:owner/name@abc"
    assert "distill=hub:owner/teacher@abc" in words


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_looks_ahead_where_there_is_any(momentum):
    recipe = replace(paper(), momentum=momentum)
    (group, *_) = make_optimizer(nn.Conv2d(1, 1, 1), recipe).param_groups
    assert (group["momentum"], group["nesterov"]) == (momentum, momentum > 0)


def test_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'short'"):
        overrides.named_recipe("shrot")


@pytest.mark.parametrize("seed", [-1, 2**64, 10**30])
def test_a_seed_that_torch_cannot_take_is_refused(seed):
    with pytest.raises(UsageError, match=rf"seed.*less than 2\*\*64.*{seed}"):
        replace(tiny(), seed=seed)
    assert replace(tiny(), seed=2**64 - 1).seed == 2**64 - 1
