"""What earlier commands left finished in an ablation's folder, for its table to show as well."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rstinynet.train.ablation import (
    ROWS,
    Measured,
    Plan,
    Row,
    Splits,
    differences,
    identity,
    is_finished,
    measured_in,
    shared,
    shared_settings,
)
from rstinynet.train.job import Job


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """Finished runs in the folder that the plan does not name."""

    runs: tuple[Measured, ...] = ()
    """Those of the plan's data and settings, in Table III's order."""
    left_out: tuple[str, ...] = ()
    """The others: which, and why they may not stand in one table with these."""


def earlier(plan: Plan, splits: Splits) -> Earlier:
    """What other rows and seeds have finished in `plan.out`, read anew at each call."""
    runs, left_out = [], []
    for row in ROWS:
        for seed in _seeds(plan.out / "runs" / row.name):
            folder = plan.run_folder(row, seed)
            named = row.name in plan.rows and seed in plan.seeds
            if named or not is_finished(folder):
                continue
            try:
                run = measured_in(folder, row=row, seed=seed)
                changed = differences(_settings(folder, run, plan), _wanted(plan, splits, row))
            except (
                OSError,
                ValueError,
                LookupError,
                TypeError,
                AttributeError,
                yaml.YAMLError,
            ) as e:
                changed = [
                    f"{folder} cannot be read: {type(e).__name__}: {' '.join(str(e).split())}"
                ]
            if changed:
                left_out.append(f"{row.name}, seed {seed} ({'; '.join(changed)})")
            else:
                runs.append(run)
    return Earlier(runs=tuple(runs), left_out=tuple(left_out))


def _seeds(folder: Path) -> list[int]:
    names = [path.name.removeprefix("seed-") for path in folder.glob("seed-*")]
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def _wanted(plan: Plan, splits: Splits, row: Row) -> dict[str, Any]:
    """What the plan would have this row made with."""
    wanted = shared_settings(plan, splits)
    del wanted["scale"]
    return wanted | {"model": row.model(plan.scale)}


def _settings(folder: Path, run: Measured, plan: Plan) -> dict[str, Any]:
    """What a run was made with, as its own files say, in the words of `_wanted`."""
    args = yaml.safe_load((folder / "args.yaml").read_bytes())
    job = Job.from_values(args, out=folder)
    if job.recipe.seed != run.seed:
        raise ValueError(f"its args.yaml has the seed {job.recipe.seed}")
    init = identity(job.init)
    moved = job.init is not None and not Path(job.init).is_file()
    if moved and plan.init is not None and Path(str(job.init)).name == Path(plan.init).name:
        # Of the same name they are held to be the same weights.
        init = identity(plan.init)
    if not isinstance(run.metrics, dict):
        raise ValueError("its metrics.json has no numbers by name")
    data = run.environment.get("data", {})
    return {
        "model": job.model,
        "init": init,
        "train_sha256": data.get("train"),
        "val_sha256": data.get("val"),
        "recipe": shared(job.recipe),
    }
