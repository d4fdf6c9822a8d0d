"""`rstinynet benchmark`: how fast models are on this machine, runtime by runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rstinynet.errors import UsageError


def benchmark(
    model: Annotated[
        list[str] | None,
        typer.Argument(
            help="Weights, exported models (.onnx, .xml) or names; names without weights are timed "
            "with random ones. (default: the shipped weights)"
        ),
    ] = None,
    imgsz: Annotated[
        str | None,
        typer.Option(help="Side of what the model sees, or several: 640,800. (default: its own)"),
    ] = None,
    batch: Annotated[str, typer.Option(help="Images of a forward pass, or several: 1,8.")] = "1",
    threads: Annotated[
        str | None,
        typer.Option(help="Threads of every runtime, or several: 1,2. (default: all processors)"),
    ] = None,
    runtimes: Annotated[
        str | None,
        typer.Option(
            help="Out of torch, compiled, onnx, openvino, int8, torch-bf16, compiled-bf16, "
            "openvino-bf16, int8-bf16, torch-half, compiled-half. (default: "
            "torch,compiled,onnx,openvino; on a GPU torch,torch-half,compiled-half)"
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for each row, after warming up.")] = 10.0,
    image: Annotated[
        Path | None,
        typer.Option(help="An image of your own. (default: 800 pixels of the sample scene)"),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images for the runtimes int8. (default: the image; enough for speed)"
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="torch's: cpu, cuda. (default: a GPU where there is one)")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Time the model alone and the way from an image file to boxes, in each runtime by turns.

    Runtimes that are not installed are named and left out. What else the machine does counts:
    the first line says how busy it is.
    """
    import json as json_text

    from rich.console import Console

    from rstinynet.scenes.detector import DEFAULT_MODEL
    from rstinynet.speed.run import benchmark as timed
    from rstinynet.speed.settings import SpeedSettings

    settings = SpeedSettings(
        imgsz=_numbers("imgsz", imgsz),
        batch=_numbers("batch", batch),
        threads=_numbers("threads", threads),
        runtimes=tuple(one.strip() for one in runtimes.split(",")) if runtimes else (),
        seconds=seconds,
        image=image,
        calibrate=calibrate,
        device=device,
    )
    messages = Console(stderr=True, highlight=False)
    with messages.status("") as status:
        report = timed(model or [DEFAULT_MODEL], settings, told=lambda text: status.update(text))
    if json:
        print(json_text.dumps(report))
        return
    _show(report)


def _numbers(name: str, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in text.split(",")) if text is not None else ()
    except ValueError:
        raise UsageError(
            f"--{name} is a whole number, or several with commas, not {text!r}"
        ) from None


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    here = report["machine"]
    versions = [f"{name} {here[name]}" for name in ("torch", "onnxruntime", "openvino")]
    load = f", load {here['load']}" if "load" in here else ""
    console.print(
        f"{here['processor']}, {here['processors']} processors{load}; "
        + ", ".join(one for one in versions if not one.endswith("None")),
        soft_wrap=True,
        markup=False,
    )
    image = report["image"]
    console.print(
        f"{image['name']}, {image['width']} by {image['height']} px, from file to boxes",
        soft_wrap=True,
        markup=False,
    )
    for table in report["tables"]:
        console.print()
        _show_table(console, table)


def _show_table(console: Any, table: dict[str, Any]) -> None:
    from rich.table import Table

    from rstinynet.speed.settings import RUNTIMES

    facts = [f"{table['imgsz']} px", f"batch {table['batch']}", f"{table['threads']} threads"]
    if table["device"]:
        facts.append(table["device"])
    if table["parameters"]:
        facts += [f"{table['parameters'] / 1e6:.2f} M params", f"{table['gflops']:.1f} GFLOPs"]
    if table["random_weights"]:
        facts.append("random weights: boxes mean nothing")
    console.print(
        f"{table['source'] or table['model']}: " + ", ".join(facts), soft_wrap=True, markup=False
    )
    columns = ["runtime", "model ms", "quartiles", "file to boxes", "quartiles", "images/s"]
    limited = any("limit_ms" in row for row in table["rows"])
    columns += ["boxes", *(["limit ms"] if limited else [])]
    shown = Table(box=None, pad_edge=False)
    for at, column in enumerate(columns):
        shown.add_column(column, justify="right" if at else "left", no_wrap=True)
    skipped = []
    for row in table["rows"]:
        words = RUNTIMES[row["runtime"]].words
        if "skipped" in row:
            skipped.append(f"{words}: {row['skipped']}")
            continue
        cells = [words]
        for name in ("model_ms", "whole_ms"):
            cells += [f"{row[name]:.1f}", f"{row[f'{name}_25']:.1f}-{row[f'{name}_75']:.1f}"]
        cells += [f"{row['images_s']:.2f}", f"{row['objects']:.0f}"]
        if limited:
            cells.append(f"{row['limit_ms']:.1f}" if "limit_ms" in row else "")
        shown.add_row(*cells)
    console.print(shown)
    for line in skipped:
        console.print(f"left out: {line}", style="yellow", soft_wrap=True, markup=False)
    gpu = table["gpu_peak_mib"]
    memory = f"most memory so far {table['peak_mib']} MiB" + (f", GPU {gpu} MiB" if gpu else "")
    console.print(memory, style="dim", soft_wrap=True)
