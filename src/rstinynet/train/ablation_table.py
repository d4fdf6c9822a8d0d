"""An ablation's results as a table, beside the published one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rstinynet.evaluate.published import PAPER, SEVEN, ablation_rows
from rstinynet.evaluate.tables import NOTHING, TextTable, number
from rstinynet.model.cost import Cost
from rstinynet.train.ablation import COST_IMGSZ, ROWS, Measured, Plan, Row, Splits
from rstinynet.train.ablation_earlier import Earlier

_HEADS = ("AP", "AP50", "AP75", "AP_vt", "AP_t", "AP_s", "AP_m")
_MARK = "✓"


class Planned(NamedTuple):
    """What one row of a plan would train, over all its seeds, and what it costs."""

    row: str
    model: str
    parameters: int
    gflops: float
    """Of a forward pass at `COST_IMGSZ`."""
    images: int
    """Shown in training, over all epochs and seeds."""
    pflops: float
    """1e15 operations: three forward passes a training image."""


def planned(plan: Plan, splits: Splits, costs: Mapping[str, Cost]) -> list[Planned]:
    """The rows of a plan, in its order."""
    steps = max(1, len(splits.train) // min(plan.recipe.batch, len(splits.train)))
    shown = plan.recipe.epochs * steps * min(plan.recipe.batch, len(splits.train))
    pixels = (plan.recipe.imgsz / COST_IMGSZ) ** 2
    rows = []
    for row in plan.chosen:
        cost = costs[row.name]
        rows.append(
            Planned(
                row=row.name,
                model=row.model(plan.scale),
                parameters=cost.parameters,
                gflops=cost.gflops,
                images=shown * len(plan.seeds),
                # A training step costs about three forward passes.
                pflops=3 * cost.gflops * pixels * shown * len(plan.seeds) / 1e6,
            )
        )
    return rows


def plan_table(plan: Plan, splits: Splits, costs: Mapping[str, Cost]) -> TextTable:
    """What would be trained, and what it costs."""
    rows = [
        (
            row.title,
            each.model,
            number(each.parameters, 0),
            number(each.gflops),
            number(each.images, 0),
            number(each.pflops, 2),
        )
        for row, each in zip(plan.chosen, planned(plan, splits, costs), strict=True)
    ]
    return TextTable(
        title=f"Plan of the ablation at scale {plan.scale}, seeds {_listed(plan.seeds)}",
        columns=("row", "model", "parameters", f"GFLOPs at {COST_IMGSZ}²", "images", "PFLOPs"),
        rows=tuple(rows),
        notes=(
            _budget(plan, splits),
            "images: shown in training, over all epochs and seeds. PFLOPs: 1e15 operations, three "
            "forward passes a training image; validation and training-only parts come on top.",
        ),
        left=2,
    )


def plan_as_dict(plan: Plan, splits: Splits, costs: Mapping[str, Cost]) -> dict[str, Any]:
    """The same plan in JSON's types."""
    return {
        "scale": plan.scale,
        "seeds": list(plan.seeds),
        "cost_imgsz": COST_IMGSZ,
        "budget": _budget(plan, splits),
        "plan": [each._asdict() for each in planned(plan, splits, costs)],
    }


def results_table(
    plan: Plan,
    splits: Splits,
    costs: Mapping[str, Cost],
    found: Sequence[Measured],
    before: Earlier | None = None,
) -> TextTable:
    """Ours (mean over seeds, and spread) beside the paper's, of every chosen row, and of those that
    earlier commands finished in the same folder (`before`). `costs` are of all of these.
    """
    before = before or Earlier()
    runs_of_all = [*found, *before.runs]
    shown = [
        row
        for row in ROWS
        if row.name in plan.rows or any(each.row == row.name for each in before.runs)
    ]
    by_row = {row.name: [each for each in runs_of_all if each.row == row.name] for row in shown}
    base = _mean(by_row.get("baseline", []), "ap")
    modules = ("P2", "MDCA", "ARB", "PFDH")
    rows = []
    for row in shown:
        runs = by_row[row.name]
        ap = _mean(runs, "ap")
        gain = NOTHING if ap is None or base is None else _signed(100 * (ap - base))
        rows.append(
            (
                row.title,
                *(_MARK if there else "" for there in row.modules),
                *(_spread(runs, name) for name in SEVEN),
                gain,
                str(len(runs)),
                number(costs[row.name].parameters, 0),
                number(costs[row.name].gflops),
                *_published(row),
            )
        )
    return TextTable(
        title=f"Ablation at scale {plan.scale}: measured here on {_data(plan)}, and as published",
        columns=(
            "row",
            *modules,
            *_HEADS,
            "ΔAP",
            "seeds",
            "parameters",
            "GFLOPs",
            "paper AP",
            "paper ΔAP",
            "paper AP50",
            "paper AP75",
            "paper parameters",
        ),
        rows=tuple(rows),
        notes=_notes(plan, splits, found, before),
        left=5,
    )


