"""How many of the sample scene's visible vehicles a result holds, and how many boxes are wrong.

    rstinynet demo --out demo-output
    python benchmarks/sample_count.py demo-output/vegas_pan_detections.json --picture counted.png

The reference, sample_vehicles.json, is points marked by eye. A vehicle is found when a box holds
its point within 4 pixels; a box that holds no point, certain or uncertain, is false. The picture
shows each vehicle, framed green where it was found and red where not, and each false box, yellow.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from rstinynet import files
from rstinynet.data.image import read_rgb

SLACK_PX = 4
REFERENCE = Path(__file__).parent / "sample_vehicles.json"
SCENE = Path(__file__).parents[1] / "src/rstinynet/samples/vegas_pan.tif"
CHIP_PX, ENLARGED, COLUMNS = 40, 3, 9
GREEN, RED, YELLOW = (60, 200, 60), (230, 40, 40), (240, 200, 0)


def holds(boxes_xywh: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(boxes, points) true where a box, widened by the slack, holds a point."""
    low = boxes_xywh[:, None, :2] - SLACK_PX
    high = boxes_xywh[:, None, :2] + boxes_xywh[:, None, 2:] + SLACK_PX
    return ((points >= low) & (points <= high)).all(axis=2)


def sheet(boxes_xywh: np.ndarray, certain: np.ndarray, uncertain: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: a chip of the scene for each certain vehicle, then for each false box."""
    hits = holds(boxes_xywh, certain)
    false = ~hits.any(axis=1) & ~holds(boxes_xywh, uncertain).any(axis=1)
    chips = [(*point, GREEN if hit else RED)
             for point, hit in zip(certain, hits.any(axis=0), strict=True)]  # fmt: skip
    chips.sort(key=lambda chip: chip[2] == RED)
    chips += [(x + w / 2, y + h / 2, YELLOW) for x, y, w, h in boxes_xywh[false]]
    half, side = CHIP_PX // 2, CHIP_PX * ENLARGED
    scene = np.pad(read_rgb(SCENE), ((half, half), (half, half), (0, 0)))
    made = []
    for x, y, colour in chips:
        seen = scene[int(y) : int(y) + CHIP_PX, int(x) : int(x) + CHIP_PX]
        chip = cv2.resize(seen, (side, side), interpolation=cv2.INTER_NEAREST)
        made.append(cv2.rectangle(chip, (1, 1), (side - 2, side - 2), colour, 3))
    made += [np.zeros_like(made[0])] * (-len(made) % COLUMNS)
    return np.vstack([np.hstack(made[at : at + COLUMNS]) for at in range(0, len(made), COLUMNS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="COCO results of the scene")
    parser.add_argument("--conf", type=float, nargs="+", default=[0.0])
    parser.add_argument("--picture", type=Path, help="PNG to write, at the first --conf")
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
    if options.picture is not None:
        boxes = np.array([f["bbox"] for f in found if f["score"] > options.conf[0]], float)
        drawn = sheet(boxes.reshape(-1, 4), certain, uncertain)
        encoded = cv2.imencode(".png", drawn[..., ::-1])[1]
        files.write_bytes(options.picture, encoded.tobytes())


if __name__ == "__main__":
    main()
