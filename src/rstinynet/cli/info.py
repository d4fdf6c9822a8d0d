"""`rstinynet info`: what a model is and costs, or which models there are."""

from __future__ import annotations

import json as json_text
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rstinynet.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from rstinynet.model.weights import WeightsMetadata

AITOD_CLASSES = 8
"""Classes of AI-TOD, for which the paper counts its models."""
COUNTED_AT = 800
"""Side of AI-TOD's images, at which the paper counts operations."""


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A named model, or weights (a file, a packaged folder, hub:owner/name@revision)."
            " None: the list of named models."
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(help="Classes of a named model (default: the shipped weights', or 8)."),
    ] = None,
    imgsz: Annotated[
        int | None,
        typer.Option(help=f"Side in pixels at which GFLOPs are counted. (default: {COUNTED_AT})"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Parameters, GFLOPs (2 a multiply-accumulate) and strides of a model, and its metadata."""
    if model is None:
        if classes is not None or imgsz is not None:
            raise UsageError("--classes and --imgsz are of one model: name it, or leave them out")
        _print_models(json)
        return
    described = describe(model, classes=classes, imgsz=COUNTED_AT if imgsz is None else imgsz)
    if json:
        print(json_text.dumps(described))
    else:
        _print_description(described)


def describe(model: str, *, classes: int | None = None, imgsz: int = COUNTED_AT) -> dict[str, Any]:
    """What `rstinynet info MODEL --json` prints.

    Metadata of shipped weights is given where `classes` asks for no other number than theirs.
    Raises UsageError for an unknown name or an option that makes no sense, WeightsError for a file
    that cannot be used.
    """
    from rstinynet.model.cost import cost_of, cost_of_named
    from rstinynet.model.located import located
    from rstinynet.model.presets import NAMES
    from rstinynet.model.weights import load_weights, read_metadata, shipped_path

    if classes is not None and classes < 1:
        raise UsageError(f"--classes must be 1 or more, not {classes}")
    try:
        model = str(located(model, suffixes=(".safetensors",)))
    except WeightsError:
        # A folder that is called as a model is, and is none.
        if model not in NAMES:
            raise
    metadata: WeightsMetadata | None = None
    if _is_file(model):
        loaded, metadata = load_weights(model)
        if classes not in (None, len(metadata.names)):
            raise UsageError(
                f"{model} has {len(metadata.names)} classes, not {classes}: leave out --classes"
            )
        cost = cost_of(loaded, imgsz=imgsz)
        name = metadata.model
    else:
        shipped = shipped_path(model)
        metadata = None if shipped is None else read_metadata(shipped)
        if metadata is not None and classes not in (None, len(metadata.names)):
            metadata = None
        classes = classes or (AITOD_CLASSES if metadata is None else len(metadata.names))
        cost = cost_of_named(model, num_classes=classes, imgsz=imgsz)
        name = model
    described: dict[str, Any] = {
        "model": name,
        "classes": classes if metadata is None else len(metadata.names),
        "imgsz": imgsz,
        **cost.as_dict(),
    }
    if metadata is not None:
        described["metadata"] = metadata.model_dump(mode="json")
    return described


def _is_file(model: str) -> bool:
    """A path rather than a name; a missing one is then reported as a missing file."""
    return Path(model).is_file() or model.endswith(".safetensors") or "/" in model


def _print_models(json: bool) -> None:
    from rstinynet.model.presets import NAMES
    from rstinynet.model.weights import shipped_names

    shipped = shipped_names()
    if json:
        print(json_text.dumps({"models": list(NAMES), "shipped": list(shipped)}))
        return
    families: dict[str, list[str]] = {}
    for name in NAMES:
        families.setdefault(_family(name), []).append(name)
    for names in families.values():
        print("  ".join(names))
    print(f"\nWith weights in the package: {', '.join(shipped) or 'none'}")


def _family(name: str) -> str:
    """A name without its scale: yolo11m-p2 is of yolo11-p2, paper-full-m of paper-full."""
    return re.sub(r"(?<=^yolo11)[nsmlx]|-[nsmlx](?=-|$)", "", name)


def _print_description(described: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = {key: value for key, value in described.items() if key != "metadata"}
    # The weights' own image size is another than that at which operations are counted.
    rows[f"gflops at {rows.pop('imgsz')} px"] = rows.pop("gflops")
    rows |= described.get("metadata", {})
    for key, value in rows.items():
        table.add_row(key, _readable(value))
    Console(highlight=False, markup=False).print(table)


def _readable(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return str(value)
