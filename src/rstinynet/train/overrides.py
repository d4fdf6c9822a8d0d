"""Changing a recipe by text, as `--set key=value` does, and writing one as plain values."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, replace
from operator import attrgetter
from typing import Any, Literal, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from rstinynet.data.augment import AugmentSettings
from rstinynet.errors import UsageError
from rstinynet.loss.settings import LossSettings
from rstinynet.train.recipe import RECIPES, Recipe, near, setting_names

NESTED: dict[str, type[Any]] = {"augment": AugmentSettings, "loss": LossSettings}

_NOTHING = ("none", "null", "")
"""What stands for no value, in any letters."""


def named_recipe(name: str) -> Recipe:
    """The recipe of that name; UsageError with a suggestion if there is none."""
    if name not in RECIPES:
        raise UsageError(
            f"there is no recipe '{name}'{near(name, RECIPES)}; "
            f"recipes are {', '.join(sorted(RECIPES))}"
        )
    return RECIPES[name]()


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe with settings replaced.

    UsageError on an unknown name, an unfit value, or one that does nothing beside the others.
    Names are those of `setting_names()`; `mosaic` stands for `augment.mosaic` where only one
    setting ends so. Values are text as typed, read as YAML (`none`, `0.5`, `[0.5,1.6]`, `0.5,1.6`),
    or already values.
    """
    changed = _replaced(recipe, overrides)
    _refuse_idle(changed, {_full_name(key) for key in overrides})
    return changed


