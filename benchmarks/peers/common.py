"""What the peers' workers share. Runs in a peer's environment: torch, numpy, cv2, none of ours.

A worker is called with a folder that holds job.json, trains what it names from random weights and
writes dets.json (COCO results on the validation images) and peer.json (size, cost, versions) there.
"""

from __future__ import annotations

import contextlib
import json
import platform
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

COST_IMGSZ = 800
LEAST_CONF = 0.001
MAX_DET = 3000


class Job:
    """Settings of one run, and its images as the driver described them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        values = json.loads((folder / "job.json").read_text())
        self.model: str = values["model"]
        self.epochs: int = values["epochs"]
        self.batch: int = values["batch"]
        self.imgsz: int = values["imgsz"]
        self.seed: int = values["seed"]
        self.device: str = values["device"]
        self.native: bool = values.get("native", False)
        described = Path(values["described"])
        self.yolo = described.parent / "yolo" / "data.yaml"
        content = json.loads(described.read_text())
        self.names: list[str] = content["names"]
        self.category_ids: list[int] = content["category_ids"]
        self.train: list[dict] = content["train"]
        self.val: list[dict] = content["val"]


def load(image: dict, imgsz: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (imgsz, imgsz, 3) RGB padded with 114, boxes (N, 4) XYXY on them, the factors (4,)."""
    pixels = cv2.imread(image["path"], cv2.IMREAD_COLOR)[..., ::-1]
    factor = imgsz / max(pixels.shape[:2])
    size = (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    canvas = np.full((imgsz, imgsz, 3), 114, np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=way)
    # Sides are whole pixels, so that x and y are stretched a little more or less than `factor`.
    factors = np.array(size * 2, np.float32) / (pixels.shape[1::-1] * 2)
    boxes = np.array(image["boxes"], np.float32).reshape(-1, 4) * factors
    return canvas, boxes.astype(np.float32), factors


def batches(job: Job, epoch: int):
    """(images (B, 3, S, S) in [0, 1], boxes, labels) of one epoch: shuffled, flips and turns."""
    random = np.random.default_rng([job.seed, epoch])
    order = random.permutation(len(job.train))
    for first in range(0, len(order) - job.batch + 1, job.batch):
        images, all_boxes, all_labels = [], [], []
        for at in order[first : first + job.batch]:
            pixels, boxes, _ = load(job.train[at], job.imgsz)
            if random.random() < 0.5:
                pixels = pixels[:, ::-1]
                boxes = boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (job.imgsz, 0, job.imgsz, 0)
            if random.random() < 0.5:
                pixels = pixels[::-1]
                boxes = boxes[:, [0, 3, 2, 1]] * (1, -1, 1, -1) + (0, job.imgsz, 0, job.imgsz)
            images.append(np.ascontiguousarray(pixels))
            all_boxes.append(torch.from_numpy(np.ascontiguousarray(boxes, np.float32)))
            all_labels.append(torch.tensor(job.train[at]["labels"], dtype=torch.int64))
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        yield stacked.to(job.device), all_boxes, all_labels


def fit(job: Job, model: torch.nn.Module, optimizer, loss_of) -> None:
    """Train: `loss_of(images, boxes, labels)`; 5 % linear warm-up, then a cosine to nothing."""
    job_batch = min(job.batch, len(job.train))
    job.batch = job_batch
    total = job.epochs * (len(job.train) // job_batch)
    warmup = max(1, total // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 * (1 + np.cos(np.pi * step / max(total, 1)))),
    )
    model.train()
    for epoch in range(job.epochs):
        losses = []
        for images, boxes, labels in batches(job, epoch):
            loss = loss_of(images, boxes, labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}", file=sys.stderr, flush=True)


def entries_of(job: Job, image: dict, boxes, scores, labels) -> list[dict]:
    """COCO entries of one image from XYXY boxes in its own pixels; the best `MAX_DET`."""
    order = np.argsort(-scores, kind="stable")[:MAX_DET]
    entries = []
    for box, score, label in zip(boxes[order], scores[order], labels[order], strict=True):
        x0, y0 = max(float(box[0]), 0.0), max(float(box[1]), 0.0)
        x1, y1 = min(float(box[2]), image["width"]), min(float(box[3]), image["height"])
        if score >= LEAST_CONF and x1 > x0 and y1 > y0 and np.isfinite(box).all():
            entries.append(
                {
                    "image_id": image["id"],
                    "category_id": job.category_ids[int(label)],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": float(score),
                }
            )
    return entries


@torch.no_grad()
def predict(job: Job, model: torch.nn.Module, detect) -> list[dict]:
    """`detect(image (1, 3, S, S))` gives boxes, scores, labels as arrays on the padded image."""
    model.eval()
    entries = []
    for image in job.val:
        pixels, _, factors = load(image, job.imgsz)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).float()[None] / 255
        boxes, scores, labels = detect(tensor.to(job.device))
        entries += entries_of(job, image, np.asarray(boxes) / factors, np.asarray(scores), labels)
    return entries


@torch.no_grad()
def gflops(model: torch.nn.Module, forward) -> float:
    """1e9 operations (2 a multiply-accumulate) of `forward(image)` at 800 by 800."""
    device = next(model.parameters()).device
    counter = FlopCounterMode(display=False)
    model.eval()
    with counter:
        forward(torch.zeros(1, 3, COST_IMGSZ, COST_IMGSZ, device=device))
    return counter.get_total_flops() / 1e9


def finish(job: Job, entries: list[dict], *, model, gflops: float, begun: float, **told) -> None:
    """Write dets.json and, last, peer.json."""
    (job.folder / "dets.json").write_text(json.dumps(entries))
    described = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflops": round(gflops, 3),
        "minutes": round((time.monotonic() - begun) / 60, 2),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        **told,
    }
    beside = job.folder / "peer.json.tmp"
    beside.write_text(json.dumps(described))
    beside.replace(job.folder / "peer.json")


def start() -> tuple[Job, float]:
    """The job of this call, with all seeds set."""
    job = Job(Path(sys.argv[1]))
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)
    return job, time.monotonic()


def _define_operators() -> None:
    """Let torchvision be imported: one for CUDA beside a CPU torch lacks its operators."""
    if torch.cuda.is_available():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # The definitions go with the object that made them.
    _KEPT.append(library)


_KEPT: list[torch.library.Library] = []
_define_operators()


def plain_nms(boxes, scores, iou_threshold):
    """Indices kept, best first: stands in where torchvision's own operators are missing."""
    order = torch.argsort(-scores, stable=True)
    boxes = boxes[order]
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    kept = torch.ones(len(order), dtype=torch.bool)
    for at in range(len(order)):
        if kept[at]:
            low = torch.maximum(boxes[at, :2], boxes[at + 1 :, :2])
            high = torch.minimum(boxes[at, 2:], boxes[at + 1 :, 2:])
            inner = (high - low).clamp(min=0).prod(dim=1)
            union = areas[at] + areas[at + 1 :] - inner
            kept[at + 1 :] &= inner <= iou_threshold * union
    return order[kept]
