"""Time and memory of merging boxes across the seams of tiles, beside suppressing them at once.

    python benchmarks/merge_speed.py [--counts 1500,10000,50000,200000] [--python ENV/bin/python]

Two layouts: sparse (objects of 8 pixels, spread so that few touch) and crowd (the same number on a
sixteenth of the ground, where many overlap). Tiles of 640 pixels that share 64 report what they
see with a jitter of half a pixel. Ours is `SeamMerger`, row by row; beside it our own suppression
and OpenCV's batched NMS over all boxes at once, and SAHI's NMS and GREEDYNMM where `--python`
names an environment that has it. Memory is the growth of the peak of resident memory over what was
held before, inputs not counted. Times are of the processor, which other work on the machine
does not stretch. What takes over `--patience` seconds is not tried on more boxes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

TILE, OVERLAP = 640, 64
MIB = 2**20
PEER = Path(__file__).parent / "peers" / "sahi_merge.py"


def layout(count: int, kind: str, seed: int = 0) -> tuple[np.ndarray, int]:
    """(N, 4) XYXY of objects of about 8 pixels, and the side of the scene."""
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(count) * (40 if kind == "sparse" else 10)) + TILE
    middle = rng.random((count, 2)) * (side - 20) + 10
    half = rng.uniform(3, 6, (count, 2))
    return np.concatenate([middle - half, middle + half], axis=1), side


def resident(peak: bool = True) -> int:
    """VmHWM (or VmRSS) in bytes: Linux only."""
    name = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{name} is not in /proc/self/status")


def measured(task: Callable[[], int]) -> dict[str, float]:
    """Seconds of the processor, growth of peak memory and boxes kept."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, start = resident(peak=False), time.process_time()
    kept = task()
    return {
        "s": time.process_time() - start,
        "MiB": (resident() - before) / MIB,
        "kept": kept,
    }


def tiles(boxes: np.ndarray, scores: np.ndarray, side: int) -> list[list[tuple]]:
    """Rows of (window, Detections) that tiles report."""
    from rstinynet.detections import Detections
    from rstinynet.scenes.windows import rows

    rng = np.random.default_rng(1)
    out = []
    for row in rows(side, side, tile=TILE, overlap=OVERLAP):
        line = []
        band = (boxes[:, 3] > row[0].y) & (boxes[:, 1] < row[0].y + row[0].height)
        near, near_scores = boxes[band], scores[band]
        for window in row:
            inside = (near[:, 2] > window.x + 2) & (near[:, 0] < window.x + window.width - 2)
            moved = near[inside] + rng.uniform(-0.5, 0.5, (int(inside.sum()), 4))
            moved -= [window.x, window.y, window.x, window.y]
            moved = moved.clip(0, [window.width, window.height] * 2)
            useful = (moved[:, 2:] - moved[:, :2] > 1).all(axis=1)
            found = Detections(
                moved[useful].astype(np.float32),
                near_scores[inside][useful].astype(np.float32),
                np.zeros(int(useful.sum()), np.int64),
            )
            line.append((window, found))
        out.append(line)
    return out


def ours(grid: list, side: int) -> Callable[[], int]:
    from rstinynet.scenes.merge import SeamMerger

    def task() -> int:
        merger, kept = SeamMerger(side, side, margin=OVERLAP / 4), 0
        for row in grid:
            kept += len(merger.settle(row[0][0].y))
            for window, found in row:
                merger.add(window, found)
        return kept + len(merger.settle())

    return task


def at_once(grid: list) -> dict[str, Callable[[], int]]:
    from rstinynet.detections import Detections
    from rstinynet.suppress import suppress

    every = Detections.concatenate([f.shifted(w.x, w.y) for row in grid for w, f in row])

    def opencv() -> int:
        xywh = np.concatenate([every.boxes[:, :2], every.boxes[:, 2:] - every.boxes[:, :2]], axis=1)
        return len(cv2.dnn.NMSBoxesBatched(xywh, every.scores, every.labels, 0.0, 0.3))

    return {"suppress": lambda: len(suppress(every, iou=0.3)), "OpenCV NMS": opencv}


def peer(grid: list, python: str, patience: float) -> dict[str, dict[str, float]]:
    every = [
        np.concatenate([found.shifted(w.x, w.y).boxes, found.scores[:, None]], axis=1)
        for row in grid
        for w, found in row
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "boxes.npy"
        np.save(path, np.concatenate(every))
        command = [python, str(PEER), str(path), str(patience)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="1500,10000,50000,200000")
    parser.add_argument("--python")
    parser.add_argument("--patience", type=float, default=20.0)
    options = parser.parse_args()
    print("| layout | objects | boxes in | way | kept | CPU s | peak, MiB |")
    print("|---|---:|---:|---|---:|---:|---:|")
    for kind in ("sparse", "crowd"):
        slow: set[str] = set()
        for count in map(int, options.counts.split(",")):
            boxes, side = layout(count, kind)
            scores = np.random.default_rng(2).uniform(0.3, 0.9, count)
            grid = tiles(boxes, scores, side)
            entered = sum(len(found) for row in grid for _, found in row)
            ways = {"SeamMerger": ours(grid, side)} | at_once(grid)
            lines = {name: measured(task) for name, task in ways.items() if name not in slow}
            if options.python and "SAHI" not in slow:
                lines |= peer(grid, options.python, options.patience)
            for name, line in lines.items():
                print(
                    f"| {kind} | {count} | {entered} | {name} | {line['kept']:.0f} "
                    f"| {line['s']:.2f} | {line['MiB']:.0f} |",
                    flush=True,
                )
                if line["s"] > options.patience:
                    slow.add("SAHI" if name.startswith("SAHI") else name)


if __name__ == "__main__":
    sys.exit(main())
