"""An evaluation as tables for people; `as_dict` of each result is the form for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from rich import box
from rich.table import Table

from rstinynet.evaluate.by_scene import SceneScores
from rstinynet.evaluate.calibrated import Calibration
from rstinynet.evaluate.calibration import LEAST_SCORE
from rstinynet.evaluate.confusion import BACKGROUND, Confusion
from rstinynet.evaluate.curves import DENSITIES, DensityCurve
from rstinynet.evaluate.errors import ErrorReport
from rstinynet.evaluate.protocols import Protocol
from rstinynet.evaluate.scores import Evaluation, Scores

_HEADS = {"ap50_area": "AP50 area", "ap50_11": "AP50 11-pt"}


def head(key: str) -> str:
    """How a number's key is written in print."""
    return _HEADS.get(key, key.replace("ap", "AP", 1).replace("ar", "AR", 1))


def table(evaluation: Evaluation, *, title: str) -> Table:
    """The protocol's numbers of each class and their means, in percent; a dash without objects."""
    made = _table(title, caption=caption(evaluation))
    made.add_column("class", overflow="fold")
    keys = evaluation.protocol.figures
    for key in (*map(head, keys), "objects"):
        made.add_column(key, justify="right")
    total = 0
    for name, scores in evaluation.per_class.items():
        total += scores.objects
        made.add_row(name, *_cells(scores, keys), str(scores.objects))
    made.add_section()
    made.add_row("mean", *_cells(evaluation, keys), str(total), style="bold")
    return made


def recall_table(evaluation: Evaluation) -> Table:
    """Recall by size and limit of detections, and oLRP with its parts, in percent."""
    sizes = [f"ar_{size.short}" for size in evaluation.protocol.sizes[1:]]
    limits = list(evaluation.ar_by_max_det)
    made = _table(
        "Recall and oLRP",
        caption="AR@n with at most n detections of each class on an image, sizes with the "
        "largest n. oLRP (lower is better) at its best confidence: loc = mean 1 - IoU of hits, "
        "FP = 1 - precision, FN = 1 - recall.",
    )
    made.add_column("class", overflow="fold")
    for key in (*(f"AR@{n}" for n in limits), *map(head, sizes), "oLRP", "loc", "FP", "FN", "conf"):
        made.add_column(key, justify="right")
    keys = (*sizes, "olrp", "olrp_localisation", "olrp_false_positive", "olrp_false_negative")
    for name, scores in evaluation.per_class.items():
        recalls = (percent(scores.ar_by_max_det[n]) for n in limits)
        conf = "–" if math.isnan(scores.conf) else f"{scores.conf:.2f}"  # noqa: RUF001
        made.add_row(name, *recalls, *_cells(scores, keys), conf)
    made.add_section()
    recalls = (percent(evaluation.ar_by_max_det[n]) for n in limits)
    made.add_row("mean", *recalls, *_cells(evaluation, keys), "", style="bold")
    return made


def scene_table(scenes: Mapping[str, SceneScores], protocol: Protocol) -> Table:
    """The protocol's numbers of each scene, mean over the classes that it has."""
    made = _table("By scene", caption="Mean over the classes that the scene has objects of.")
    made.add_column("scene", overflow="fold")
    for key in (*map(head, protocol.figures), "images", "objects"):
        made.add_column(key, justify="right")
    for name, scores in scenes.items():
        cells = _cells(scores, protocol.figures)
        made.add_row(name, *cells, str(scores.images), str(scores.objects))
    return made


def density_table(density: Mapping[str, DensityCurve], iou: float) -> Table:
    """Recall at a few densities of false detections."""
    made = _table(
        f"Recall in percent at false detections per km², IoU {iou:.2f}",
        caption="On images of known scale on which the class is wholly labelled.",
    )
    made.add_column("class", overflow="fold")
    for limit in DENSITIES:
        made.add_column(f"{limit:g}", justify="right")
    made.add_column("km²", justify="right")
    for name, curve in density.items():
        recalls = (percent(curve.recall_at(limit)) for limit in DENSITIES)
        made.add_row(name, *recalls, f"{curve.km2:.3g}")
    return made


def calibration_table(calibration: Calibration) -> Table:
    """Mean score, share that is right and calibration error, in percent, by class."""
    made = _table(
        "Scores against precision, in percent",
        caption=f"Of detections that score more than {LEAST_SCORE:g}, right at IoU "
        f"{calibration.iou:.2g}. Error: mean distance of score and precision over ten bins.",
    )
    made.add_column("class", overflow="fold")
    for key in ("detections", "score", "precision", "error"):
        made.add_column(key, justify="right")
    for name, each in (*calibration.per_class.items(), (None, calibration.overall)):
        if name is None:
            made.add_section()
        # Without detections there is nothing to be wrong about, which is not to be right.
        error = each.ece if each.detections else math.nan
        cells = (percent(number) for number in (each.score, each.precision, error))
        style = "bold" if name is None else None
        made.add_row(name or "all", str(each.detections), *cells, style=style)
    return made


def error_table(report: ErrorReport) -> Table:
    """Errors by kind and size, with what mending each kind would add to AP."""
    made = _table(
        "Why it errs",
        caption=f"Points of AP50 (now {percent(report.ap)}) that mending would add, in "
        f"all and, in brackets, of each size. Overlaps of 0.1 and {report.iou:.2g}. Without false "
        f"detections {100 * report.false_gain:+.1f}, without unfound objects "
        f"{100 * report.unfound_gain:+.1f}.",
    )
    for key in ("kind", "errors", "AP50", *(size.name for size in report.sizes)):
        made.add_column(key, justify="left" if key == "kind" else "right")
    for name, kind in report.kinds.items():
        cells = (
            f"{count} ({100 * gain:+.1f})"
            for count, gain in zip(kind.count_by_size, kind.gain_by_size, strict=True)
        )
        made.add_row(name, str(kind.count), f"{100 * kind.gain:+.1f}", *cells)
    return made


def confusion_table(confusion: Confusion) -> Table:
    """Objects by what they were taken for."""
    made = _table(
        f"Confusion: rows true, columns found, confidence {confusion.conf:g} and above",
        caption="The last column holds missed objects, the last row false detections on nothing.",
    )
    names = (*confusion.names, BACKGROUND)
    made.add_column("true", overflow="fold")
    for name in names:
        made.add_column(name, justify="right", overflow="fold")
    for name, row in zip(names, confusion.counts.tolist(), strict=True):
        made.add_row(name, *map(str, row))
    return made


def caption(evaluation: Evaluation) -> str:
    """How the numbers were measured, in a sentence."""
    text = f"{evaluation.protocol.describe()}, {evaluation.images} images"
    if evaluation.dropped_unknown:
        text += f"; {evaluation.dropped_unknown} detections of classes unknown on their image left"
        text += " out"
    return text + "."


def percent(value: float) -> str:
    """A number in [0, 1] in percent; a dash for NaN."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"  # noqa: RUF001


def _table(title: str, *, caption: str) -> Table:
    return Table(
        title=title,
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        # Narrow enough for 80 columns.
        padding=(0, 1, 0, 0),
    )


def _cells(scores: Scores, keys: tuple[str, ...]) -> Iterator[str]:
    for key in keys:
        yield percent(scores.value(key))
