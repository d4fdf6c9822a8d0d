"""Time and memory of scoring an AI-TOD-shaped set: ours, faster-coco-eval and pycocotools.

    python benchmarks/eval_speed.py --images 1000 --pycocotools-images 50

A drawn set with the shape of AI-TOD's test set (14,018 images, 25 objects an image in eight
unequal classes, 12.8 pixels wide on average, 300 detections an image) is written as COCO files.
Each tool then reads the two files and computes the precision array in AI-TOD's protocol (five
sizes, 1500 detections) in a process of its own; total is from the files to the numbers, CPU
the processor's time of that (which other work on the machine disturbs less), memory the process's
peak less what importing its modules took. pycocotools, being slow, scores a smaller
set, with the others beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

AITOD_IMAGES = 14_018
OBJECTS, DETECTIONS = 25, 300
SHARES = np.array([0.003, 0.003, 0.03, 0.055, 0.006, 0.847, 0.053, 0.003])
"""About AI-TOD's shares of airplane, bridge, tank, ship, pool, vehicle, person, wind-mill."""
RANGES = ((0.0, 1e10), (0.0, 64.0), (64.0, 256.0), (256.0, 1024.0), (1024.0, 1e10))
LIMITS = [1, 100, 1500]
TIMES = ("seconds", "cpu")


def write_set(folder: Path, images: int, *, seed: int = 0) -> None:
    """Write `val.json` and `found.json`: each object is found several times, the rest is noise."""
    rng = np.random.default_rng(seed)
    with (folder / "val.json").open("w") as truth, (folder / "found.json").open("w") as found:
        records = [
            {"id": at, "file_name": f"{at}.png", "width": 800, "height": 800}
            for at in range(1, images + 1)
        ]
        categories = [{"id": at, "name": f"class {at}"} for at in range(1, len(SHARES) + 1)]
        head = json.dumps({"images": records, "categories": categories})
        truth.write(head[:-1] + ', "annotations": [')
        found.write("[")
        count = 0
        for image in range(1, images + 1):
            boxes, labels = _objects(rng, int(rng.poisson(OBJECTS)))
            for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
                count += 1
                entry = {"id": count, "image_id": image, "category_id": label, "bbox": box}
                entry |= {"area": box[2] * box[3], "iscrowd": 0}
                truth.write((", " if count > 1 else "") + json.dumps(entry))
            boxes, labels, scores = _detections(rng, boxes, labels)
            rows = zip(boxes.tolist(), labels.tolist(), scores.tolist(), strict=True)
            text = ", ".join(
                json.dumps({"image_id": image, "category_id": label, "bbox": box, "score": score})
                for box, label, score in rows
            )
            found.write((", " if image > 1 else "") + text)
        truth.write("]}")
        found.write("]")


