"""`rstinynet val`: score a model, or a results file, on a labelled split."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstinynet.cli.options import LABELLED, SPLIT
from rstinynet.cli.running import DEVICE, PRECISION, PROVIDERS, THREADS, TTA, runtime_options
from rstinynet.cli.shown import WIDTH, told_apart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from rstinynet.data.annotations import LabelledSet
    from rstinynet.detections import Detections
    from rstinynet.evaluate.study import Study, Wanted
    from rstinynet.scenes.detector import Detector


def val(
    context: typer.Context,
    data: LABELLED,
    model: Annotated[
        str | None,
        typer.Option(
            help="Weights (.safetensors), an exported model (.onnx, .xml), a packaged folder, "
            "hub:owner/name@revision, or a shipped model's name; several, separated by commas, "
            "search together."
        ),
    ] = None,
    split: SPLIT = "val",
    predictions: Annotated[
        Path | None, typer.Option(help="Score this COCO results file instead of a model.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Put this COCO results file of another detector beside it.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="aitod, aitod-v2, coco, voc-area, voc-11 or dior.")
    ] = "aitod",
    errors: Annotated[
        bool, typer.Option("--errors", help="Errors by kind and size, and a confusion matrix.")
    ] = False,
    per_scene: Annotated[
        bool, typer.Option("--per-scene", help="Numbers of each scene, by the images' names.")
    ] = False,
    scene_pattern: Annotated[
        str | None,
        typer.Option(help="Expression whose first group in a file's stem names the scene."),
    ] = None,
    scene_field: Annotated[
        str | None, typer.Option(help="Field of the image records that names the scene.")
    ] = None,
    gsd: Annotated[
        float | None,
        typer.Option(help="Metres a pixel of images whose record has no gsd_m."),
    ] = None,
    curves: Annotated[
        bool, typer.Option("--curves", help="Precision-recall curves in the JSON.")
    ] = False,
    calibration: Annotated[
        bool,
        typer.Option(
            "--calibration", help="How far scores are from precision: reliability and its error."
        ),
    ] = False,
    plots: Annotated[
        Path | None,
        typer.Option(
            help="Draw precision-recall and reliability curves into this folder, with curves.json."
        ),
    ] = None,
    save_predictions: Annotated[
        Path | None, typer.Option(help="Write what the model found as a COCO results file.")
    ] = None,
    conf: Annotated[float, typer.Option(help="Lowest confidence of what a model finds.")] = 0.001,
    confusion_conf: Annotated[
        float, typer.Option(help="Lowest confidence in the confusion matrix.")
    ] = 0.25,
    iou: Annotated[
        float, typer.Option(help="Overlap above which the weaker of two boxes is dropped.")
    ] = 0.6,
    max_det: Annotated[
        int | None,
        typer.Option(
            help="Most detections of each class on an image in the score; default: the protocol's.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            help="Resize factor of images; of several, as 1,1.5, each is searched and what they "
            "find averaged; default: the weights' own."
        ),
    ] = None,
    fit: Annotated[
        int | None,
        typer.Option(help="Resize each image so that its longer side has this many pixels."),
    ] = None,
    tta: TTA = 1,
    size: Annotated[
        str | None,
        typer.Option(
            help="Drop what a model finds of another size, in metres of the longer side, as "
            "`predict --size` does: vehicle=3.5:20,ship=8:. Images need gsd_m or --gsd."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images of one size in a forward pass.")] = 1,
    device: DEVICE = None,
    threads: THREADS = None,
    providers: PROVIDERS = None,
    precision: PRECISION = "float32",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Score a model, or any detector's results file, in a protocol's numbers, and say why it errs.

    Numbers are those of AI-TOD's protocol by default; what they rest on is printed with them.
    """
    import json

    from rich.console import Console

    from rstinynet.cli.val_checks import (
        check_factor,
        check_fit,
        check_numbers,
        check_places,
        check_scales,
        check_subject,
    )
    from rstinynet.data.folder import name_of, open_split
    from rstinynet.data.formats.coco import require_annotations
    from rstinynet.evaluate.protocols import protocol_named
    from rstinynet.evaluate.results import open_results, write_results
    from rstinynet.evaluate.study import study
    from rstinynet.scenes.options import parse_sizes, size_limits
    from rstinynet.scenes.views import check_views, parse_scales

    rules = protocol_named(protocol).with_max_det(max_det)
    check_subject(context, model, predictions)
    check_places(save_predictions, plots)
    check_numbers(batch=batch, conf=conf, iou=iou, confusion_conf=confusion_conf)
    scales = None if scale is None else parse_scales(scale)
    check_fit(fit, scale=scale)
    check_views(tta)
    sizes = None if size is None else parse_sizes(size)
    messages = Console(stderr=True, markup=False)
    labelled = require_annotations(open_split(data, split), source=data)
    if fit is not None:
        check_factor(fit, labelled)
    wanted = _wanted(
        labelled,
        (data, split),
        scenes=(per_scene, scene_pattern, scene_field),
        gsd=gsd,
        also={
            "protocol": rules,
            "errors": errors,
            "confusion_conf": confusion_conf,
            "curves": curves or plots is not None,
            "calibration": calibration or plots is not None,
        },
    )
    limits = size_limits(labelled.names, sizes)
    if limits is not None:
        check_scales(labelled, wanted)
    # Read first, so that a bad file does not cost the run of a model.
    other = None if compare is None else study(labelled, open_results(compare, labelled), wanted)
    extra: dict[str, Any] = {"data": str(data), "split": split}
    if predictions is not None:
        made = study(labelled, open_results(predictions, labelled), wanted)
        extra["predictions"] = str(predictions)
    else:
        from rstinynet.evaluate.run import detector_cap
        from rstinynet.scenes.detector import Detector

        assert model is not None
        # Of an image larger than an exported model's square, `batch` tiles go together too.
        how = runtime_options(
            threads=threads,
            providers=providers,
            batch=None if batch == 1 else batch,
            precision=precision,
        )
        detector = Detector.load(model, device=device, options=how)
        # VOC counts every detection, but a detector must stop somewhere.
        cap = detector_cap(rules.limit) if rules.max_dets else detector_cap(1)
        options = {"conf": conf, "iou": iou, "max_det": cap, "scale": scales, "tta": tta}
        found, missing = _find(detector, labelled, options, fit=fit, batch=batch, messages=messages)
        if limits is not None:
            found = {at: _sized(one, wanted.gsd_m[at], limits) for at, one in found.items()}
        if save_predictions is not None:
            write_results(save_predictions, found, labelled)
        made = study(labelled, found, wanted)
        extra |= {"model": model, "architecture": detector.metadata.model}
        extra |= {"conf": conf, "iou": iou, "max_det_of_image": cap, "tta": tta}
        extra["size_m"] = {name: list(map(str, each)) for name, each in (sizes or {}).items()}
        extra["precision"] = detector.backend.precision
        extra |= {"classes_missing_in_model": missing}
        if fit is not None:
            extra["fit"] = fit
        else:
            used = scales or (detector.metadata.scale,)
            extra["scale"] = used[0] if len(used) == 1 else list(used)
    report = made.as_dict()
    report["settings"] |= extra
    report["settings"]["annotations_sha256"] = labelled.fingerprint
    names = [str(predictions if predictions is not None else model)]
    if plots is not None:
        for path in made.plot(plots):
            messages.print(f"written: {path}")
    if other is not None:
        from rstinynet.evaluate.side_by_side import compared

        names.append(str(compare))
        theirs = other.as_dict()
        report["compared"] = compared(made, other) | {"with": str(compare), "other": theirs}
    if json_:
        print(json.dumps(report, allow_nan=False))
    else:
        _print(made, other, told_apart(names), on=f"{name_of(data)}, {split}")


