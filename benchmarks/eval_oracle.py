"""Our numbers of a COCO results file beside pycocotools' in the same protocol.

    python benchmarks/eval_oracle.py --data DIR --split val dets.json

The second column reads the annotation JSON by itself, without any of the package's code:
pycocotools with AI-TOD's size ranges and 1500 detections, on partly labelled sets after removing
detections of classes that are unknown on their image (LVIS). pycocotools cannot ignore unmatched
detections of classes not exhaustively labelled, so a set with `not_exhaustive_category_ids` is
refused. Exits 1 where the columns differ by more than 1e-6.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rstinynet.data.folder import open_split
from rstinynet.evaluate.coco import FIGURES, evaluate
from rstinynet.evaluate.results import read_results

RANGES = {"all": (0, 1e10), "vt": (0, 64), "t": (64, 256), "s": (256, 1024), "m": (1024, 1e10)}


def oracle(annotations: Path, results: Path) -> list[float]:
    """The seven figures by pycocotools; NaN where there is no ground truth."""
    content: dict[str, Any] = json.loads(annotations.read_text())
    if any(image.get("not_exhaustive_category_ids") for image in content["images"]):
        raise SystemExit("pycocotools cannot score classes that are not exhaustively labelled")
    found = json.loads(results.read_text())
    if any("neg_category_ids" in image for image in content["images"]):
        known = {(a["image_id"], a["category_id"]) for a in content["annotations"]}
        for image in content["images"]:
            known |= {(image["id"], at) for at in image.get("neg_category_ids", [])}
        found = [dict(d) for d in found if (d["image_id"], d["category_id"]) in known]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(found) if found else _none(content), "bbox")
        judge.params.maxDets = [1, 100, 1500]
        judge.params.areaRng = [list(limits) for limits in RANGES.values()]
        judge.params.areaRngLbl = list(RANGES)
        judge.evaluate()
        judge.accumulate()
    full = judge.eval["precision"][..., -1]
    parts = [full[..., 0], full[0, ..., 0], full[5, ..., 0]]
    parts += [full[..., size] for size in range(1, 5)]
    return [float(part[part > -1].mean()) if (part > -1).any() else np.nan for part in parts]


def _none(content: dict[str, Any]) -> COCO:
    nothing = COCO()
    nothing.dataset = {**content, "annotations": []}
    nothing.createIndex()
    return nothing


def main() -> int:
    """Print the table; 1 where the two disagree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with SPLIT.json")
    parser.add_argument("--split", default="val")
    parser.add_argument("results", type=Path, help="COCO results file")
    chosen = parser.parse_args()
    begun = time.perf_counter()
    labelled = open_split(chosen.data, chosen.split)
    evaluation = evaluate(labelled, read_results(chosen.results, labelled))
    ours = [getattr(evaluation, name) for name in FIGURES]
    between = time.perf_counter()
    places = [chosen.data / f"{chosen.split}.json"]
    places.append(chosen.data / "annotations" / f"{chosen.split}.json")
    annotations = next((place for place in places if place.is_file()), None)
    if annotations is None:
        raise SystemExit(f"no {chosen.split}.json in {chosen.data} or its annotations folder")
    theirs = oracle(annotations, chosen.results)
    ended = time.perf_counter()
    print(f"{'':8}{'ours':>12}{'pycocotools':>14}{'difference':>13}")
    for name, first, second in zip(FIGURES, ours, theirs, strict=True):
        print(f"{name:8}{first:12.8f}{second:14.8f}{abs(first - second):13.1e}")
    agree = np.allclose(ours, theirs, rtol=0, atol=1e-6, equal_nan=True)
    gaps = np.nan_to_num(np.abs(np.subtract(ours, theirs)))
    print(f"largest difference {gaps.max():.1e}: {'equal' if agree else 'NOT EQUAL'}")
    print(f"{between - begun:.1f} s and {ended - between:.1f} s")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
