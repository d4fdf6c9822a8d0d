"""What one run is: a model, a data folder, a recipe, a place to write."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from statistics import median
from typing import Any

from rstinynet.data.annotations import LabelledSet
from rstinynet.errors import RSTinyNetError, UsageError
from rstinynet.model.located import HUB, parted
from rstinynet.model.metadata import BEFORE_SCHEMA, SCHEMA_VERSION, renamed
from rstinynet.train import overrides
from rstinynet.train.recipe import RECIPES, Recipe

CHANGEABLE = (
    "bad_images", "log_every", "nonfinite", "nonfinite_limit", "patience", "save_minutes", "workers"
)  # fmt: skip
"""Settings that change nothing in what a run without faults learns."""


class TrainingStoppedError(RSTinyNetError):
    """The run was asked to stop; its state is saved and it can be resumed."""

    exit_code = 130


RUNS = Path("runs")
"""Where runs are written that no other place was named for."""


def new_folder(model: str, recipe: Recipe) -> Path:
    """A folder in `RUNS` named after the model and recipe, with a number if there is one."""
    first = RUNS / f"{Path(model).name}-{recipe.name}"
    numbered = (first.with_name(f"{first.name}-{number}") for number in count(2))
    return next(path for path in chain([first], numbered) if not path.exists())


def inference_scale(recipe: Recipe, train_set: LabelledSet) -> float:
    """The factor by which images are resized at inference, and at validation if not fitted each."""
    if recipe.inference_scale is not None:
        return recipe.inference_scale
    if recipe.augment.fit == "native" or not train_set.images:
        return 1.0
    return recipe.imgsz / median(max(image.width, image.height) for image in train_set.images)


def validation_fit(recipe: Recipe) -> int | None:
    """What validation resizes the longer side of each image to; None: all by one factor."""
    letterbox = recipe.augment.fit == "letterbox" and recipe.inference_scale is None
    return recipe.imgsz if letterbox else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One training run."""

    model: str
    """Name of a preset."""
    data: Path
    """Folder with {train,val}.json and images/, or a data.yaml."""
    out: Path
    """The run's folder."""
    recipe: Recipe
    device: str = "cpu"
    init: str | None = None
    """Weights to start from: a file, or the name of shipped weights."""

    def as_values(self) -> dict[str, Any]:
        """Plain values, for args.yaml and the resume state."""
        return {
            "schema": SCHEMA_VERSION,
            "model": self.model,
            "data": str(self.data),
            "init": self.init,
            "device": self.device,
            "recipe": overrides.as_values(self.recipe),
        }

    @staticmethod
    def from_values(values: Mapping[str, Any], *, out: Path) -> Job:
        """The inverse of `as_values`, for a run kept in `out`."""
        return Job(
            model=renamed(values["model"], schema=values.get("schema", BEFORE_SCHEMA)),
            data=Path(values["data"]),
            out=out,
            recipe=overrides.from_values(values["recipe"]),
            device=values["device"],
            init=values["init"],
        )

    def with_changes(self, changes: Mapping[str, Any]) -> Job:
        """The job with settings changed that a run under way may change.

        UsageError for any other setting.
        """
        changed = overrides.with_overrides(self.recipe, changes)
        before, after = overrides.as_values(self.recipe), overrides.as_values(changed)
        fixed = [key for key in after if after[key] != before[key] and key not in CHANGEABLE]
        if fixed:
            raise UsageError(
                f"--resume continues a run with its own settings; leave out {', '.join(fixed)} "
                f"(what may change is {', '.join(CHANGEABLE)})"
            )
        return replace(self, recipe=changed)

    def command(self) -> str:
        """The command that makes this run; the data by its folder's name only.

        It is kept in JSON, so what is not UTF-8 in names of files becomes question marks.
        """
        words = ["rstinynet", "train", "--model", self.model, "--data", self.data.name]
        if self.recipe.name in RECIPES:
            words += ["--recipe", self.recipe.name]
        if self.init is not None:
            words += ["--init", _named(self.init)]
        for key, value in overrides.differences(self.recipe).items():
            text = "none" if value is None else str(value)
            if key == "distill" and value is not None:
                text = ",".join(map(_named, parted(value)))
            if isinstance(value, list):
                text = ",".join(map(str, value))
            words += ["--set", f"{key}={text}"]
        return shlex.join(words).encode(errors="replace").decode()


def _named(weights: Path | str) -> str:
    """A file by its name only, and a model on a hub by all of its own."""
    text = str(weights)
    return text if text.startswith(HUB) else Path(text).name