def _objects(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    sides = np.clip(
        rng.lognormal(2.45, 0.45, (count, 1)) * rng.uniform(0.7, 1.4, (count, 2)), 2, 90
    )
    corners = rng.uniform(0, 1, (count, 2)) * (799 - sides)
    boxes = np.concatenate([corners, sides], axis=1).round(1)
    return boxes, rng.choice(len(SHARES), count, p=SHARES / SHARES.sum()) + 1


def _detections(
    rng: np.random.Generator, boxes: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    times = rng.integers(0, 6, len(boxes))
    near = np.repeat(boxes, times, axis=0)
    near += rng.normal(0, 0.12, near.shape) * np.tile(near[:, 2:], 2)
    near[:, 2:] = np.maximum(near[:, 2:], 1)
    noise, noise_labels = _objects(rng, max(DETECTIONS - len(near), 0))
    every = np.concatenate([near, noise])[:DETECTIONS].round(2)
    kinds = np.concatenate([np.repeat(labels, times), noise_labels])[:DETECTIONS]
    scores = np.concatenate([rng.beta(3, 2, len(near)), rng.beta(1, 6, len(noise))])
    return every, kinds, scores[:DETECTIONS].round(5)


def ours(folder: Path) -> Callable[[], list[float]]:
    """This package, as `rstinynet val --predictions` does it."""
    from rstinynet.data.formats.coco import read_coco
    from rstinynet.evaluate.coco import FIGURES, evaluate
    from rstinynet.evaluate.results import open_results

    def run() -> list[float]:
        labelled = read_coco(folder / "val.json", folder / "images")
        evaluation = evaluate(labelled, open_results(folder / "found.json", labelled))
        return [evaluation.value(name) for name in FIGURES]

    return run


def faster(folder: Path) -> Callable[[], list[float]]:
    """faster-coco-eval with its own reading."""
    from faster_coco_eval import COCO, COCOeval_faster

    return lambda: _by(COCO, COCOeval_faster, folder)


def pycocotools(folder: Path) -> Callable[[], list[float]]:
    """pycocotools with its own reading."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return lambda: _by(COCO, COCOeval, folder)


TOOLS = {"ours": ours, "faster-coco-eval": faster, "pycocotools": pycocotools}


def _by(reader: Any, judge_of: Any, folder: Path) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = reader(str(folder / "val.json"))
        judge = judge_of(truth, truth.loadRes(str(folder / "found.json")), "bbox")
        judge.params.maxDets = LIMITS
        judge.params.areaRng = [list(limits) for limits in RANGES]
        judge.params.areaRngLbl = ["all", "vt", "t", "s", "m"]
        judge.evaluate()
        judge.accumulate()
    full = np.asarray(judge.eval["precision"])[..., -1]
    parts = [full[..., 0], full[0, ..., 0], full[5, ..., 0]]
    parts += [full[..., size] for size in range(1, 5)]
    return [float(part[part > -1].mean()) for part in parts]


def measure(tool: str, folder: Path) -> dict[str, Any]:
    """Time, memory and numbers of one tool in a process of its own."""
    command = [sys.executable, __file__, "--child", tool, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tool} failed:\n{done.stderr}")
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def child(tool: str, folder: Path) -> None:
    """Run one tool and print what it took."""
    run = TOOLS[tool](folder)
    before = _peak()
    begun, worked = time.perf_counter(), time.process_time()
    numbers = run()
    outcome = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - worked}
    print(json.dumps(outcome | {"mib": _peak() - before, "numbers": numbers}))


def _peak() -> float:
    """MiB of memory that this process held at most: getrusage's begins at that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(outcomes: dict[str, dict[str, Any]], images: int) -> None:
    """Print the outcomes beside each other; SystemExit where the numbers differ."""
    first = outcomes["ours"]
    print(f"\n{images} images, {images * DETECTIONS} detections")
    print(f"{'':18}{'total s':>9}{'x ours':>8}{'CPU s':>9}{'x ours':>8}{'peak MiB':>10}{'AP':>12}")
    for name, outcome in outcomes.items():
        cells = (f"{outcome[key]:9.2f}{outcome[key] / first[key]:8.1f}" for key in TIMES)
        print(f"{name:18}{''.join(cells)}{outcome['mib']:10.0f}{outcome['numbers'][0]:12.8f}")
        gap = np.abs(np.subtract(outcome["numbers"], first["numbers"])).max()
        if gap > 1e-6:
            raise SystemExit(f"the numbers of {name} differ by {gap:.1e}")
    print("the seven numbers agree to 1e-6")


def main() -> None:
    """Draw the set, run the tools, print one table a size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=AITOD_IMAGES)
    parser.add_argument("--pycocotools-images", type=int, default=50, help="0 leaves it out")
    parser.add_argument("--only-ours", action="store_true", help="for sizes others cannot hold")
    parser.add_argument("--child", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child, chosen.folder)
        return
    sizes = {chosen.images: ["ours"] if chosen.only_ours else ["ours", "faster-coco-eval"]}
    if chosen.pycocotools_images:
        sizes = {chosen.pycocotools_images: list(TOOLS)} | sizes
    for images, tools in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            write_set(place, images)
            (place / "images").mkdir()
            for at in range(1, images + 1):
                (place / "images" / f"{at}.png").touch()
            table({tool: measure(tool, place) for tool in tools}, images)


if __name__ == "__main__":
    main()