def _notes(
    plan: Plan, splits: Splits, found: Sequence[Measured], before: Earlier
) -> tuple[str, ...]:
    missing = len(plan.chosen) * len(plan.seeds) - len(found)
    classes = len(splits.train.categories)
    best = plan.recipe.best.replace("ap", "AP", 1)
    notes = [
        _budget(plan, splits),
        f"Measured here: {_data(plan)}, val split, {len(splits.val)} images, AI-TOD protocol, "
        f"percent; of each run the weights with the best {best} on that split. Several seeds: mean "
        "± sample standard deviation. ΔAP: less the baseline's mean.",
        f"Parameters: for {classes} classes, without parts that only training uses. GFLOPs: at "
        f"{COST_IMGSZ} by {COST_IMGSZ} pixels.",
        f"Columns 'paper': {PAPER}, Table III: AI-TOD's test set, scale m, 8 classes, 600 epochs "
        "at 800 pixels. They are other images and another budget: compare gains within a column, "
        "never numbers across. The paper has no row for P2 alone, and each of its rows with MDCA "
        "or PFDH contains P2.",
    ]
    every = [*found, *before.runs]
    if before.runs:
        notes.append(
            "Of earlier commands into the same folder, with the same data and settings: "
            f"{_by_row(before.runs)}."
        )
    if before.left_out:
        notes.append(
            f"Left out, since rows of one table need one setting: {'; '.join(before.left_out)}."
        )
    machines = sorted({_machine(each.environment) for each in every})
    if machines:
        minutes = sum(float(each.metrics.get("minutes", 0)) for each in every)
        notes.append(f"Machine: {'; '.join(machines)}. {minutes:.1f} minutes of training in all.")
    if missing:
        notes.append(f"Not finished yet: {missing} of {len(found) + missing} runs.")
    return tuple(notes)


def _budget(plan: Plan, splits: Splits) -> str:
    recipe = plan.recipe
    limit = "" if recipe.max_minutes is None else f", at most {recipe.max_minutes:g} minutes"
    start = "from random weights" if plan.init is None else f"started from {Path(plan.init).name}"
    return (
        f"Budget of each run: {recipe.epochs} epochs{limit} of {len(splits.train)} images, batch "
        f"{recipe.batch}, {recipe.imgsz} pixels, recipe '{recipe.name}', {start}, seeds "
        f"{_listed(plan.seeds)}."
    )


def _data(plan: Plan) -> str:
    return plan.data.resolve().name


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _by_row(runs: Sequence[Measured]) -> str:
    seeds: dict[str, list[int]] = {}
    for each in runs:
        seeds.setdefault(each.row, []).append(each.seed)
    return "; ".join(f"{row}, seed{'s' * (len(of) > 1)} {_listed(of)}" for row, of in seeds.items())


def _machine(environment: Mapping[str, Any]) -> str:
    device = environment.get("gpu") or environment.get("device", "unknown device")
    return (
        f"{device}, {environment.get('platform')}, torch {environment.get('torch')}, "
        f"{environment.get('torch_threads')} threads, rstinynet {environment.get('rstinynet')}"
    )


def _published(row: Row) -> tuple[str, str, str, str, str]:
    published = ablation_rows()
    if row.name not in published:
        return (NOTHING,) * 5
    paper = published[row.name]
    return (
        number(paper.ap),
        _signed(paper.ap - published["baseline"].ap),
        number(paper.ap50),
        number(paper.ap75),
        number(paper.parameters, 0),
    )


def _values(runs: Sequence[Measured], name: str) -> list[float]:
    return [float(each.metrics[name]) for each in runs if each.metrics.get(name) is not None]


def _mean(runs: Sequence[Measured], name: str) -> float | None:
    values = _values(runs, name)
    return statistics.fmean(values) if values else None


def _spread(runs: Sequence[Measured], name: str) -> str:
    values = [100 * value for value in _values(runs, name)]
    if not values:
        return NOTHING
    text = number(statistics.fmean(values))
    return f"{text} ± {statistics.stdev(values):.1f}" if len(values) > 1 else text


def _signed(value: float) -> str:
    if math.isclose(value, 0, abs_tol=0.05):
        return "0.0"
    return f"{value:+.1f}"