def _print(made: Study, other: Study | None, names: list[str], *, on: str) -> None:
    from rich.console import Console

    from rstinynet.evaluate import report
    from rstinynet.evaluate.side_by_side import tables

    # Wide tables, where no terminal says how wide it is; names may have brackets.
    console = Console(markup=False, width=None if sys.stdout.isatty() else WIDTH)
    protocol = made.evaluation.protocol
    for name, each in zip(names, (made, other), strict=False):
        assert each is not None
        console.print(report.table(each.evaluation, title=f"{name} on {on}"))
        console.print(report.recall_table(each.evaluation))
        if each.scenes is not None:
            console.print(report.scene_table(each.scenes, protocol))
        if each.density is not None:
            console.print(report.density_table(each.density, protocol.ious[0]))
        if each.calibration is not None:
            console.print(report.calibration_table(each.calibration))
        if each.errors is not None:
            console.print(report.error_table(each.errors))
        if each.confusion is not None:
            console.print(report.confusion_table(each.confusion))
    if other is not None:
        for table in tables(made, other, names=(names[0], names[1])):
            console.print(table)


def _wanted(
    labelled: LabelledSet,
    where: tuple[Path, str],
    *,
    scenes: tuple[bool, str | None, str | None],
    gsd: float | None,
    also: dict[str, Any],
) -> Wanted:
    from rstinynet.data.folder import annotation_file
    from rstinynet.data.split import by_scene
    from rstinynet.errors import UsageError
    from rstinynet.evaluate.fields import by_field, scales
    from rstinynet.evaluate.study import Wanted

    per_scene, pattern, field = scenes
    if pattern is not None and field is not None:
        raise UsageError("give either --scene-pattern or --scene-field, not both")
    annotations = annotation_file(*where)
    scene_of = None
    if field is not None:
        scene_of = by_field(annotations, field)
    elif per_scene or pattern is not None:
        scene_of = by_scene(pattern)
    if scene_of is not None:
        for image in labelled.images:
            scene_of(image)  # so that an image without one does not cost the run of a model
    known = scales(annotations, [image.id for image in labelled.images], default=gsd)
    return Wanted(scene_of=scene_of, gsd_m=known, **also)


