"""An evaluation as tables for people; `Evaluation.as_dict` is the form for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich import box
from rich.table import Table

from rstinynet.evaluate.coco import FIGURES, Evaluation, Scores

_HEADS = ("AP", "AP50", "AP75", "AP_vt", "AP_t", "AP_s", "AP_m")


def table(evaluation: Evaluation, *, title: str) -> Table:
    """The seven numbers of each class and their means, in percent; a dash without objects."""
    made = Table(
        title=title,
        caption=caption(evaluation),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        # Narrow enough for 80 columns.
        padding=(0, 1, 0, 0),
    )
    made.add_column("class", overflow="fold")
    for head in (*_HEADS, "objects"):
        made.add_column(head, justify="right")
    total = 0
    for name, scores in evaluation.per_class.items():
        total += scores.objects
        made.add_row(name, *_cells(scores), str(scores.objects))
    made.add_section()
    made.add_row("mean", *_cells(evaluation), str(total), style="bold")
    return made


def caption(evaluation: Evaluation) -> str:
    """How the numbers were measured, in a sentence."""
    settings = evaluation.settings
    text = (
        f"{settings['protocol']} protocol, {evaluation.images} images, at most "
        f"{settings['max_det']} detections of each class on an image"
    )
    if evaluation.dropped_unknown:
        text += f"; {evaluation.dropped_unknown} detections of classes unknown on their image left"
        text += " out"
    return text + "."


def _cells(scores: Scores) -> Iterator[str]:
    for name in FIGURES:
        value = getattr(scores, name)
        yield "–" if math.isnan(value) else f"{100 * value:.1f}"  # noqa: RUF001
