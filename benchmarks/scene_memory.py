"""Peak memory of a search, whatever the size of the scene.

    python benchmarks/scene_memory.py [--sides 8000,30000,60000] [--limit 1GiB] [--model NAME]

Makes tiled GeoTIFFs of each side with data along a diagonal only (the rest is nodata and takes no
disk), searches each in a process of its own under `--memory-limit`, and prints resident memory:
after the model is loaded, and at its peak. Without `--model` the detector is a stand-in that finds
bright dots, so that what is measured is reading, merging and writing. Exit code 1 when a peak is
over the limit or an object is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from rasterio.windows import Window

from rstinynet.detections import Detections
from rstinynet.model.weights import WeightsMetadata
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.ledger import Ledger
from rstinynet.scenes.memory import parse_size, peak_bytes
from rstinynet.scenes.stream import PredictOptions, predict

BLOCK = 512
STEP = 16
"""Pixels from one dot to the next, in blocks that have data."""
MIB = 2**20


class Dots(Detector):
    """Finds every pixel of 255 as an object of six pixels."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.metadata = WeightsMetadata(model="dots", names=("dot",), category_ids=(1,), imgsz=640)

    def detect_batch(self, images, **options):
        found = []
        for image in images:
            y, x = np.nonzero(image[..., 0] == 255)
            boxes = np.stack([x - 2, y - 2, x + 4, y + 4], axis=1).clip(0, image.shape[0])
            scores = np.linspace(0.9, 0.5, len(x))
            found.append(
                Detections(
                    boxes.astype(np.float32), scores.astype(np.float32), np.zeros(len(x), int)
                )
            )
        return found


def make(path: Path, side: int) -> int:
    """A sparse scene; how many dots it holds."""
    block = np.full((BLOCK, BLOCK), 60, np.uint8)
    block[STEP // 2 :: STEP, STEP // 2 :: STEP] = 255
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8",
        "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate",
        "nodata": 0, "sparse_ok": True, "bigtiff": "yes", "crs": "EPSG:32632",
        "transform": Affine(0.5, 0, 5e5, 0, -0.5, 5e6),
    }  # fmt: skip
    places = {(at, at) for at in range(0, side - BLOCK + 1, BLOCK)}
    places |= {((side - BLOCK - at) // BLOCK * BLOCK, at) for _, at in places}
    with rasterio.open(path, "w", **profile) as file:
        for x, y in sorted(places):
            file.write(np.stack([block] * 3), window=Window(x, y, BLOCK, BLOCK))
    return len(places) * int((block == 255).sum())


def search(path: Path, model: str | None, limit: int | None) -> dict[str, float]:
    """Search and write; what memory was held."""
    detector = Detector.load(model) if model else Dots()
    # The first forward pass makes torch's own buffers: they are the model's, not the scene's.
    detector.detect_batch([np.zeros((640, 640, 3), np.uint8)])
    loaded, start = peak_bytes(), time.perf_counter()
    with tempfile.TemporaryDirectory() as out, Ledger(Path(out) / "ledger") as ledger:
        result = predict(detector, path, PredictOptions(memory_limit=limit), ledger=ledger)
        result.save(out, formats=["gpkg"])
        ledger.finish()
    return {
        "loaded": loaded,
        "peak": peak_bytes(),
        "found": len(result),
        "seconds": time.perf_counter() - start,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", default="8000,30000,60000")
    parser.add_argument("--limit", default="1GiB")
    parser.add_argument("--model")
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    limit = parse_size(options.limit)
    if options.scene:
        print(json.dumps(search(options.scene, options.model, limit)))
        return 0
    print(f"limit {limit / MIB:.0f} MiB, detector {options.model or 'stand-in'}")
    print("| side, px | objects | found | loaded, MiB | peak, MiB | above loaded, MiB | s |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    failed = False
    for side in map(int, options.sides.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scene.tif"
            dots = make(path, side)
            command = [sys.executable, __file__, "--scene", str(path), "--limit", options.limit]
            if options.model:
                command += ["--model", options.model]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        held = json.loads(done.stdout)
        loaded, peak = held["loaded"] / MIB, held["peak"] / MIB
        print(
            f"| {side} | {dots} | {held['found']} | {loaded:.0f} | {peak:.0f} "
            f"| {peak - loaded:.0f} | {held['seconds']:.0f} |",
            flush=True,
        )
        failed |= held["peak"] > limit or (not options.model and held["found"] != dots)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
