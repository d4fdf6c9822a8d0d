"""Our numbers beside an independent computation, in any protocol, of any results file or weights.

    python benchmarks/eval_oracle.py --data DIR --split val --model rs-tinynet-lite
    python benchmarks/eval_oracle.py --data DIR --split val --protocol dior dets.json

The second column reads the annotation JSON by itself, without any of the package's code:
pycocotools with the protocol's sizes and limits, or for the VOC protocols the devkit's loop. On
partly labelled sets it first removes detections of classes that are unknown on their image (LVIS);
neither can ignore unmatched detections of classes not exhaustively labelled, so a set with
`not_exhaustive_category_ids` that are not empty is refused. With `--model` the results file is made
first. Exits 1 where the columns differ by more than 1e-6.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rstinynet.data.folder import annotation_file, open_split
from rstinynet.evaluate.coco import evaluate
from rstinynet.evaluate.protocols import PROTOCOLS
from rstinynet.evaluate.results import open_results

ALL = (0, 1e10)
TINY = {"vt": (0, 64), "t": (64, 256), "s": (256, 1024), "m": (1024, 1e10)}
COMMON = {"s": (0, 1024), "m": (1024, 9216), "l": (9216, 1e10)}
COCO_LIKE = {
    "aitod": (TINY, [1, 100, 1500]),
    "aitod-v2": (TINY, [1, 100, 1500]),
    "coco": (COMMON, [1, 10, 100]),
}
VOC_LIKE = {"voc-area": ["ap50_area"], "voc-11": ["ap50_11"], "dior": ["ap50_area", "ap50_11"]}


def oracle(annotations: Path, results: Path, protocol: str) -> dict[str, float]:
    """The protocol's figures by key; NaN where there is no ground truth."""
    content: dict[str, Any] = json.loads(annotations.read_text())
    if any(image.get("not_exhaustive_category_ids") for image in content["images"]):
        raise SystemExit("the oracles cannot score classes that are not exhaustively labelled")
    found = json.loads(results.read_text())
    if any("neg_category_ids" in image for image in content["images"]):
        known = {(a["image_id"], a["category_id"]) for a in content["annotations"]}
        for image in content["images"]:
            known |= {(image["id"], at) for at in image.get("neg_category_ids", [])}
        found = [dict(d) for d in found if (d["image_id"], d["category_id"]) in known]
    if protocol in VOC_LIKE:
        return by_devkit(content, found, VOC_LIKE[protocol])
    return by_pycocotools(content, found, *COCO_LIKE[protocol])


