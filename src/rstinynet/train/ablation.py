"""The paper's ablation as a plan of training runs: Table III's rows, and the control it lacks.

Every row is trained on the same data with the same recipe and seeds. Each (row, seed) is an
ordinary run in its own folder, OUT/runs/ROW/seed-S: a finished one is never trained again, an
interrupted one goes on where its state was saved. OUT/ablation.json records what all runs share,
and a plan that differs from it is refused. Source: RS-TinyNet (arXiv:2507.13120), Table III.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rstinynet.data.annotations import LabelledSet, fingerprint_of
from rstinynet.data.folder import different_classes, open_split
from rstinynet.data.formats.coco import require_annotations
from rstinynet.errors import RSTinyNetError, UsageError, WeightsError
from rstinynet.files import write_json
from rstinynet.model.config import Scale
from rstinynet.model.cost import Cost, cost_of_named
from rstinynet.model.weights import find_weights
from rstinynet.train import checkpoint, loop, overrides
from rstinynet.train.folder import RunFolder
from rstinynet.train.job import Job, TrainingStoppedError
from rstinynet.train.recipe import Recipe

log = logging.getLogger(__name__)

AT_ANY_TIME = ("workers", "log_every", "save_minutes")
"""Settings that may be others when the command is given again, and hold for what is left."""
COST_IMGSZ = 800
"""Side in pixels of the image that GFLOPs are given for, as in docs/models.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the ablation."""

    name: str
    """As in `--rows`, and the key of the published row."""
    title: str
    modules: tuple[bool, bool, bool, bool]
    """Which of P2, MDCA, ARB and PFDH the model has."""
    pattern: str
    """The preset's name, with {scale}."""

    def model(self, scale: Scale) -> str:
        """Name of the preset at this scale."""
        return self.pattern.format(scale=scale)


def _paper(name: str, title: str) -> Row:
    parts = ("mdca", "arb", "pfdh") if name == "full" else tuple(name.split("-"))
    mdca, arb, pfdh = (part in parts for part in ("mdca", "arb", "pfdh"))
    return Row(
        name=name,
        title=title,
        modules=(mdca or pfdh, mdca, arb, pfdh),
        pattern=f"paper-{name}-{{scale}}",
    )


