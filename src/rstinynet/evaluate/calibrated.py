"""How far the scores of an evaluation's detections are from the share of them that is right.

Over detections, at the protocol's first overlap (Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017): what was not found does not count. Detections on regions to ignore, and of
classes that their image does not know, count neither way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rstinynet.errors import DataError
from rstinynet.evaluate.calibration import LEAST_SCORE, Float64Array, Reliability, reliability
from rstinynet.evaluate.records import Records
from rstinynet.evaluate.summary import ClassLanes
from rstinynet.files import replacing


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Reliability curves of a set's classes."""

    overall: Reliability
    """Of all classes' detections together."""
    per_class: dict[str, Reliability]
    iou: float
    """Overlap from which a detection is right."""

    def as_dict(self) -> dict[str, Any]:
        """JSON's types."""
        return {
            "iou": self.iou,
            "least_score": LEAST_SCORE,
            "overall": self.overall.as_dict(),
            "per_class": {name: each.as_dict() for name, each in self.per_class.items()},
        }


def calibration_of(records: Records, names: Sequence[str]) -> Calibration:
    """Reliability curves of the detections that score more than `LEAST_SCORE`.

    Raises DataError for scores that are no probabilities.
    """
    protocol = records.protocol
    scores, right = [np.zeros(0)], [np.zeros(0, np.bool_)]
    per_class = {}
    for label, name in enumerate(names):
        mine = records.of(label)
        _check(mine.score, name)
        lanes = ClassLanes(mine, thresholds=len(protocol.ious), sizes=len(protocol.sizes))
        hits, false = lanes.lane().score, mine.score[lanes.false()]
        both = np.concatenate([hits, false])
        verdict = np.arange(len(both)) < len(hits)
        keep = both > LEAST_SCORE
        scores.append(both[keep])
        right.append(verdict[keep])
        per_class[name] = reliability(scores[-1], right[-1])
    overall = reliability(np.concatenate(scores), np.concatenate(right))
    return Calibration(overall=overall, per_class=per_class, iou=protocol.ious[0])


def _check(scores: Float64Array, name: str) -> None:
    """Percent, logits and the like order detections as well, and equal no share of them."""
    # Sums in single precision end a little above 1.
    wrong = scores[(scores < 0) | (scores > 1 + 1e-6)]
    if len(wrong):
        raise DataError(
            "scores must lie in [0, 1] to be compared with the share that is right; class "
            f"{name!r} has {wrong[0]:g}: turn them into probabilities (percent: divide by 100; "
            "logits: take the sigmoid), which changes no AP, or leave out --calibration and --plots"
        )


def plot_reliability(made: Calibration, path: Path) -> Path:
    """Draw precision against score, with how many detections each bin has, as a PNG file."""
    # The object interface: no window system is touched.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6.5), layout="constrained")
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    curve.plot((0, 1), (0, 1), color="0.6", linestyle="--", label="score = precision")
    for at, (name, each) in enumerate(made.per_class.items()):
        filled = [each_bin for each_bin in each.bins if each_bin.count]
        if filled:
            curve.plot(
                [each_bin.score for each_bin in filled],
                [each_bin.precision for each_bin in filled],
                marker=".",
                alpha=0.6,
                color=f"C{at % 10}",
                label=f"{name} (error {each.ece:.3f})",
            )
    filled = [each_bin for each_bin in made.overall.bins if each_bin.count]
    curve.plot(
        [each_bin.score for each_bin in filled],
        [each_bin.precision for each_bin in filled],
        marker="o",
        color="black",
        label=f"all (error {made.overall.ece:.3f})",
    )
    curve.set(
        ylabel=f"precision at IoU {made.iou:.2g}",
        title="Reliability",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    curve.grid(alpha=0.3)
    curve.legend(fontsize="small")
    bins = made.overall.bins
    counts.bar(
        [each_bin.low for each_bin in bins],
        [each_bin.count for each_bin in bins],
        width=[each_bin.high - each_bin.low for each_bin in bins],
        align="edge",
        color="0.6",
    )
    counts.set(xlabel="score", ylabel="detections")
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
    return path
