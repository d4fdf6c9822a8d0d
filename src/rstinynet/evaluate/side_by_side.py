"""Two detectors on the same images in the same protocol: both numbers, and what differs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from rstinynet.evaluate.by_scene import SceneScores
from rstinynet.evaluate.report import head, percent
from rstinynet.evaluate.scores import Scores, number
from rstinynet.evaluate.study import Study


def compared(first: Study, second: Study) -> dict[str, Any]:
    """First less second: every number, of the mean, of each class and scene, and of errors.

    Raises ValueError where the protocols differ.
    """
    if first.evaluation.protocol != second.evaluation.protocol:
        raise ValueError("two detectors are compared in one protocol")
    one, two = first.evaluation, second.evaluation
    content: dict[str, Any] = {
        "difference": _less(one, two),
        "per_class": {
            name: _less(scores, two.per_class[name]) for name, scores in one.per_class.items()
        },
    }
    if first.scenes is not None and second.scenes is not None:
        content["per_scene"] = {
            name: _less(scores, second.scenes[name]) for name, scores in first.scenes.items()
        }
    if first.errors is not None and second.errors is not None:
        theirs = second.errors.kinds
        content["errors"] = {
            name: {
                "count": kind.count - theirs[name].count,
                "gain": number(kind.gain - theirs[name].gain),
                "count_by_size": {
                    size.name: mine - other
                    for size, mine, other in zip(
                        first.errors.sizes,
                        kind.count_by_size,
                        theirs[name].count_by_size,
                        strict=True,
                    )
                },
            }
            for name, kind in first.errors.kinds.items()
        }
    return content


def tables(first: Study, second: Study, *, names: tuple[str, str]) -> list[Table]:
    """Each class's numbers of both with the difference, each scene's, and both's errors."""
    protocol = first.evaluation.protocol
    one, two = first.evaluation, second.evaluation
    made = Table(
        title=f"{names[0]} less {names[1]}",
        caption=f"Points. {protocol.describe()}.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    made.add_column("class", overflow="fold")
    for key in (*map(head, protocol.figures), "oLRP"):
        made.add_column(key, justify="right")
    keys = (*protocol.figures, "olrp")
    for name, scores in one.per_class.items():
        made.add_row(name, *(_points(scores, two.per_class[name], key) for key in keys))
    made.add_section()
    made.add_row("mean", *(_points(one, two, key) for key in keys), style="bold")
    for name, each in zip(names, (one, two), strict=True):
        made.add_row(name, *(percent(each.value(key)) for key in keys))
    shown = [made]
    if first.scenes is not None and second.scenes is not None:
        shown.append(_scene_table(first.scenes, second.scenes, keys, names=names))
    if first.errors is None or second.errors is None:
        return shown
    errors = Table(
        title="Errors side by side",
        caption="Errors of each, with the points of AP50 that mending them would add.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for key in ("kind", *names, "difference"):
        errors.add_column(key, justify="left" if key == "kind" else "right", overflow="fold")
    for name, kind in first.errors.kinds.items():
        other = second.errors.kinds[name]
        cells = (f"{each.count} ({100 * each.gain:+.1f})" for each in (kind, other))
        difference = f"{kind.count - other.count:+d} ({100 * (kind.gain - other.gain):+.1f})"
        errors.add_row(name, *cells, difference)
    return [*shown, errors]


def _scene_table(
    one: Mapping[str, SceneScores],
    two: Mapping[str, SceneScores],
    keys: tuple[str, ...],
    *,
    names: tuple[str, str],
) -> Table:
    made = Table(
        title=f"{names[0]} less {names[1]}, by scene",
        caption="Points, mean over the classes that the scene has objects of.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    made.add_column("scene", overflow="fold")
    for key in (*map(head, keys[:-1]), "oLRP"):
        made.add_column(key, justify="right")
    for name, scores in one.items():
        made.add_row(name, *(_points(scores, two[name], key) for key in keys))
    return made


def _less(one: Scores, two: Scores) -> dict[str, float | None]:
    return {key: number(value - two.value(key)) for key, value in one.values.items()}


def _points(one: Scores, two: Scores, key: str) -> str:
    difference = one.value(key) - two.value(key)
    return "–" if math.isnan(difference) else f"{100 * difference:+.1f}"  # noqa: RUF001