def _replaced(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    own: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        group, _, leaf = _full_name(key).rpartition(".")
        (nested.setdefault(group, {}) if group else own)[leaf] = _value(key, value)
    try:
        for group, changes in nested.items():
            own[group] = replace(getattr(recipe, group), **changes)
        return replace(recipe, **own)
    except UsageError:
        raise
    except (ValueError, TypeError) as error:
        raise UsageError(f"these settings do not fit together: {error}") from error


def _refuse_idle(recipe: Recipe, given: Set[str]) -> None:
    """UsageError where one of the `given` settings does nothing beside the recipe's others.

    No rule of the recipe itself, or runs of earlier versions could not be resumed.
    """
    if "warmup_epochs" in given and recipe.warmup_iterations is not None:
        raise UsageError(
            f"warmup_epochs does nothing while warmup_iterations is {recipe.warmup_iterations}: "
            "leave one out, or add warmup_iterations=none (--set)"
        )
    augment, loss = recipe.augment, recipe.loss
    letterbox, turned = augment.fit == "letterbox", bool(augment.degrees or augment.shear)
    fields, by_number = loss.candidates == "receptive_field", isinstance(loss.class_weights, str)
    by_number = by_number and loss.class_weights != "equal"
    default = Recipe()
    for name, works, needed in (
        ("distill_weight", recipe.distill is not None, "distill"),
        ("distill_views", recipe.distill is not None, "distill"),
        ("cache_dir", recipe.cache == "disk", "cache=disk"),
        ("patience", recipe.val_every > 0, "val_every above 0"),
        ("warmup_momentum", recipe.optimizer == "sgd", "optimizer=sgd"),
        ("augment.translate", letterbox, "augment.fit=letterbox"),
        ("augment.focus_prob", not (letterbox and augment.focus_prob), "augment.fit=native"),
        ("augment.warp_prob", turned, "augment.degrees or augment.shear"),
        ("augment.warped_boxes", turned, "augment.degrees or augment.shear"),
        ("loss.nwd_constant", loss.nwd_weight > 0, "loss.nwd_weight above 0"),
        ("loss.simd_scale", loss.metric == "simd", "loss.metric=simd"),
        ("loss.field_strides", fields, "loss.candidates=receptive_field"),
        ("loss.field_topk", fields, "loss.candidates=receptive_field"),
        ("loss.field_decay", fields, "loss.candidates=receptive_field"),
        ("loss.varifocal_alpha", loss.cls_loss == "varifocal", "loss.cls_loss=varifocal"),
        ("loss.varifocal_gamma", loss.cls_loss == "varifocal", "loss.cls_loss=varifocal"),
        ("loss.class_weight_limit", by_number, "loss.class_weights=inverse"),
    ):
        value = attrgetter(name)
        if name in given and not works and value(recipe) != value(default):
            raise UsageError(f"{name} does nothing without {needed}: add that, or leave it out")


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """`["lr0=0.01"]` to `{"lr0": "0.01"}`; UsageError where there is no `=`."""
    parsed = {}
    for text in assignments:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise UsageError(f"--set takes key=value, not '{text}'")
        parsed[key.strip().replace("-", "_")] = value.strip()
    return parsed


def combined(options: Mapping[str, Any], assigned: Mapping[str, str]) -> dict[str, Any]:
    """Settings of options that have their names, and of `--set`, as one.

    UsageError where both give one setting and not the same value.
    """
    option_of = {_full_name(key): key for key in options}
    for key, text in assigned.items() if options else ():
        option = option_of.get(_full_name(key))
        if option is not None and _value(key, text) != _value(option, options[option]):
            raise UsageError(
                f"--{option.replace('_', '-')} {options[option]} and --set {key}={text} differ: "
                "leave one out"
            )
    return {**options, **assigned}


def as_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested dicts, lists and numbers."""
    return {key: _plain(value) for key, value in asdict(recipe).items()}


def from_values(values: Mapping[str, Any]) -> Recipe:
    """The inverse of `as_values`; UsageError if a setting is unknown to this version."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in NESTED:
            flat.update({f"{key}.{leaf}": item for leaf, item in value.items()})
        elif key != "name":
            flat[key] = value
    return replace(_replaced(Recipe(), flat), name=str(values.get("name", "custom")))


def differences(recipe: Recipe) -> dict[str, Any]:
    """Settings in which the recipe differs from the named one it began as."""
    base = as_values(RECIPES.get(recipe.name, Recipe)())
    found: dict[str, Any] = {}
    for key, value in as_values(recipe).items():
        if key in NESTED:
            found.update(
                {f"{key}.{leaf}": item for leaf, item in value.items() if item != base[key][leaf]}
            )
        elif value != base[key]:
            found[key] = value
    return found


def described(recipe: Recipe, *, width: int = 100) -> str:
    """Every setting, in lines of text; those that differ from the named recipe have a star."""
    changed = differences(recipe)
    own: dict[str, list[str]] = {"": []}
    for key, value in as_values(recipe).items():
        if key == "name":
            continue
        nested = value if key in NESTED else {key: value}
        group = key if key in NESTED else ""
        for leaf, item in nested.items():
            full = f"{group}.{leaf}" if group else leaf
            star = "*" if full in changed else ""
            own.setdefault(group, []).append(f"{leaf}={_as_text(item)}{star}")
    lines = [f"recipe {recipe.name}{' (* = changed)' if changed else ''}"]
    for group, words in own.items():
        head = f"  {group}: " if group else "  "
        lines += textwrap.wrap(
            " ".join(words), width, initial_indent=head, subsequent_indent="    ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return "\n".join(lines)


def _as_text(value: Any) -> str:
    """As `--set` takes it, without blanks."""
    if isinstance(value, list):
        return ",".join(_as_text(item) for item in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "_")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _full_name(key: str) -> str:
    names = setting_names()
    if key in names:
        return key
    ends = [name for name in names if name.endswith(f".{key}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UsageError(
            f"the recipe setting '{key}' could be {' or '.join(ends)}: name it in full"
        )
    leaves = [name.rpartition(".")[2] for name in names]
    raise UsageError(
        f"there is no recipe setting '{key}'{near(key, [*names, *leaves])}; "
        f"the settings are {', '.join(names)}"
    )


def _value(key: str, value: Any) -> Any:
    """What a setting is to be, as its own type."""
    full = _full_name(key)
    group, _, leaf = full.rpartition(".")
    return _convert(full, value, get_type_hints(NESTED[group] if group else Recipe)[leaf])


def _convert(name: str, value: Any, kind: Any) -> Any:
    if isinstance(value, str) and kind == str | None:
        # A path: commas and what else YAML knows belong to it. Shells leave the ~ after a = alone.
        return None if value.lower() in _NOTHING else os.path.expanduser(value)
    # `none` and `off` are words where a setting is one of several words.
    if isinstance(value, str) and kind is not str and get_origin(kind) is not Literal:
        text = value
        if "," in text and not text.startswith("["):
            text = f"[{text}]"
        try:
            value = None if text.lower() in _NOTHING else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"the value of '{name}' cannot be read: {value!r}") from error
    if kind == tuple[str, ...]:
        value = () if value is None else (value,) if isinstance(value, str) else value
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UsageError(f"recipe setting '{name}' cannot be {value!r}: {reason}") from error
