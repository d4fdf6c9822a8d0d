"""`rstinynet export`: weights as a file that runs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rstinynet.cli.options import MEASURED_SPLIT, WEIGHTS, measured_split
from rstinynet.cli.shown import listed


def export(
    weights: WEIGHTS,
    format: Annotated[
        str,
        typer.Option(
            help="onnx, openvino, torch-export, or tensorrt: an engine for the GPU here, and for "
            "the version of TensorRT here. (not tried on a GPU yet)"
        ),
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="File to write. (default: the weights' name, here)")
    ] = None,
    imgsz: Annotated[
        int | None,
        typer.Option(help="Side of the square input, a multiple of 32. (default: the weights')"),
    ] = None,
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic",
            help="Any height and width, multiples of 32; --imgsz then is the side of tiles.",
        ),
    ] = False,
    opset: Annotated[
        int | None, typer.Option(help="ONNX operator set, 18 to 20. (default: 18)")
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="The network in float16; OpenVINO: its weights only.")
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Eight bits; needs --calibrate.")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Images like those the model is for: a folder, or labelled data (its train)."
        ),
    ] = None,
    accurate: Annotated[
        bool,
        typer.Option(
            "--accurate",
            help="With --int8: depthwise convolutions and what lies between convolutions stay in "
            "float; in OpenVINO biases are corrected layer by layer.",
        ),
    ] = False,
    keep_float: Annotated[
        str | None,
        typer.Option(help="With --int8: parts that stay in float, such as backbone,head."),
    ] = None,
    nms: Annotated[bool, typer.Option("--nms", help="Suppress overlaps inside the graph.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Labelled data: measure AP before and after.")
    ] = None,
    split: MEASURED_SPLIT = None,
    json: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
) -> None:
    """Export weights to a file of another runtime, and check that it gives what they give.

    The report stands beside the file as FILE.export.json. Exit code 5 where the file cannot be
    made or its outputs, or its AP on --data, differ by more than the tolerance.
    """
    import json as json_text

    from rich.console import Console
    from rich.markup import escape

    from rstinynet.errors import ExportError, UsageError

    if int8 != (calibrate is not None):
        raise UsageError(
            "INT8 needs images to calibrate on: give --int8 and --calibrate FOLDER together"
        )
    try:
        from rstinynet.export.run import ExportSettings, export_model
    except ModuleNotFoundError as error:
        raise ExportError(
            f"export needs {error.name}, which is not installed: pip install 'rs-tinynet[export]'"
        ) from error
    settings = ExportSettings(
        format=format,  # type: ignore[arg-type]
        imgsz=imgsz,
        dynamic=dynamic,
        opset=opset,
        half=half,
        calibrate=calibrate,
        accurate=accurate,
        keep_float=tuple(listed(keep_float) or ()),
        nms=nms,
    )
    report = export_model(
        weights, out, settings=settings, data=data, split=measured_split(data, split)
    )
    if json:
        print(json_text.dumps(report))
        return
    console = Console(highlight=False)
    size = report["bytes"] / 1e6
    console.print(
        f"[green]done[/] {escape(report['file'])}: {report['model']} at "
        f"{'any size, tiles of ' if dynamic else ''}{report['imgsz']} px, "
        f"{report['precision']}, {size:.1f} MB",
        soft_wrap=True,
    )
    for name, found in report["compared"].items():
        text = found
        if isinstance(found, dict):
            text = ", ".join(f"{key} {value:.2g}" for key, value in found.items())
        console.print(f"  {name}: {text}", soft_wrap=True)
    if "ap_after" in report:
        console.print(f"  AP {report['ap_after']:.4f}, {report['ap_before']:.4f} before")
