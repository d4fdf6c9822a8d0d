"""Options that several commands share; those about how a model runs are in running.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rstinynet.errors import UsageError

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
MEASURED_SPLIT = Annotated[
    str | None, typer.Option("--split", help="Split of --data: train, val or test. (default: val)")
]
TORCH_DEVICE = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU where there is one.")
]


def measured_split(data: Path | None, split: str | None) -> str:
    """The split to measure on; UsageError where one is named and there is nothing to measure on."""
    if split is not None and data is None:
        raise UsageError(f"--split {split} says where on --data to measure: give --data too")
    return split or "val"