ROWS: tuple[Row, ...] = (
    Row(name="baseline", title="baseline", modules=(False,) * 4, pattern="yolo11{scale}"),
    Row(
        name="p2",
        title="baseline + P2 (control)",
        modules=(True, False, False, False),
        pattern="yolo11{scale}-p2",
    ),
    _paper("mdca", "MDCA"),
    _paper("arb", "ARB"),
    _paper("pfdh", "PFDH"),
    _paper("mdca-arb", "MDCA + ARB"),
    _paper("arb-pfdh", "ARB + PFDH"),
    _paper("mdca-pfdh", "MDCA + PFDH"),
    _paper("full", "MDCA + ARB + PFDH"),
)
"""Table III's eight rows in its order, with the stride-4 control after the baseline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What an ablation trains."""

    data: Path
    out: Path
    scale: Scale
    recipe: Recipe
    """Of every run; its seed is replaced by each of `seeds`."""
    seeds: tuple[int, ...] = (0,)
    rows: tuple[str, ...] = tuple(row.name for row in ROWS)
    device: str = "cpu"
    init: str | None = None

    def __post_init__(self) -> None:
        known = [row.name for row in ROWS]
        unknown = [name for name in self.rows if name not in known]
        if unknown or not self.rows:
            given = ", ".join(unknown) or "nothing"
            raise UsageError(f"--rows takes names among {', '.join(known)}; it has {given}")
        sensible = all(0 <= seed < 2**64 for seed in self.seeds)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or not sensible:
            raise UsageError(
                "--seeds must be different whole numbers of 0 or more, less than 2**64, not "
                f"{list(self.seeds)}"
            )

    @property
    def chosen(self) -> tuple[Row, ...]:
        """The rows to train, in Table III's order."""
        return tuple(row for row in ROWS if row.name in self.rows)

    def run_folder(self, row: Row, seed: int) -> Path:
        """Where one run is kept."""
        return self.out / "runs" / row.name / f"seed-{seed}"

    def job(self, row: Row, seed: int) -> Job:
        """One run."""
        return Job(
            model=row.model(self.scale),
            data=self.data,
            out=self.run_folder(row, seed),
            recipe=replace(self.recipe, seed=seed),
            device=self.device,
            init=self.init,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One finished run."""

    row: str
    seed: int
    metrics: dict[str, Any]
    """Contents of its metrics.json."""
    environment: dict[str, Any]
    """Contents of its env.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The data of an ablation."""

    train: LabelledSet
    val: LabelledSet

    @staticmethod
    def open(data: Path) -> Splits:
        """Raises DataError where a split is missing or has no box, or the categories differ."""
        train = require_annotations(open_split(data, "train"), source=data)
        val = require_annotations(open_split(data, "val"), source=f"{data} (val)")
        if train.categories != val.categories:
            raise different_classes(data, train, val)
        return Splits(train=train, val=val)


def costs(plan: Plan, num_classes: int) -> dict[str, Cost]:
    """Parameters and GFLOPs (at 800 by 800) of each chosen row."""
    return {
        row.name: cost_of_named(row.model(plan.scale), num_classes=num_classes, imgsz=COST_IMGSZ)
        for row in plan.chosen
    }


def shared_settings(plan: Plan, splits: Splits) -> dict[str, Any]:
    """What every run of an ablation has in common: the contents of ablation.json."""
    return {
        "scale": plan.scale,
        "init": identity(plan.init),
        "train_sha256": splits.train.fingerprint,
        "val_sha256": splits.val.fingerprint,
        "recipe": shared(plan.recipe),
    }


def shared(recipe: Recipe) -> dict[str, Any]:
    """All settings but those that change no result, or are given with each run."""
    values = overrides.as_values(recipe)
    for free in ("seed", *AT_ANY_TIME, "cache", "cache_gib", "cache_dir"):
        values.pop(free, None)
    return values


def begin(plan: Plan, splits: Splits) -> None:
    """Record the plan in its folder; UsageError if the folder holds another ablation's runs."""
    path = plan.out / "ablation.json"
    wanted = shared_settings(plan, splits)
    if not path.exists():
        write_json(path, wanted)
        return
    try:
        kept = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read ({error}): give another --out") from error
    if isinstance(kept, dict) and isinstance(kept.get("recipe"), dict):
        # Settings that are younger than the runs had their defaults.
        kept["recipe"] = shared(overrides.from_values(kept["recipe"]))
    changed = differences(kept, wanted)
    if changed:
        raise UsageError(
            f"rows of one table need one setting, and {plan.out} holds runs of another: "
            f"{'; '.join(changed)}. Give another --out, or the settings of these runs"
        )


def check_init(plan: Plan) -> None:
    """UsageError or WeightsError where `--init` cannot start every chosen row."""
    if plan.init is None:
        return
    if Path(plan.init).suffix == ".pt":
        plain = {f"yolo11{scale}" for scale in "nsmlx"}
        others = [row.name for row in plan.chosen if row.model(plan.scale) not in plain]
        if others:
            raise UsageError(
                f"--init {plan.init} can start plain YOLO11 alone, not the rows "
                f"{', '.join(others)}: give weights of this package, or --rows baseline"
            )
        if not Path(plan.init).is_file():
            raise WeightsError(f"no checkpoint at {str(plan.init)!r}")
        return
    find_weights(plan.init)


def train_rows(
    plan: Plan, splits: Splits, after: Callable[[Sequence[Measured]], None]
) -> list[Measured]:
    """Train what is not finished yet; `after` gets all finished runs after each.

    Raises TrainingStoppedError where the run was asked to stop: the same plan then goes on. What
    training raises comes through, with the row's name; finished rows stay.
    """
    begin(plan, splits)
    for seed in plan.seeds:
        for row in plan.chosen:
            if is_finished(plan.run_folder(row, seed)):
                continue
            log.info("row %s, seed %d: %s", row.title, seed, row.model(plan.scale))
            _train_one(plan, row, seed)
            after(finished(plan))
    found = finished(plan)
    after(found)
    return found


def finished(plan: Plan) -> list[Measured]:
    """All finished runs of the chosen rows and seeds."""
    found = []
    for row in plan.chosen:
        for seed in plan.seeds:
            folder = plan.run_folder(row, seed)
            if is_finished(folder):
                found.append(measured_in(folder, row=row, seed=seed))
    return found


def measured_in(folder: Path, *, row: Row, seed: int) -> Measured:
    """The finished run in this folder. OSError or ValueError where its files cannot be read."""
    return Measured(
        row=row.name,
        seed=seed,
        metrics=json.loads((folder / "metrics.json").read_bytes()),
        environment=json.loads((folder / "env.json").read_bytes()),
    )


def _train_one(plan: Plan, row: Row, seed: int) -> None:
    folder = plan.run_folder(row, seed)
    try:
        if checkpoint.kept(folder):
            changes = {name: getattr(plan.recipe, name) for name in AT_ANY_TIME}
            loop.resume(folder, data=plan.data, device=plan.device, changes=changes)
            return
        if RunFolder(folder).last.exists():
            # Killed after its first weights and before its first state: nothing to go on from.
            shutil.rmtree(folder)
        loop.train(plan.job(row, seed))
    except TrainingStoppedError as error:
        raise TrainingStoppedError(
            f"stopped in row '{row.title}', seed {seed}; everything is saved: give the same "
            "command again to go on"
        ) from error
    except RSTinyNetError as error:
        raise type(error)(f"row '{row.title}', seed {seed}: {error}") from error


def identity(init: str | None) -> str | None:
    """What `init` is, wherever it lies."""
    if init is None or not Path(init).is_file():
        return init
    return f"{Path(init).name}, sha256 {fingerprint_of(Path(init).read_bytes())}"


def is_finished(folder: Path) -> bool:
    """Whether this folder holds a run that came to its end."""
    return (folder / "metrics.json").is_file()


def differences(kept: Any, wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """In words, what of `wanted` is otherwise in `kept`; nested names have dots."""
    if not isinstance(kept, dict):
        return [f"{prefix or 'the plan'} is not readable"]
    changed = []
    for key, value in wanted.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            changed += differences(kept.get(key), value, f"{name}.")
        elif kept.get(key) != value:
            changed.append(f"{name} was {kept.get(key)!r}, is {value!r}")
    return changed
