"""`rstinynet val`: score a model, or a results file, on a labelled split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from rstinynet.data.annotations import LabelledSet
    from rstinynet.detections import Detections
    from rstinynet.scenes.detector import Detector


def val(
    data: Annotated[
        Path, typer.Option(help="Folder with {train,val,test}.json and images/, or a data.yaml.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Weights file, or the name of shipped weights.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data: train, val or test.")] = "val",
    predictions: Annotated[
        Path | None, typer.Option(help="Score this COCO results file instead of a model.")
    ] = None,
    save_predictions: Annotated[
        Path | None, typer.Option(help="Write what the model found as a COCO results file.")
    ] = None,
    conf: Annotated[float, typer.Option(help="Lowest confidence of a detection.")] = 0.001,
    iou: Annotated[
        float, typer.Option(help="Overlap above which the weaker of two boxes is dropped.")
    ] = 0.6,
    max_det: Annotated[
        int, typer.Option(help="Most detections of each class on an image in the score.")
    ] = 1500,
    scale: Annotated[
        float | None, typer.Option(help="Resize factor of images; default: the weights' own.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images of one size in a forward pass.")] = 1,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU where there is one.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Print AI-TOD's seven numbers and each class's on a labelled split."""
    import json

    from rich.console import Console

    from rstinynet.data.folder import open_split
    from rstinynet.data.formats.coco import require_annotations
    from rstinynet.evaluate.coco import evaluate
    from rstinynet.evaluate.report import table

    _check(model, predictions, save_predictions)
    _check_numbers(batch=batch, max_det=max_det, scale=scale, iou=iou)
    messages = Console(stderr=True)
    labelled = require_annotations(open_split(data, split), source=data)
    extra: dict[str, Any] = {"data": str(data), "split": split}
    if predictions is not None:
        from rstinynet.evaluate.results import read_results

        evaluation = evaluate(labelled, read_results(predictions, labelled), max_det=max_det)
        extra["predictions"] = str(predictions)
    else:
        from rstinynet.evaluate.results import write_results
        from rstinynet.evaluate.run import detector_cap
        from rstinynet.scenes.detector import Detector

        assert model is not None
        detector = Detector.load(model, device=device)
        cap = detector_cap(max_det)
        options = {"conf": conf, "iou": iou, "max_det": cap, "scale": scale}
        found, missing = _find(detector, labelled, options, batch=batch, messages=messages)
        if save_predictions is not None:
            write_results(save_predictions, found, labelled)
        evaluation = evaluate(labelled, found, max_det=max_det)
        extra |= {"model": model, "architecture": detector.metadata.model}
        extra |= {"conf": conf, "iou": iou, "max_det_of_image": cap}
        extra |= {"classes_missing_in_model": missing}
        extra["scale"] = detector.metadata.scale if scale is None else scale
    report = evaluation.as_dict()
    report["settings"] |= extra
    report["settings"]["annotations_sha256"] = labelled.fingerprint
    if json_:
        print(json.dumps(report, allow_nan=False))
    else:
        name = Path(str(predictions if predictions is not None else model)).name
        Console().print(table(evaluation, title=f"{name} on {data.name}, {split}"))


def _check(
    model: str | None,
    predictions: Path | None,
    save_predictions: Path | None,
) -> None:
    from rstinynet.errors import UsageError

    if (model is None) == (predictions is None):
        raise UsageError("val needs either --model WEIGHTS or --predictions FILE, and not both")
    if predictions is not None and save_predictions is not None:
        raise UsageError("--save-predictions writes what a model found; give it with --model")


def _check_numbers(*, batch: int, max_det: int, scale: float | None, iou: float) -> None:
    from rstinynet.errors import UsageError

    if not 0 <= iou <= 1:
        raise UsageError(f"--iou must lie in [0, 1], not {iou}")
    for name, value in {"--batch": batch, "--max-det": max_det}.items():
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")
    if scale is not None and not 0 < scale <= 16:
        raise UsageError(f"--scale must be above 0 and at most 16, not {scale}")


def _find(
    detector: Detector,
    labelled: LabelledSet,
    options: dict[str, Any],
    *,
    batch: int,
    messages: Console,
) -> tuple[dict[int, Detections], list[str]]:
    """What the model finds, with the data's labels, and the data's classes that it lacks."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rstinynet.evaluate.classes import match_classes
    from rstinynet.evaluate.run import find_objects

    match = match_classes(detector.names, data_names=labelled.names)
    if match.only_data:
        missing = ", ".join(match.only_data)
        messages.print(f"The model does not know {missing}: never found, they count AP 0.")
    if match.only_model:
        messages.print(f"The data set lacks {', '.join(match.only_model)}: left out.")
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages) as bar:
        task = bar.add_task("images", total=len(labelled))
        found = find_objects(
            lambda images: detector.detect_batch(images, **options),
            labelled,
            batch=batch,
            progress=lambda images: bar.advance(task, images),
        )
    return {at: match.translate(dets) for at, dets in found.items()}, list(match.only_data)
