"""Images a second and memory in training: ours against Ultralytics' trainer, in turns.

    python benchmarks/train_speed.py --python PEER_ENV/bin/python [--data DIR] [--json FILE]

PEER_ENV is a separate environment with `ultralytics` installed; it is never a dependency. On the
CPU both train YOLO11n at 320 px in batches of 8, on a GPU YOLO11m at 800 px in batches of 16; ours
trains rs-tinynet-m there too. Same images (drawn by this script, or `--data`'s), workers, torch
threads, optimiser (SGD, gradients summed to 64 images), averaging, mosaic on every sample, decoded
images in memory for both. No validation, no writing, no plots on either side; the first epoch, in
which ours reads the images, is not counted.

What still differs: on a CPU with instructions for bfloat16 our trainer uses them, so it has a row
in float32 too; Ultralytics has mixed precision on GPUs only. Ultralytics prepares batches in
processes (on a CPU in the one that trains, whatever the workers), ours in threads; theirs resizes,
moves, scales, mirrors and changes colours, ours cuts windows, scales and turns (recipe `paper`),
with colours changed likewise. `--threads 0` leaves each its own number of torch threads, which
Ultralytics lowers to the number of processors less one.

Shown are medians, and ratios of which more than 1 is better than the first row's. On a busy machine
images a second say little, and processor seconds an image (of a trainer and its workers) more.
Memory is the largest sum of proportional set sizes (PSS) of a trainer and its workers; both of
these are read from Linux's /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from rstinynet import files
from rstinynet.data.convert import open_any, write_as
from rstinynet.data.synthetic import make_synthetic
from rstinynet.train.job import Job
from rstinynet.train.learner import half_precision
from rstinynet.train.loop import Trainer
from rstinynet.train.overrides import named_recipe, with_overrides

PEER = Path(__file__).resolve().parent / "peers" / "ultralytics_train.py"


class EnoughError(Exception):
    """Enough batches were measured."""


class Timed(Trainer):
    """A trainer that notes when each batch ends, and stops after the last that is asked for."""

    last = 0
    ends: list[tuple[float, float]]

    def _one(self, stream: Any) -> None:
        super()._one(stream)
        if self.learner.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append((time.perf_counter(), processor_s()))
        if len(self.ends) == self.last:
            raise EnoughError


def measure_ours(spec: dict[str, Any]) -> dict[str, float]:
    """Train as the package does; images a second after `warm` batches."""
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    recipe = with_overrides(
        named_recipe("paper"),
        {
            "imgsz": spec["imgsz"],
            "batch": spec["batch"],
            "workers": spec["workers"],
            "mosaic_prob": 1.0,
            "amp": spec["amp"],
            "val_every": 0,
            "save_minutes": 1e6,
            "log_every": 10**9,
        },
    )
    out = Path(spec["folder"]) / "run"
    trainer = Timed(
        Job(
            model=spec["model"],
            data=Path(spec["data"]),
            out=out,
            recipe=recipe,
            device=spec["device"],
        )
    )
    trainer.ends, trainer.last = [], spec["warm"] + spec["count"]
    # Epochs end without a file, as they do on the other side.
    trainer._end_epoch = lambda: trainer.outcome.add({"iteration": trainer.clock.iteration})  # type: ignore[method-assign]
    with contextlib.suppress(EnoughError):
        trainer.run()
    return result(trainer.ends, spec)


def result(ends: list[tuple[float, float]], spec: dict[str, Any]) -> dict[str, float]:
    """Images a second, and processor seconds an image, after the first `warm` batches."""
    (begun, used), (ended, used_by_end) = ends[spec["warm"] - 1], ends[-1]
    images = spec["batch"] * spec["count"]
    gpu = torch.cuda.max_memory_allocated() / 2**20 if spec["device"] == "cuda" else 0.0
    return {
        "images_s": images / (ended - begun),
        "cpu_s": (used_by_end - used) / images,
        "gpu_mib": gpu,
    }


def run_once(python: str, script: Path, spec: dict[str, Any]) -> dict[str, float]:
    """One measurement in a process of its own."""
    environment = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    environment |= {"OMP_WAIT_POLICY": "PASSIVE", "YOLO_VERBOSE": "false"}
    if script == PEER:
        environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.json"
        files.write_json(path, {**spec, "folder": folder})
        command = [python, str(script), *([] if script == PEER else ["--spec"]), str(path)]
        process = subprocess.Popen(
            command,
            env=environment,
            # Ultralytics takes the `path: .` of a data.yaml from where it was started.
            cwd=Path(spec["yaml"]).parent if script == PEER else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        peak = [0.0]
        watcher = threading.Thread(target=watch_memory, args=(process, peak), daemon=True)
        watcher.start()
        out, err = process.communicate()
        watcher.join()
    line = next((each for each in out.splitlines() if each.startswith('{"images_s"')), None)
    if process.returncode or line is None:
        raise SystemExit(f"{script.name} failed:\n{err[-3000:]}\n{out[-1000:]}")
    return {**json.loads(line), "mib": peak[0]}


def watch_memory(process: subprocess.Popen[str], peak: list[float]) -> None:
    """Keep the largest memory of the process and its descendants in `peak`, MiB."""
    while process.poll() is None:
        peak[0] = max(peak[0], sum(pss_mib(pid) for pid in family(process.pid)))
        time.sleep(0.5)


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for parent in found:
        try:
            threads = list(Path(f"/proc/{parent}/task").iterdir())
            children = " ".join((each / "children").read_text() for each in threads)
        except OSError:
            continue
        found += [int(child) for child in children.split()]
    return found


def processor_s() -> float:
    """Processor seconds of this process and its descendants until now, user's and system's."""
    ticks = 0
    for pid in family(os.getpid()):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_mib(pid: int) -> float:
    """Memory of a process, shared pages by its share; 0 where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line[:4] == "Pss:") / 1024


