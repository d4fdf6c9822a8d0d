"""Run by `train_speed.py` inside the peer's own environment; never imported by the package.

Argument: spec.json. Trains as Ultralytics does and prints images a second as one JSON line.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import common  # noqa: F401  first: it lets torchvision be imported
import torch
from ultralytics.models.yolo.detect import DetectionTrainer


def processor_s():
    """Processor seconds of this process and its workers until now."""
    pids, ticks = [os.getpid()], 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    cuda = spec["device"] == "cuda"
    ends: list[tuple[float, float]] = []

    def begin(trainer):
        if spec["threads"]:  # it has lowered them when it chose its device
            torch.set_num_threads(spec["threads"])

    def end(trainer):
        if cuda:
            torch.cuda.synchronize()
        ends.append((time.perf_counter(), processor_s()))
        if len(ends) < spec["warm"] + spec["count"]:
            return
        (begun, used), (ended, used_by_end) = ends[spec["warm"] - 1], ends[-1]
        images = spec["batch"] * spec["count"]
        found = {
            "images_s": images / (ended - begun),
            "cpu_s": (used_by_end - used) / images,
            "gpu_mib": torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0,
        }
        print("\n" + json.dumps(found), flush=True)
        os._exit(0)

    trainer = DetectionTrainer(
        overrides={
            "model": f"{spec['model']}.yaml",
            "data": spec["yaml"],
            "imgsz": spec["imgsz"],
            "batch": spec["batch"],
            "workers": spec["workers"],
            "device": 0 if cuda else "cpu",
            "epochs": 600,
            "optimizer": "SGD",
            "cache": "ram",
            "mosaic": 1.0,
            "amp": spec["amp"],
            "val": False,
            "plots": False,
            "save": False,
            "pretrained": False,
            "project": spec["folder"],
            "verbose": False,
        }
    )
    trainer.add_callback("on_train_start", begin)
    trainer.add_callback("on_train_batch_end", end)
    trainer.train()


main()
