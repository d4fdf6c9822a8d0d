"""Run by `train_speed.py` inside the peer's own environment; never imported by the package.

Argument: spec.json. Trains as Ultralytics does and prints images a second as one JSON line.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import torch

if not torch.cuda.is_available():  # a torchvision for CUDA beside a CPU torch lacks its operators
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from ultralytics.models.yolo.detect import DetectionTrainer


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    cuda = spec["device"] == "cuda"
    ends: list[float] = []

    def begin(trainer):
        if spec["threads"]:  # it has lowered them when it chose its device
            torch.set_num_threads(spec["threads"])

    def end(trainer):
        if cuda:
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        if len(ends) < spec["warm"] + spec["count"]:
            return
        seconds = ends[-1] - ends[spec["warm"] - 1]
        gpu = torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0
        speed = spec["batch"] * spec["count"] / seconds
        print("\n" + json.dumps({"images_s": speed, "gpu_mib": gpu}), flush=True)
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
            "amp": cuda,
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