def prepare(folder: Path, data: Path | None, *, images: int, imgsz: int) -> Path:
    """A folder in our layout with Ultralytics' data.yaml beside it, in `folder`/yolo."""
    if data is None:
        data = folder / "data"
        make_synthetic(data, images=images, size=imgsz)
        make_synthetic(data, images=2, size=imgsz, split="val")
    for split in ("train", "val"):
        write_as(open_any(data, split), folder / "yolo", kind="yolo", split=split, link=True)
    return data


def table(rows: dict[str, list[dict[str, float]]], base: str) -> str:
    """Medians, ranges and ratios as a Markdown table."""
    lines = ["| trainer | images/s | range | ratio | CPU s/image | ratio | MiB | GPU MiB |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    used = statistics.median(each["cpu_s"] for each in rows[base])
    reference = statistics.median(each["images_s"] for each in rows[base])
    for name, results in rows.items():
        speeds = [each["images_s"] for each in results]
        memory = max(each["mib"] for each in results)
        gpu = max(each["gpu_mib"] for each in results)
        middle = statistics.median(speeds)
        cpu = statistics.median(each["cpu_s"] for each in results)
        lines.append(
            f"| {name} | {middle:.2f} | {min(speeds):.2f}-{max(speeds):.2f} | "
            f"{middle / reference:.2f} | {cpu:.4f} | {used / cpu:.2f} | {memory:.0f} | "
            f"{f'{gpu:.0f}' if gpu else ''} |"
        )
    return "\n".join(lines)


def main() -> int:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", help=argparse.SUPPRESS)
    parser.add_argument("--python", help="Python of the peer's environment; without it ours only")
    parser.add_argument("--data", type=Path, help="a data folder; default: drawn images")
    parser.add_argument("--models", default="yolo11m,rs-tinynet-m" if cuda else "yolo11n")
    parser.add_argument("--imgsz", type=int, default=800 if cuda else 320)
    parser.add_argument("--batch", type=int, default=16 if cuda else 8)
    parser.add_argument("--workers", type=int, default=8 if cuda else 2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--iterations", type=int, default=60, help="batches that are measured")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=256, help="images that are drawn")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    options = parser.parse_args()
    if options.spec:
        print(json.dumps(measure_ours(json.loads(Path(options.spec).read_text()))))
        return 0

    models = options.models.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = prepare(folder, options.data, images=options.images, imgsz=options.imgsz)
        per_epoch = len(open_any(data, "train")) // options.batch
        spec = {
            "imgsz": options.imgsz,
            "batch": options.batch,
            "workers": options.workers,
            "threads": options.threads,
            "device": "cuda" if cuda else "cpu",
            "warm": per_epoch,
            "count": options.iterations,
            "data": str(data.resolve()),
            "yaml": str(next((folder / "yolo").glob("*.yaml"))),
        }
        half = half_precision(torch.device(spec["device"]))
        own = (sys.executable, Path(__file__))
        sides = [
            (f"rstinynet, {model}, {str(half).removeprefix('torch.')}", *own, model, True)
            for model in models
            if half
        ]
        if half is None or not cuda:
            sides += [(f"rstinynet, {model}, float32", *own, model, False) for model in models]
        if options.python:
            python = str(Path(options.python).absolute())
            sides.insert(0, (f"Ultralytics, {models[0]}", python, PEER, models[0], cuda))
        rows: dict[str, list[dict[str, float]]] = {name: [] for name, *_ in sides}
        for repeat in range(options.repeats):
            for name, python, script, model, amp in sides:
                found = run_once(python, script, {**spec, "model": model, "amp": amp})
                rows[name].append(found)
                print(
                    f"{repeat + 1}/{options.repeats} {name}: {found}", file=sys.stderr, flush=True
                )
    processor = torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} processors"
    print(
        f"{platform.machine()}, {processor}, torch {torch.__version__}, {options.threads} threads, "
        f"{options.workers} workers, {options.imgsz} px, batch {options.batch}, "
        f"{options.iterations} batches after an epoch of {per_epoch}, {options.repeats} repeats\n"
    )
    print(table(rows, sides[0][0]))
    if options.json:
        files.write_json(options.json, {"spec": spec, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