def by_pycocotools(
    content: dict[str, Any], found: list[Any], sizes: dict[str, Any], limits: list[int]
) -> dict[str, float]:
    """AP and AR by pycocotools' arrays."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(found) if found else _none(content), "bbox")
        judge.params.maxDets = limits
        judge.params.areaRng = [list(ALL), *(list(each) for each in sizes.values())]
        judge.params.areaRngLbl = ["all", *sizes]
        judge.evaluate()
        judge.accumulate()
    full, recall = judge.eval["precision"][..., -1], judge.eval["recall"][..., -1]
    figures = {"ap": full[..., 0], "ap50": full[0, ..., 0], "ap75": full[5, ..., 0]}
    figures |= {f"ap_{size}": full[..., at] for at, size in enumerate(sizes, start=1)}
    figures |= {"ar": recall[..., 0]}
    figures |= {f"ar_{size}": recall[..., at] for at, size in enumerate(sizes, start=1)}
    return {key: _mean(part[part > -1]) for key, part in figures.items()}


def by_devkit(content: dict[str, Any], found: list[Any], keys: list[str]) -> dict[str, float]:
    """AP50 by the loop of the VOC devkit; crowd regions are taken for difficult objects."""
    truth, mine = defaultdict(list), defaultdict(list)
    for entry in content["annotations"]:
        truth[entry["category_id"], entry["image_id"]].append(entry)
    for entry in sorted(found, key=lambda each: (-each["score"], each["image_id"])):
        mine[entry["category_id"]].append(entry)
    values = defaultdict(list)
    for category in content["categories"]:
        own = [each for (at, _), each in truth.items() if at == category["id"]]
        objects = sum(not entry.get("iscrowd") for entries in own for entry in entries)
        if not objects:
            continue
        taken: set[int] = set()
        verdicts = []
        for entry in mine[category["id"]]:
            others = truth.get((category["id"], entry["image_id"]), [])
            overlaps = [_iou(entry["bbox"], other["bbox"]) for other in others]
            at = int(np.argmax(overlaps)) if overlaps else -1
            if at < 0 or overlaps[at] < 0.5:
                verdicts.append(False)
            elif not others[at].get("iscrowd"):
                verdicts.append(others[at]["id"] not in taken)
                taken.add(others[at]["id"])
        hits = np.cumsum(np.array([*verdicts, False], bool))
        recall, precision = hits / objects, hits / np.arange(1, len(hits) + 1)
        best = [precision[recall >= point].max(initial=0) for point in np.linspace(0, 1, 11)]
        values["ap50_11"].append(np.mean(best))
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        values["ap50_area"].append(np.sum(np.diff(recall, prepend=0.0) * highest))
    return {key: _mean(np.array(values[key])) for key in keys}


def _iou(one: list[float], two: list[float]) -> float:
    across = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    down = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / (one[2] * one[3] + two[2] * two[3] - across * down)


def _mean(values: Any) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _none(content: dict[str, Any]) -> COCO:
    nothing = COCO()
    nothing.dataset = {**content, "annotations": []}
    nothing.createIndex()
    return nothing


def found_by(model: str, data: Path, split: str, folder: str) -> Path:
    """The results file that `rstinynet val` writes of a model."""
    path = Path(folder) / "found.json"
    command = [sys.executable, "-m", "rstinynet.cli.main", "val", "--model", model]
    command += ["--data", str(data), "--split", split, "--save-predictions", str(path)]
    subprocess.run(command, check=True)
    return path


def table(data: Path, split: str, results: Path, protocol: str) -> bool:
    """Print one protocol's table; whether the two agree."""
    annotations = annotation_file(data, split)
    if annotations is None:
        raise SystemExit(f"{data}: the split '{split}' has no COCO annotation file")
    begun = time.perf_counter()
    labelled = open_split(data, split)
    results_read = open_results(results, labelled)
    evaluation = evaluate(labelled, results_read, protocol=PROTOCOLS[protocol])
    between = time.perf_counter()
    theirs = oracle(annotations, results, protocol)
    ended = time.perf_counter()
    ours = {key: evaluation.value(key) for key in theirs}
    name = "the devkit" if protocol in VOC_LIKE else "pycocotools"
    print(f"\n{protocol:10}{'ours':>12}{name:>14}{'difference':>13}")
    for key, first in ours.items():
        print(f"{key:10}{first:12.8f}{theirs[key]:14.8f}{abs(first - theirs[key]):13.1e}")
    pairs = list(ours.values()), list(theirs.values())
    agree = bool(np.allclose(*pairs, rtol=0, atol=1e-6, equal_nan=True))
    gaps = np.nan_to_num(np.abs(np.subtract(*pairs)))
    print(f"largest difference {gaps.max():.1e}: {'equal' if agree else 'NOT EQUAL'}")
    print(f"{between - begun:.1f} s and {ended - between:.1f} s")
    return agree


def main() -> int:
    """Print the tables; 1 where the two disagree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data folder or data.yaml")
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", help="weights file, or the name of shipped weights")
    parser.add_argument("--protocol", choices=PROTOCOLS, help="default: all of them")
    parser.add_argument("results", type=Path, nargs="?", help="COCO results file")
    chosen = parser.parse_args()
    if (chosen.model is None) == (chosen.results is None):
        parser.error("give either a results file or --model")
    with tempfile.TemporaryDirectory() as folder:
        results = chosen.results or found_by(chosen.model, chosen.data, chosen.split, folder)
        names = [chosen.protocol] if chosen.protocol else list(PROTOCOLS)
        outcomes = [table(chosen.data, chosen.split, results, name) for name in names]
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
