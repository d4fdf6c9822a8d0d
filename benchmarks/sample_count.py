"""How many of the sample scene's visible vehicles a result holds, and how many boxes are wrong.

    rstinynet demo --out demo-output
    python benchmarks/sample_count.py demo-output/vegas_pan_detections.json

The reference, sample_vehicles.json, is points marked by eye. A vehicle is found when a box holds
its point within 4 pixels; a box that holds no point, certain or uncertain, is false.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

SLACK_PX = 4
REFERENCE = Path(__file__).parent / "sample_vehicles.json"


def holds(boxes_xywh: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(boxes, points) true where a box, widened by the slack, holds a point."""
    low = boxes_xywh[:, None, :2] - SLACK_PX
    high = boxes_xywh[:, None, :2] + boxes_xywh[:, None, 2:] + SLACK_PX
    return ((points >= low) & (points <= high)).all(axis=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="COCO results of the scene")
    parser.add_argument("--conf", type=float, nargs="+", default=[0.0])
    options = parser.parse_args()
    reference = json.loads(REFERENCE.read_text())
    certain = np.array(reference["certain_xy_px"], float)
    uncertain = np.array(reference["uncertain_xy_px"], float)
    found = json.loads(options.results.read_text())
    print(f"{'score >':>8} {'boxes':>6} {'found':>6} {'of':>4} {'uncertain':>10} {'false':>6}")
    for conf in options.conf:
        kept = [f["bbox"] for f in found if f["score"] > conf]
        boxes = np.array(kept, float).reshape(-1, 4)
        on_certain, on_uncertain = holds(boxes, certain), holds(boxes, uncertain)
        hit = int(on_certain.any(axis=0).sum())
        doubtful = int((on_uncertain.any(axis=1) & ~on_certain.any(axis=1)).sum())
        false = int((~on_certain.any(axis=1) & ~on_uncertain.any(axis=1)).sum())
        print(f"{conf:>8.2f} {len(boxes):>6} {hit:>6} {len(certain):>4} {doubtful:>10} {false:>6}")


if __name__ == "__main__":
    main()
