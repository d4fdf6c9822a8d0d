"""Options of every command that runs a model: how many threads, on what, how much at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rstinynet.cli.shown import listed

if TYPE_CHECKING:
    from rstinynet.runtime.backend import RuntimeOptions

DEVICE = Annotated[
    str | None,
    typer.Option(
        help="The runtime's device: cpu, cuda or cuda:1; OpenVINO: cpu, gpu or auto; ONNX Runtime: "
        "also tensorrt, openvino, coreml or dml. (default: a GPU where there is one; OpenVINO the "
        "processor)"
    ),
]
THREADS = Annotated[
    int | None, typer.Option(help="Threads of a forward pass. (default: the runtime's choice)")
]
PROVIDERS = Annotated[
    str | None,
    typer.Option(
        help="ONNX Runtime's execution providers, the preferred first: cuda,cpu. (default: by "
        "--device)"
    ),
]
BATCH = Annotated[
    int | None,
    typer.Option(help="Tiles of a scene in a forward pass. (default: 1; 8 on a GPU)"),
]

PRECISION = Annotated[
    str,
    typer.Option(
        help="What the network is computed in, weights by torch and .xml by OpenVINO: float32, "
        "bfloat16 or float16. Less is faster where the processor or GPU has it, and moves boxes a "
        "little. An .onnx computes in what it was exported with."
    ),
]

TTA = Annotated[
    int,
    typer.Option(
        help="Views of each tile or image that are searched and averaged: 1, 2 (mirrored), 4 "
        "(both ways) or 8 (also turned). More found, fewer false alarms, as many times the work."
    ),
]


def runtime_options(
    *,
    threads: int | None,
    providers: str | None,
    batch: int | None,
    precision: str = "float32",
) -> RuntimeOptions:
    """The options as the runtimes take them; UsageError for values without sense."""
    from rstinynet.errors import UsageError
    from rstinynet.runtime.backend import RuntimeOptions, as_precision, check_threads

    check_threads(threads, name="--threads")
    if batch is not None and batch < 1:
        raise UsageError(f"--batch must be at least 1, not {batch}")
    chosen = listed(providers)
    return RuntimeOptions(
        threads=threads,
        providers=None if chosen is None else tuple(chosen),
        batch=batch,
        precision=as_precision(precision, name="--precision"),
    )
