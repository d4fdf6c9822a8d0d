"""`rstinynet report`: an evaluation as one HTML file to read, send and keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstinynet.cli.options import LABELLED, SPLIT

if TYPE_CHECKING:
    from rstinynet.data.annotations import LabelledSet
    from rstinynet.evaluate.page import Picture


def report(
    data: LABELLED,
    predictions: Annotated[Path, typer.Option(help="COCO results file, of any detector.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    split: SPLIT = "val",
    name: Annotated[
        str | None, typer.Option(help="What the detector is called; default: the file's name.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="aitod, aitod-v2, coco, voc-area, voc-11 or dior.")
    ] = "aitod",
    worst: Annotated[int, typer.Option(help="Worst images that are shown; 0: none.")] = 6,
    conf: Annotated[
        float | None,
        typer.Option(
            help="Confidence of detections in the pictures; default: where F1 of each class is "
            "largest."
        ),
    ] = None,
) -> None:
    """Score a results file; write tables, curves, errors and worst images as one offline page."""
    from rstinynet.data.folder import name_of, open_split
    from rstinynet.data.formats.coco import require_annotations
    from rstinynet.errors import UsageError
    from rstinynet.evaluate.page import page
    from rstinynet.files import check_file_place, write_bytes

    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out must be an .html file, not {out}")
    if worst < 0:
        raise UsageError(f"--worst must be 0 or more, not {worst}")
    if conf is not None and not 0 <= conf < 1:
        raise UsageError(f"--conf must be at least 0 and below 1, not {conf}")
    if conf is not None and not worst:
        raise UsageError(
            f"--conf {conf:g} is for the pictures of the worst images, and --worst 0 has none: "
            "leave one of them out"
        )
    check_file_place(out, option="--out")
    labelled = require_annotations(open_split(data, split), source=data)
    content = _evaluated(predictions, labelled, protocol)
    content["settings"] |= {
        "data": name_of(data),
        "split": split,
        "predictions": predictions.name,
        "annotations_sha256": labelled.fingerprint,
    }
    called = name or predictions.stem
    pictures = _worst(predictions, labelled, called, (worst, conf))
    title = f"{called} on {name_of(data)}, {split}"
    write_bytes(out, page(content, title=title, pictures=pictures).encode("utf-8", "replace"))
    print(out)


def _evaluated(predictions: Path, labelled: LabelledSet, protocol: str) -> dict[str, Any]:
    from rstinynet.evaluate.protocols import protocol_named
    from rstinynet.evaluate.results import open_results
    from rstinynet.evaluate.study import Wanted, study

    wanted = Wanted(protocol=protocol_named(protocol), errors=True, curves=True)
    return study(labelled, open_results(predictions, labelled), wanted).as_dict()


def _worst(
    predictions: Path, labelled: LabelledSet, name: str, chosen: tuple[int, float | None]
) -> list[Picture]:
    from rstinynet.evaluate.chosen import read_chosen
    from rstinynet.evaluate.page import Picture
    from rstinynet.evaluate.run import read_labelled
    from rstinynet.evaluate.verdicts import judge_all
    from rstinynet.evaluate.view import Shown, side_by_side, worst_images

    count, conf = chosen
    if not count:
        return []
    found = read_chosen(predictions, labelled, conf=conf)
    shown = [Shown(name=name, verdicts=judge_all(labelled, found))]
    pictures = []
    for image in worst_images(labelled, shown, count=count):
        outcome = shown[0].verdicts[image.id]
        counts = f"{outcome.hits} hit, {outcome.missed} missed, {outcome.false_alarms} false"
        pictures.append(
            Picture(
                pixels=side_by_side(read_labelled(image), image, shown),
                caption=f"{image.path.name} (image {image.id}): {counts}",
            )
        )
    return pictures
