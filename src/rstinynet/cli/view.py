"""`rstinynet view`: several detectors side by side on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rstinynet.cli.options import LABELLED, SPLIT, TORCH_DEVICE

if TYPE_CHECKING:
    from rstinynet.data.annotations import LabelledImage, LabelledSet
    from rstinynet.detections import Detections

COUNT = 6
"""Pictures where neither their number nor images are named."""


def view(
    data: LABELLED,
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    predictions: Annotated[
        list[str] | None,
        typer.Option(help="FILE or NAME=FILE: a COCO results file, a column. Repeatable."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="MODEL or NAME=MODEL, a column: weights, an exported model, a packaged folder, "
            "hub:owner/name@revision, or a shipped model's name; several, separated by commas, are "
            "one column. Repeatable."
        ),
    ] = None,
    split: SPLIT = "val",
    images: Annotated[
        str | None,
        typer.Option(help="Image ids, separated by commas; default: where detectors err most."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="Pictures, where no --images are named. (default: 6)")
    ] = None,
    conf: Annotated[
        float | None,
        typer.Option(
            help="Lowest confidence that is shown; default: a model's own, and of a results file "
            "where F1 of each class is largest."
        ),
    ] = None,
    device: TORCH_DEVICE = None,
) -> None:
    """Draw truth and detectors in columns, with hits, misses and false alarms by colour and line.

    Every --predictions and --model is a column; at least one is needed.
    """
    from dataclasses import replace

    import cv2
    import numpy as np
    from rich.console import Console

    from rstinynet.data.folder import open_split
    from rstinynet.data.formats.coco import require_annotations
    from rstinynet.errors import UsageError
    from rstinynet.evaluate.chosen import read_chosen
    from rstinynet.evaluate.run import read_labelled
    from rstinynet.evaluate.verdicts import judge_all
    from rstinynet.evaluate.view import Shown, side_by_side, worst_images
    from rstinynet.files import check_folder_place, write_bytes

    if not predictions and not model:
        raise UsageError("view needs at least one --predictions FILE or --model WEIGHTS")
    if conf is not None and not 0 <= conf < 1:
        raise UsageError(f"--conf must be at least 0 and below 1, not {conf}")
    if count is not None and count < 1:
        raise UsageError(f"--count must be at least 1, not {count}")
    if count is not None and images is not None:
        raise UsageError(
            f"--count {count} is for pictures that are chosen here, and --images names them: leave "
            "one of them out"
        )
    if device is not None and not model:
        raise UsageError(
            f"--device {device} is for a --model, and results files are only read: leave it out"
        )
    names = [_named(text)[0] for text in [*(predictions or []), *(model or [])]]
    if len(set(names)) < len(names):
        raise UsageError(f"columns need names that differ, not {names}: give name=FILE")
    check_folder_place(out, option="--out")
    labelled = require_annotations(open_split(data, split), source=data)
    chosen = labelled
    if images is not None:
        wanted = _ids(images, labelled)
        chosen = replace(labelled, images=tuple(i for i in labelled.images if i.id in wanted))
    shown = []
    for name, path in map(_named, predictions or []):
        found = read_chosen(path, labelled, conf=conf)
        shown.append(Shown(name=name, verdicts=judge_all(chosen, found)))
    for name, path in map(_named, model or []):
        found = _detect(path, chosen, conf, device)
        shown.append(Shown(name=name, verdicts=judge_all(chosen, found)))
    picked: Sequence[LabelledImage] = chosen.images
    if images is None:
        picked = worst_images(chosen, shown, count=COUNT if count is None else count)
    console = Console(stderr=True, highlight=False, markup=False)
    for image in picked:
        picture = side_by_side(read_labelled(image), image, shown)
        path_out = out / f"{image.path.stem}_{image.id}.png"
        encoded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))[1]
        write_bytes(path_out, encoded.tobytes())
        counts = [each.verdicts[image.id] for each in shown]
        told = "; ".join(
            f"{each.name} {c.hits} hit, {c.missed} missed, {c.false_alarms} false"
            for each, c in zip(shown, counts, strict=True)
        )
        told = told.encode("utf-8", "replace").decode()  # a name may be of any bytes
        print(path_out)
        console.print(f"image {image.id}: {told}", soft_wrap=True)


def _named(text: str) -> tuple[str, str]:
    """A column's name and its file; without a name the file's own, or those of its models."""
    from rstinynet.model.located import is_there, parted

    name, separator, path = text.partition("=")
    if separator and name.strip() and path.strip() and "/" not in name and not is_there(text):
        return name.strip(), path.strip()
    return ",".join(map(_stem, parted(text))), text


def _stem(path: str) -> str:
    stem = Path(path).stem
    # Runs all call their weights best or last.
    if stem in ("best", "last") and Path(path).parent.name == "weights":
        stem = Path(path).resolve().parent.parent.name
    return stem


def _ids(text: str, labelled: LabelledSet) -> set[int]:
    from rstinynet.errors import UsageError

    try:
        wanted = {int(part) for part in text.split(",") if part.strip()}
    except ValueError:
        raise UsageError(f"--images takes image ids such as 3,17, not {text!r}") from None
    unknown = sorted(wanted - {image.id for image in labelled.images})
    if unknown or not wanted:
        raise UsageError(
            f"--images takes ids of the split's images; {unknown or text!r} are not among them"
        )
    return wanted


def _detect(
    weights: str, labelled: LabelledSet, conf: float | None, device: str | None
) -> dict[int, Detections]:
    """What a model finds, with the set's labels."""
    from rstinynet.evaluate.classes import match_classes
    from rstinynet.evaluate.run import find_objects
    from rstinynet.scenes.detector import Detector

    detector = Detector.load(weights, device=device)
    match = match_classes(detector.names, data_names=labelled.names)
    found = find_objects(lambda batch: detector.detect_batch(batch, conf=conf), labelled)
    return {at: match.translate(dets) for at, dets in found.items()}