def _sized(found: Detections, gsd_m: float, limits: NDArray[np.float64]) -> Detections:
    """What is as large on the ground as its class may be."""
    from rstinynet.scenes.options import of_size

    longer = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1).astype(float) * gsd_m
    return found[of_size(found.labels, longer, limits)]


def _find(
    detector: Detector,
    labelled: LabelledSet,
    options: dict[str, Any],
    *,
    fit: int | None,
    batch: int,
    messages: Console,
) -> tuple[dict[int, Detections], list[str]]:
    """What the model finds, with the data's labels, and the data's classes that it lacks."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rstinynet.evaluate.classes import match_classes
    from rstinynet.evaluate.run import find_objects, fitting

    match = match_classes(detector.names, data_names=labelled.names)
    # A class of which the data has no object counts in no mean.
    there = {at for image in labelled.images for at in image.labels[~image.crowd].tolist()}
    counted = [name for name in match.only_data if labelled.names.index(name) in there]
    if counted:
        missing = ", ".join(counted)
        messages.print(f"The model does not know {missing}: never found, they count AP 0.")
    if match.only_model:
        messages.print(f"The data set lacks {', '.join(match.only_model)}: left out.")
    search = partial(detector.detect_batch, **options)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages) as bar:
        task = bar.add_task("images", total=len(labelled))
        found = find_objects(
            search if fit is None else fitting(search, side=fit),
            labelled,
            batch=batch,
            progress=lambda images: bar.advance(task, images),
        )
    return {at: match.translate(dets) for at, dets in found.items()}, list(match.only_data)
