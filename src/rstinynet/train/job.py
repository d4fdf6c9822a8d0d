"""What one run is: a model, a data folder, a recipe, a place to write."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstinynet.errors import RSTinyNetError
from rstinynet.train import overrides
from rstinynet.train.recipe import RECIPES, Recipe


class TrainingStoppedError(RSTinyNetError):
    """The run was asked to stop; its state is saved and it can be resumed."""

    exit_code = 130


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
            model=values["model"],
            data=Path(values["data"]),
            out=out,
            recipe=overrides.from_values(values["recipe"]),
            device=values["device"],
            init=values["init"],
        )

    def command(self) -> str:
        """The command that makes this run; the data by its folder's name only."""
        words = ["rstinynet", "train", "--model", self.model, "--data", self.data.name]
        if self.recipe.name in RECIPES:
            words += ["--recipe", self.recipe.name]
        if self.init is not None:
            words += ["--init", Path(self.init).name]
        for key, value in overrides.differences(self.recipe).items():
            text = "none" if value is None else str(value)
            if isinstance(value, list):
                text = ",".join(map(str, value))
            words += ["--set", f"{key}={text}"]
        return shlex.join(words)
