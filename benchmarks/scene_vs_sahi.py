"""Our tiled search beside SAHI's: the same detector, tiles and scene, in alternation.

    python benchmarks/scene_vs_sahi.py --python ENV/bin/python [--side 8000] [--rounds 3]
        [--objects 200,20000] [--model rs-tinynet-lite]

ENV is an environment of its own with SAHI (`pip install torch sahi`; with `--model` also this
package's dependencies, since the same detector then runs there through an adapter). The scene is a
tiled, compressed GeoTIFF; tiles of 640 pixels share 64. Without `--model` a stand-in finds bright
dots in both programs. Printed: medians over the rounds of wall time, of time outside the model
(wall, and of the processor, which other work on the machine does not stretch), peak memory above
that after loading and one forward pass, and how many objects both report within two pixels.
Ours also writes its ledger, as the command does. SAHI merges by NMS at IoU 0.3.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import rasterio
import torch
from affine import Affine
from shapely import STRtree, points

from rstinynet.detections import Detections
from rstinynet.model.weights import WeightsMetadata
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.ledger import Ledger
from rstinynet.scenes.memory import peak_bytes
from rstinynet.scenes.stream import PredictOptions, predict

PEERS = Path(__file__).parent / "peers"
sys.path.insert(0, str(PEERS))
from dots import dots  # noqa: E402

TILE, OVERLAP = 640, 64
MIB = 2**20


class Timed:
    """Seconds that a detector's forward passes took, by the clock and of the processor."""

    wall = 0.0
    cpu = 0.0


class Dots(Detector):
    """The stand-in."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.metadata = WeightsMetadata(
            model="dots", names=("object",), category_ids=(1,), imgsz=TILE
        )

    def detect_batch(self, images, **options):
        found = []
        for image in images:
            boxes, scores = dots(image)
            found.append(Detections(boxes, scores, np.zeros(len(boxes), np.int64)))
        return found


def make(path: Path, side: int, objects: int) -> None:
    """A scene of grey noise with bright dots, no two nearer than 16 pixels."""
    rng = np.random.default_rng(objects)
    image = np.repeat(rng.integers(40, 90, (side, side, 1), dtype=np.uint8), 3, axis=2)
    cells = rng.choice((side // 24) ** 2, min(objects, (side // 24) ** 2), replace=False)
    y, x = np.divmod(cells, side // 24)
    y, x = y * 24 + rng.integers(4, 12, len(y)), x * 24 + rng.integers(4, 12, len(x))
    image[y, x, 0], image[y, x, 1] = 255, rng.integers(0, 256, len(y))
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8", tiled=True,
        blockxsize=512, blockysize=512, compress="deflate", interleave="pixel",
        photometric="rgb", crs="EPSG:32632", transform=Affine(0.5, 0, 5e5, 0, -0.5, 5e6),
    ) as file:  # fmt: skip
        file.write(image.transpose(2, 0, 1))


def ours(scene: Path, model: str, out: Path) -> dict[str, float]:
    detector = Dots() if model == "dots" else Detector.load(model, device="cpu")
    detector.detect_batch([np.zeros((TILE, TILE, 3), np.uint8)])
    inner = detector.detect_batch

    def timed(images, **options):
        start, worked = time.perf_counter(), time.thread_time()
        found = inner(images, **options)
        Timed.wall += time.perf_counter() - start
        Timed.cpu += time.thread_time() - worked
        return found

    detector.detect_batch = timed
    loaded, start, worked = peak_bytes(), time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger") as ledger:
        options = PredictOptions(tile=TILE, overlap=OVERLAP)
        result = predict(detector, scene, options, ledger=ledger)
        found = result.detections
        ledger.finish()
    wall, cpu = time.perf_counter() - start, time.process_time() - worked
    np.save(out, np.concatenate([found.boxes, found.scores[:, None]], axis=1))
    line = {"wall": wall, "model": Timed.wall, "cpu": cpu - Timed.cpu, "found": len(found)}
    return line | {"loaded": loaded, "peak": peak_bytes()}


def run(command: list[str]) -> dict[str, float]:
    source = str(Path(__file__).parents[1] / "src")
    env = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def agreeing(first: np.ndarray, second: np.ndarray) -> int:
    """Objects of `first` that have one of `second` within two pixels."""
    if not len(first) or not len(second):
        return 0
    a, b = ((boxes[:, :2] + boxes[:, 2:4]) / 2 for boxes in (first, second))
    near = STRtree(points(b)).query(points(a), predicate="dwithin", distance=2.0)
    return len(np.unique(near[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python")
    parser.add_argument("--side", type=int, default=8000)
    parser.add_argument("--objects", default="200,20000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="dots")
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scene:
        print(json.dumps(ours(options.scene, options.model, options.out)))
        return
    if not options.python:
        parser.error("--python must name the Python of an environment that has SAHI")
    print(
        "| side | objects | program | found | agree | wall, s | outside, s | outside, CPU s | MiB |"
    )
    print("|---:|---:|---|---:|---:|---:|---:|---:|---:|")
    for objects in map(int, options.objects.split(",")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            scene, mine, theirs = (folder / n for n in ("scene.tif", "a.npy", "b.npy"))
            make(scene, options.side, objects)
            here = [sys.executable, __file__, "--scene", str(scene), "--out", str(mine)]
            there = [options.python, str(PEERS / "sahi_scene.py"), str(scene), str(TILE)]
            commands = {
                "rs-tinynet": [*here, "--model", options.model],
                "SAHI": [*there, str(OVERLAP), str(theirs), options.model],
            }
            lines: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
            for _ in range(options.rounds):
                for name, command in commands.items():
                    lines[name].append(run(command))
            agree = agreeing(np.load(mine), np.load(theirs))
        for name, rounds in lines.items():
            wall = median(line["wall"] for line in rounds)
            outside = median(line["wall"] - line["model"] for line in rounds)
            cpu = median(line["cpu"] for line in rounds)
            held = median(line["peak"] - line["loaded"] for line in rounds) / MIB
            print(
                f"| {options.side} | {objects} | {name} | {rounds[0]['found']} | {agree} "
                f"| {wall:.2f} | {outside:.2f} | {cpu:.2f} | {held:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
