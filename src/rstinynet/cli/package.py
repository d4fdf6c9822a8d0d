"""`rstinynet package`: weights as a folder to pass on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rstinynet.cli.options import MEASURED_SPLIT, WEIGHTS, measured_split


def package(
    weights: WEIGHTS,
    out: Annotated[Path, typer.Option(help="Folder to write: new, or empty.")],
    licence: Annotated[
        str | None,
        typer.Option(help="Licence of the weights, e.g. 'CC-BY-4.0'. (default: their own)"),
    ] = None,
    notice: Annotated[
        Path | None, typer.Option(help="Text file added to LICENSE: who is to be credited.")
    ] = None,
    notes: Annotated[
        Path | None, typer.Option(help="Markdown file added to the card: limits that you know of.")
    ] = None,
    repo: Annotated[
        str | None, typer.Option(help="owner/name that it will have on the hub, for the card.")
    ] = None,
    imgsz: Annotated[
        int | None,
        typer.Option(help="Side of the ONNX file's input, a multiple of 32. (default: their own)"),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled data: numbers by class for the card, and a check.")
    ] = None,
    split: MEASURED_SPLIT = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a package that stands there.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="What was written, as JSON.")] = False,
) -> None:
    """Write a folder that uploads to a model hub as it is, and that every --model takes.

    It holds the weights, the ONNX file with its check, a model card, a STAC item of the Machine
    Learning Model extension, the licence and an example.
    """
    import json as json_text

    from rich.console import Console

    from rstinynet.errors import ExportError

    try:
        from rstinynet.export.package import PackageSettings, package_model
    except ModuleNotFoundError as error:
        raise ExportError(
            f"package needs {error.name}, which is not installed: pip install 'rs-tinynet[export]'"
        ) from error
    settings = PackageSettings(
        licence=licence, notice=notice, notes=notes, repo=repo, imgsz=imgsz, overwrite=overwrite
    )
    report = package_model(
        weights, out, settings=settings, data=data, split=measured_split(data, split)
    )
    messages = Console(stderr=True, highlight=False, markup=False)
    if not report["licence_stated"]:
        messages.print(
            "warning: the weights state no licence, and the card says that nobody else may use "
            "them: give --licence",
            soft_wrap=True,
        )
    if not report["metrics"]:
        messages.print(
            "warning: the card has no numbers: the weights carry none. --data measures them",
            soft_wrap=True,
        )
    if json:
        print(json_text.dumps(report))
        return
    console = Console(highlight=False, markup=False)
    console.print(f"done {out}: {report['model']}, licence {report['licence']}", soft_wrap=True)
    for name, size in report["files"].items():
        console.print(f"  {name}  {_size(size)}", soft_wrap=True)
    where = repo or "OWNER/NAME"
    console.print(f"  upload: hf upload {where} {out}", soft_wrap=True)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
