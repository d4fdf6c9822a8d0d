"""`rstinynet ablate`: the paper's ablation on one's own data, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstinynet.cli.options import TORCH_DEVICE
from rstinynet.cli.training import best_device, log_to_stderr

if TYPE_CHECKING:
    from rstinynet.evaluate.tables import TextTable
    from rstinynet.train.ablation import Measured


def ablate(
    data: Annotated[
        Path, typer.Option(help="Folder with {train,val}.json and images/, or a data.yaml.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the runs and the table.")],
    scale: Annotated[str, typer.Option(help="Scale of every model: n, s, m, l or x.")] = "n",
    rows: Annotated[
        str | None,
        typer.Option(help="Rows to train, separated by commas; default: all nine."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas: 0,1,2.")] = "0",
    recipe: Annotated[
        str, typer.Option(help="Settings to start from: paper, tiny, or short for small machines.")
    ] = "paper",
    epochs: Annotated[int | None, typer.Option(help="Passes over the data, of each run.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images in a batch.")] = None,
    imgsz: Annotated[int | None, typer.Option(help="Side of the training image, pixels.")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Fit each run into this time; cannot be repeated exactly.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Weights that every row starts from, where tensors fit.")
    ] = None,
    device: TORCH_DEVICE = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any recipe setting: --set augment.mosaic_prob=0. Repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with its cost; train nothing.")
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print what was measured, or planned, as JSON on stdout.")
    ] = False,
) -> None:
    """Train Table III's rows and the P2 control; write ours beside the paper's.

    The same command again goes on where it stopped. OUT/table.md, .csv and .tex are written after
    each run, with the rows and seeds that earlier commands finished there.
    """
    import json
    from dataclasses import replace
    from typing import get_args

    from rich.console import Console

    from rstinynet.errors import UsageError
    from rstinynet.evaluate.tables import write_tables
    from rstinynet.files import check_folder_place
    from rstinynet.model.config import Scale
    from rstinynet.train.ablation import ROWS, Plan, Splits, check_init, costs, train_rows
    from rstinynet.train.ablation_earlier import Earlier, earlier
    from rstinynet.train.ablation_table import plan_as_dict, plan_table, results_table
    from rstinynet.train.overrides import (
        combined,
        named_recipe,
        parse_assignments,
        with_overrides,
    )

    log_to_stderr()
    if scale not in get_args(Scale):
        raise UsageError(f"--scale must be one of {', '.join(get_args(Scale))}, not {scale}")
    options: dict[str, Any] = {"epochs": epochs, "batch": batch, "imgsz": imgsz}
    options["max_minutes"] = max_minutes
    given = {key: value for key, value in options.items() if value is not None}
    assigned = parse_assignments(set_ or [])
    if "seed" in assigned:
        raise UsageError("the seeds of an ablation are given with --seeds, not --set seed=...")
    chosen = [row.name for row in ROWS] if rows is None else _listed(rows)
    plan = Plan(
        data=data,
        out=out,
        scale=scale,  # type: ignore[arg-type]
        recipe=with_overrides(named_recipe(recipe), combined(given, assigned)),
        seeds=_numbers(seeds),
        rows=tuple(chosen),
        device=device or best_device(),
        init=init,
    )
    check_folder_place(out, option="--out")
    check_init(plan)
    splits = Splits.open(data)
    cost = costs(plan, len(splits.train.categories))
    if dry_run:
        if json_:
            print(json.dumps(plan_as_dict(plan, splits, cost)))
        else:
            print(plan_table(plan, splits, cost).as_text("markdown"), end="")
        return

    def tabled(runs: Sequence[Measured], before: Earlier) -> TextTable:
        others = {each.row for each in before.runs} - cost.keys()
        if others:
            of_others = replace(plan, rows=tuple(others))
            cost.update(costs(of_others, len(splits.train.categories)))
        return results_table(plan, splits, cost, runs, before)

    def write(runs: Sequence[Measured]) -> None:
        write_tables([tabled(runs, earlier(plan, splits))], out / "table")

    found = train_rows(plan, splits, write)
    before = earlier(plan, splits)
    if json_:
        every = [*found, *before.runs]
        runs = [{"row": each.row, "seed": each.seed, **each.metrics} for each in every]
        told = {"table": str(out / "table.md"), "runs": runs, "left_out": before.left_out}
        print(json.dumps(told))
    else:
        print(tabled(found, before).as_text("markdown"), end="")
        Console(stderr=True).print(f"written: {out / 'table'}.md, .csv, .tex", highlight=False)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> tuple[int, ...]:
    from rstinynet.errors import UsageError

    try:
        return tuple(int(part) for part in _listed(text))
    except ValueError:
        raise UsageError(f"--seeds takes whole numbers such as 0,1,2, not {text!r}") from None
