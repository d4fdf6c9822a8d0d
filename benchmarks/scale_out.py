"""Tiles a second of one process, and of one and more workers of Ray, over one scene.

    python benchmarks/scale_out.py --side 4096 --workers 1 2

The scene is noise with bright blobs, tiled and compressed; the model is the shipped one. The start
of Ray and a first search, in which the workers start, are timed apart: that does not grow with the
scenes. Prints one table,
and whether each run gave the objects of the first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine

from rstinynet.detections import Detections
from rstinynet.scenes import stream
from rstinynet.scenes.detector import DEFAULT_MODEL, Detector
from rstinynet.scenes.engine_ray import RayEngine
from rstinynet.scenes.options import PredictOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--side", type=int, default=4096, help="side of the scene, pixels")
    parser.add_argument("--tile", type=int, help="side of a tile (default: the weights' own)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--threads", type=int, default=1, help="of the single process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    detector = Detector.load(options.model, device="cpu")
    search = PredictOptions(tile=options.tile)
    with tempfile.TemporaryDirectory() as folder:
        scene = write_scene(Path(folder) / "scene.tif", options.side)
        small = write_scene(Path(folder) / "small.tif", 256)
        stream.predict(detector, small, search)
        run = Run(detector, scene, search)
        print(f"{options.model}, {options.side} x {options.side} pixels, {run.tiles} tiles")
        print(f"{'who':<12}{'start s':>9}{'search s':>10}{'tiles/s':>9}{'Mpx/s':>8}  same objects")
        used = time.process_time()
        run.line("one process", 0.0, lambda: stream.predict(detector, scene, search).detections)
        used = time.process_time() - used
        print(
            f"  of which processor time {used:.2f} s, {used / run.tiles:.4f} s a tile", flush=True
        )
        for workers in options.workers:
            begin = time.perf_counter()
            with RayEngine(detector, workers=workers) as engine:
                # So large that every worker has imported the package and has the model.
                stream.predict(detector, scene, search, engine=engine)
                start = time.perf_counter() - begin
                run.line(
                    f"ray, {workers}",
                    start,
                    lambda engine=engine: (
                        stream.predict(detector, scene, search, engine=engine).detections
                    ),
                )


class Run:
    """Times searches of one scene and compares what they find."""

    def __init__(self, detector: Detector, scene: Path, search: PredictOptions) -> None:
        with stream.opener(detector, scene, search)() as opened:
            self.tiles = stream.Search.of(detector, opened, search).total
            self.pixels = opened.width * opened.height
        self._first: Detections | None = None

    def line(self, who: str, start: float, search: Callable[[], Detections]) -> None:
        """Print one line of the table."""
        begin = time.perf_counter()
        found = search()
        seconds = time.perf_counter() - begin
        first = self._first = self._first or found
        same = len(found) == len(first) and np.allclose(found.boxes, first.boxes, atol=1e-2)
        print(
            f"{who:<12}{start:>9.1f}{seconds:>10.1f}{self.tiles / seconds:>9.2f}"
            f"{self.pixels / seconds / 1e6:>8.2f}  {'yes' if same else 'NO'} ({len(found)})",
            flush=True,
        )


def write_scene(path: Path, side: int) -> Path:
    """Noise of ground with a bright object about every 64 pixels."""
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff",
        "width": side,
        "height": side,
        "count": 3,
        "dtype": "uint8",
        "tiled": True,
        "compress": "deflate",
        "crs": "EPSG:32611",
        "transform": Affine(0.5, 0, 500000, 0, -0.5, 4000000),
    }
    image = rng.normal(80, 12, (side, side)).clip(0, 255).astype(np.uint8)
    for y, x in rng.integers(8, side - 24, (side * side // 4096, 2)):
        image[y : y + 6, x : x + 12] = 220
    with rasterio.open(path, "w", **profile) as file:
        for band in (1, 2, 3):
            file.write(image, band)
    return path


if __name__ == "__main__":
    main()
