"""How many boxes a result has of classes that are known to be absent from the image.

    rstinynet val --model WEIGHTS --data DIR --save-predictions found.json
    python benchmarks/absent_boxes.py found.json --data DIR --weights WEIGHTS

AP weighs every score against all others; a user sees the boxes above the confidence at which the
weights report. The table has those, by class: on how many images the class is known and has no
object, on how many of them a box of it stands all the same, and how many boxes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.folder import open_split
from rstinynet.evaluate.results import CocoDetections, read_results
from rstinynet.model.weights import find_weights, read_metadata


class Absent(NamedTuple):
    """One class's images without it, and its boxes there."""

    images: int
    images_with_boxes: int
    boxes: int


def count(
    labelled: LabelledSet, found: Mapping[int, CocoDetections], conf: Sequence[float]
) -> list[Absent]:
    """For each class of the set, what `found` has of it where it is known to be absent.

    Args:
        found: by image id.
        conf: least score of each class.
    """
    counts = []
    for label, least in enumerate(conf):
        boxes = []
        for image in labelled.images:
            if not image.known[label] or (image.labels == label).any():
                continue
            here = found.get(image.id)
            of_class = 0
            if here is not None:
                of_class = int(np.sum((here.labels == label) & (here.scores >= least)))
            boxes.append(of_class)
        counts.append(Absent(len(boxes), sum(n > 0 for n in boxes), sum(boxes)))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="COCO results of the split")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--weights", required=True, help="whose confidences are taken")
    options = parser.parse_args()
    labelled = open_split(options.data, options.split)
    metadata = read_metadata(find_weights(options.weights))
    if metadata.names != labelled.names:
        raise SystemExit(
            f"{options.weights} finds {', '.join(metadata.names)}; "
            f"{options.data} labels {', '.join(labelled.names)}"
        )
    conf = metadata.class_conf or (metadata.conf,) * len(metadata.names)
    counts = count(labelled, read_results(options.results, labelled), conf)
    print("| class | score from | images without | of them with boxes | boxes |")
    print("|---" * 5 + "|")
    for name, least, (images, wrong, boxes) in zip(labelled.names, conf, counts, strict=True):
        print(f"| {name} | {least:.3f} | {images} | {wrong} | {boxes} |")
    images, wrong, boxes = (sum(column) for column in zip(*counts, strict=True))
    print(f"| all | | {images} | {wrong} | {boxes} |")


if __name__ == "__main__":
    main()
