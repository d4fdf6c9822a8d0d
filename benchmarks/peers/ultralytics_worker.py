"""Ultralytics' YOLO11 and YOLOv8, from random weights, by their own trainer; run by peers.py."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import common  # first: it lets torchvision be imported
import cv2
import numpy as np
import torch
import torchvision
import ultralytics
from torchvision.extension import _has_ops
from ultralytics import YOLO
from ultralytics.utils import nms

STRIDE = 32


def padded(pixels: np.ndarray) -> np.ndarray:
    """Filled to a multiple of the stride at the right and below, so that it is not enlarged."""
    height, width = (-side % STRIDE for side in pixels.shape[:2])
    return cv2.copyMakeBorder(pixels, 0, height, 0, width, cv2.BORDER_CONSTANT, value=(114,) * 3)


def epochs_made(last: Path) -> int:
    """Of the run whose last checkpoint this is; the trainer marks one that is complete by -1."""
    return int(torch.load(last, map_location="cpu", weights_only=False)["epoch"]) + 1


def seconds_spent(table: Path) -> float:
    """Of the run's epochs; its clock begins anew where it was resumed, from a lower time."""
    with table.open(newline="") as file:
        times = [float(row["time"]) for row in csv.DictReader(file, skipinitialspace=True)]
    ends = zip(times, [*times[1:], 0.0], strict=True)
    return sum(time for time, after in ends if after < time)


def train(job: common.Job) -> float:
    """Train, or go on where a call before this one was stopped; the seconds spent before."""
    run = job.folder / "run"
    last = run / "weights" / "last.pt"
    if last.exists():
        before = seconds_spent(run / "results.csv")
        if 0 < epochs_made(last) < job.epochs:
            YOLO(str(last)).train(resume=True)
        return before
    YOLO(f"{job.model}.yaml").train(
        data=str(job.yolo),
        epochs=job.epochs,
        batch=job.batch,
        imgsz=job.imgsz,
        seed=job.seed,
        device=job.device,
        project=str(job.folder),
        name="run",
        exist_ok=True,
        pretrained=False,
        # By default for the last ten epochs: in a short run there would be none. As ours.
        close_mosaic=min(10, job.epochs // 5),
        amp=job.device != "cpu",
        workers=0,
        val=False,
        plots=False,
        verbose=False,
    )
    return 0.0


def main() -> None:
    job, begun = common.start()
    told = {"library": f"ultralytics {ultralytics.__version__}"}
    if not _has_ops():
        torchvision.ops.nms = common.plain_nms
        told["note"] = "torchvision's operators missing: plain non-maximum suppression"
    begun -= train(job)
    # As its own validation and ours: each class of a place counts, not the best one alone.
    nms.non_max_suppression = functools.partial(nms.non_max_suppression, multi_label=True)
    trained = YOLO(str(job.folder / "run" / "weights" / "last.pt"))
    entries = []
    for image in job.val:
        pixels = cv2.imread(image["path"], cv2.IMREAD_COLOR)
        if job.native:
            pixels = padded(pixels)
        [found] = trained.predict(
            pixels,
            imgsz=max(pixels.shape[:2]) if job.native else job.imgsz,
            conf=common.LEAST_CONF,
            iou=0.7,
            max_det=common.MAX_DET,
            device=job.device,
            verbose=False,
        )
        boxes = found.boxes.cpu().numpy()
        entries += common.entries_of(job, image, boxes.xyxy, boxes.conf, boxes.cls)
    # A fresh model of the same shape: prediction has fused the trained one.
    plain = YOLO(f"{job.model}.yaml").model
    plain = type(plain)(f"{job.model}.yaml", nc=len(job.names), verbose=False).to(job.device)
    common.finish(
        job,
        entries,
        model=plain,
        gflops=common.gflops(plain, plain),
        begun=begun,
        **told,
    )


if __name__ == "__main__":
    main()
