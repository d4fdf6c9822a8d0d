"""Options that several commands share; those about how a model runs are in running.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WEIGHTS = Annotated[
    str,
    typer.Argument(
        help="Weights file, packaged folder, hub:owner/name@revision, or a shipped name."
    ),
]
LABELLED = Annotated[
    Path, typer.Option(help="Folder with {train,val,test}.json and images/, or a data.yaml.")
]
SPLIT = Annotated[str, typer.Option(help="Split of the data: train, val or test.")]
TORCH_DEVICE = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU where there is one.")
]
