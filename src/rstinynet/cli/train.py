"""`rstinynet train`: train a model on a data folder, or continue a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rstinynet.cli.training import best_device, log_to_stderr


def train(
    model: Annotated[
        str | None, typer.Option(help="Name of a model, such as rs-tinynet-n.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with {train,val}.json and images/, or a data.yaml."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run, made anew; default: runs/MODEL-RECIPE."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Settings to start from: paper (600 epochs at 800 px, as published), tiny (ours), "
            "or short (tiny for small machines). (default: paper)"
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images in a batch.")] = None,
    imgsz: Annotated[int | None, typer.Option(help="Side of the training image, pixels.")] = None,
    lr0: Annotated[float | None, typer.Option(help="First learning rate.")] = None,
    close_mosaic: Annotated[
        float | None, typer.Option(help="No mosaic in this many last epochs.")
    ] = None,
    best: Annotated[
        str | None, typer.Option(help="The number that chooses the best weights: ap, ap_t, ap50...")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="End when that number has not risen for so many epochs.")
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(help="Fit the training into this time; such a run is not bit-reproducible."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that prepare batches.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is random.")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Weights to start from: a file (of YOLO11 also Ultralytics' .pt), a packaged "
            "folder, hub:owner/name@revision, or a shipped model's name."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1; default: a GPU where there is one; resumed: as before."
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this folder, with its own settings.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any recipe setting: --set loss.topk=13. Repeatable."),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the final metrics as JSON on stdout.")
    ] = False,
) -> None:
    """Train a model; keep the weights with the best validation AP, or the number of --best.

    An option that is not given is as the recipe has it; a run prints all settings at its start.

    On several GPUs or machines: torchrun --nproc-per-node N -m rstinynet.cli.main train ...
    """
    import json

    from rstinynet.errors import UsageError
    from rstinynet.train import loop
    from rstinynet.train.job import CHANGEABLE, Job, new_folder
    from rstinynet.train.overrides import (
        combined,
        named_recipe,
        parse_assignments,
        with_overrides,
    )
    from rstinynet.train.ranks import placed

    log_to_stderr()
    options: dict[str, Any] = {
        "epochs": epochs,
        "batch": batch,
        "imgsz": imgsz,
        "lr0": lr0,
        "close_mosaic": close_mosaic,
        "best": best,
        "patience": patience,
        "max_minutes": max_minutes,
        "workers": workers,
        "seed": seed,
    }
    given = {key: value for key, value in options.items() if value is not None}
    given = combined(given, parse_assignments(set_ or []))
    if resume is not None:
        refused = {"--model": model, "--out": out, "--init": init, "--recipe": recipe}
        extra = [name for name, value in refused.items() if value is not None]
        extra += [
            f"--{key.replace('_', '-')}" if options.get(key) is not None else f"--set {key}"
            for key in given
            if key not in CHANGEABLE
        ]
        if extra:
            raise UsageError(
                f"--resume continues a run with its own settings; leave out {', '.join(extra)} "
                f"(what may change is {', '.join(CHANGEABLE)})"
            )
        metrics = loop.resume(resume, data=data, device=device, changes=given)
    else:
        if model is None or data is None:
            raise UsageError("train needs --model and --data (or --resume RUN)")
        chosen = with_overrides(named_recipe(recipe or "paper"), given)
        metrics = loop.train(
            Job(
                model=model,
                data=data,
                out=out or new_folder(model, chosen),
                recipe=chosen,
                device=device or best_device(),
                init=init,
            )
        )
    if json_ and placed().leads:
        print(json.dumps(metrics))
