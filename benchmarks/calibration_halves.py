"""Whether calibration holds on images that it was not chosen on, and is better by class.

    rstinynet val --model WEIGHTS --data DIR --save-predictions found.json
    python benchmarks/calibration_halves.py found.json --data DIR

Halves the split's images at random, chooses on one half a temperature, a line of the logits (a
shift and a temperature) or a line for each class, and measures on the other: the expected
calibration error of all detections, the mean of the classes' weighted by their detections, and the
negative log-likelihood. Means over the halvings. Classes that an image does not know count
neither way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.data.folder import open_split
from rstinynet.detections import Detections
from rstinynet.evaluate.calibration import (
    best_temperature,
    outcomes,
    platt_scaling,
    reliability,
    shifted,
    tempered,
)
from rstinynet.evaluate.results import CocoDetections, read_results

ByClass = list[tuple[np.ndarray, np.ndarray]]
Mend = Callable[[int, np.ndarray], np.ndarray]


def by_class(
    labelled: LabelledSet, found: dict[int, CocoDetections], images: Sequence[LabelledImage]
) -> ByClass:
    """Of each class the scores on `images`, and whether each is right."""
    part = replace(labelled, images=tuple(images))
    made = []
    for label in range(len(labelled.names)):
        of_class = {}
        for image in images:
            here = found.get(image.id)
            if here is not None:
                mine = here.labels == label
                corners = here.boxes_xywh[mine].astype(np.float32)
                corners[:, 2:] += corners[:, :2]
                scores = here.scores[mine].astype(np.float32)
                of_class[image.id] = Detections(corners, scores, here.labels[mine])
        made.append(outcomes(part, of_class))
    return made


def joined(parts: ByClass) -> tuple[np.ndarray, np.ndarray]:
    """The same of all classes together."""
    return np.concatenate([s for s, _ in parts]), np.concatenate([r for _, r in parts])


def mends(parts: ByClass) -> dict[str, Mend]:
    """Ways to mend scores of a class, chosen on these."""
    temperature = best_temperature(*joined(parts))
    line = platt_scaling(*joined(parts))
    lines = [platt_scaling(*each) for each in parts]

    def straight(scores: np.ndarray, by: tuple[float, float]) -> np.ndarray:
        return tempered(shifted(scores, by[1]), by[0])

    return {
        "as they are": lambda _, scores: scores,
        "one temperature": lambda _, scores: tempered(scores, temperature),
        "one line": lambda _, scores: straight(scores, line),
        "a line for each class": lambda label, scores: straight(scores, lines[label]),
    }


def measured(parts: ByClass, mend: Mend) -> tuple[float, float, float]:
    """Calibration error of all, of classes in the mean, and negative log-likelihood."""
    mended = [(mend(label, scores), right) for label, (scores, right) in enumerate(parts)]
    scores, right = joined(mended)
    of_classes = [reliability(*each) for each in mended]
    weights = [each.detections for each in of_classes]
    likely = np.clip(np.where(right, scores, 1 - scores), 1e-9, 1)
    return (
        reliability(scores, right).ece,
        float(np.average([each.ece for each in of_classes], weights=weights)),
        float(-np.log(likely).mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="COCO results, with scores from low on")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--halvings", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    labelled = open_split(options.data, options.split)
    found = read_results(options.results, labelled)
    random = np.random.default_rng(options.seed)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(options.halvings):
        order = random.permutation(len(labelled.images))
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        chosen, kept = (
            by_class(labelled, found, [labelled.images[at] for at in half]) for half in halves
        )
        for name, mend in mends(chosen).items():
            rows.setdefault(name, []).append(measured(kept, mend))
    print(f"| {options.halvings} halvings of {len(labelled)} images | error | of classes | NLL |")
    print("|---|---|---|---|")
    for name, values in rows.items():
        means = " | ".join(f"{value:.3f}" for value in np.mean(values, axis=0))
        print(f"| {name} | {means} |")


if __name__ == "__main__":
    main()
