"""SAHI's merging of boxes, timed in an environment that has SAHI: BOXES.npy PATIENCE.

BOXES is (N, 5) float: XYXY and score, of one class. Prints a JSON object: way -> s, MiB, kept,
without what its own form of the boxes takes, as ours is measured. A way that took over PATIENCE
seconds ends the list. Used by `merge_speed.py`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from sahi.postprocess.combine import GreedyNMMPostprocess, NMSPostprocess
from sahi.prediction import ObjectPrediction


def resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{name} is not in /proc/self/status")


def predictions(rows: np.ndarray) -> list[ObjectPrediction]:
    return [
        ObjectPrediction(bbox=row[:4].tolist(), score=float(row[4]), category_id=0) for row in rows
    ]


def main() -> None:
    rows, patience = np.load(sys.argv[1]), float(sys.argv[2])
    result = {}
    for way, kind in (("NMS", NMSPostprocess), ("GREEDYNMM", GreedyNMMPostprocess)):
        merge = kind(match_threshold=0.3, match_metric="IOU", class_agnostic=False)
        merge(predictions(rows[:2]))  # the first call chooses a backend, and may import torch
        objects = predictions(rows)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS:")
        start = time.process_time()
        kept = len(merge(objects))
        took = time.process_time() - start
        grown = (resident("VmHWM:") - before) / 2**20
        result[f"SAHI {way}"] = {"s": took, "MiB": grown, "kept": kept}
        del objects
        if took > patience:
            break
    print(json.dumps(result))


if __name__ == "__main__":
    main()
