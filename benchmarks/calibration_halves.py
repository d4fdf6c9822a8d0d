"""Whether calibration holds on images that it was not chosen on, and is better by class.

    rstinynet val --model WEIGHTS --data DIR --save-predictions found.json
    python benchmarks/calibration_halves.py found.json --data DIR

Halves the split's scenes at random (tiles SCENE_x_y.png stay together), chooses on one half a
temperature, a line of the logits (a shift and a temperature) or a line for each class, and measures
on the other: the expected calibration error of all detections, the mean of the classes' weighted by
their detections, and the negative log-likelihood. Means over the halvings. Classes that an image
does not know count neither way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.data.folder import open_split
from rstinynet.data.split import by_scene
from rstinynet.detections import Detections
from rstinynet.errors import DataError
from rstinynet.evaluate.calibration import (
    Outcomes,
    best_temperature,
    outcomes_by_class,
    platt_scaling,
    reliability,
    shifted,
    tempered,
    together,
)
from rstinynet.evaluate.results import CocoDetections, read_results

Mend = Callable[[int, np.ndarray], np.ndarray]


def detections(stored: CocoDetections) -> Detections:
    """What a results file has of an image, as a detector gives it."""
    corners = stored.boxes_xywh.copy()
    corners[:, 2:] += corners[:, :2]
    return Detections(corners.astype("f4"), stored.scores.astype("f4"), stored.labels)


def halves(labelled: LabelledSet, random: np.random.Generator) -> tuple[LabelledSet, LabelledSet]:
    """The set in two, by scenes: tiles of one are alike, and what suits one suits the next."""
    scene_of = by_scene()
    scenes = sorted({scene_of(image) for image in labelled.images})
    first = {scenes[at] for at in random.permutation(len(scenes))[: len(scenes) // 2]}
    parts: tuple[list[LabelledImage], list[LabelledImage]] = ([], [])
    for image in labelled.images:
        parts[scene_of(image) not in first].append(image)
    one, other = (replace(labelled, images=tuple(part)) for part in parts)
    return one, other


def mends(parts: Sequence[Outcomes]) -> dict[str, Mend]:
    """Ways to mend scores of a class, chosen on these."""
    temperature = best_temperature(*together(parts))
    line = platt_scaling(*together(parts))
    lines = []
    for each in parts:
        try:
            lines.append(platt_scaling(*each))
        except DataError:  # all right or all wrong: as all classes together
            lines.append(line)

    def straight(scores: np.ndarray, by: tuple[float, float]) -> np.ndarray:
        return tempered(shifted(scores, by[1]), by[0])

    return {
        "as they are": lambda _, scores: scores,
        "one temperature": lambda _, scores: tempered(scores, temperature),
        "one line": lambda _, scores: straight(scores, line),
        "a line for each class": lambda label, scores: straight(scores, lines[label]),
    }


def measured(parts: Sequence[Outcomes], mend: Mend) -> tuple[float, float, float]:
    """Calibration error of all, of classes in the mean, and negative log-likelihood."""
    mended = [(mend(label, scores), right) for label, (scores, right) in enumerate(parts)]
    scores, right = together(mended)
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
    stored = read_results(options.results, labelled)
    found = {id_: detections(each) for id_, each in stored.items()}
    random = np.random.default_rng(options.seed)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(options.halvings):
        chosen, kept = (outcomes_by_class(half, found) for half in halves(labelled, random))
        for name, mend in mends(chosen).items():
            rows.setdefault(name, []).append(measured(kept, mend))
    print(f"| {options.halvings} halvings of {len(labelled)} images | error | of classes | NLL |")
    print("|---|---|---|---|")
    for name, values in rows.items():
        means = " | ".join(f"{value:.3f}" for value in np.mean(values, axis=0))
        print(f"| {name} | {means} |")


if __name__ == "__main__":
    main()
