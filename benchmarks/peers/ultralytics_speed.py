"""Run by `deploy_speed.py` inside the peer's own environment; never imported by the package.

Reads one JSON object a line from stdin and answers each with one JSON line on stdout. "export":
{folder, scale, classes, imgsz, image} writes what is not there yet of peer.pt, peer.onnx,
peer_openvino_model and peer_int8_openvino_model from in.safetensors, a state in the peer's names.
"open": {name, path, imgsz, image, threads, conf, iou, max_det}; "search": name; "close": true.
"""

import importlib.metadata
import json
import os
import shutil
import sys
import time
from pathlib import Path

import common  # noqa: F401  first: it lets torchvision be imported
import cv2
import numpy as np
import torch
import torchvision
from safetensors.torch import load_file
from torchvision.extension import _has_ops
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

OPENED = {}


def plain_nms(boxes, scores, iou_threshold):
    """OpenCV's, where torchvision's operators are missing: compiled too, and no slower."""
    xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).numpy()
    kept = cv2.dnn.NMSBoxes(xywh, scores.numpy(), 0.0, iou_threshold)
    return torch.from_numpy(np.asarray(kept, np.int64).reshape(-1))


if not _has_ops():
    torchvision.ops.nms = plain_nms


def export(job):
    """Files of every runtime, made by the peer's own exporter."""
    folder = Path(job["folder"])
    weights = folder / "peer.pt"
    if not weights.exists():
        model = DetectionModel(f"yolo11{job['scale']}.yaml", nc=job["classes"], verbose=False)
        model.load_state_dict(load_file(folder / "in.safetensors"), strict=True)
        model.args = {"task": "detect", "imgsz": job["imgsz"]}
        torch.save({"epoch": -1, "ema": None, "model": model, "optimizer": None}, weights)
    if not (folder / "peer.onnx").exists():
        YOLO(str(weights)).export(format="onnx", imgsz=job["imgsz"])
    if not (folder / "peer_openvino_model").exists():
        YOLO(str(weights)).export(format="openvino", imgsz=job["imgsz"])
    if not (folder / "peer_int8_openvino_model").exists():
        pictures = folder / "images"
        pictures.mkdir(exist_ok=True)
        for number in range(4):
            shutil.copy(job["image"], pictures / f"{number}{Path(job['image']).suffix}")
        names = {at: f"class {at}" for at in range(job["classes"])}
        text = {"path": str(folder), "train": "images", "val": "images", "names": names}
        (folder / "data.yaml").write_text(json.dumps(text))
        YOLO(str(weights)).export(
            format="openvino", imgsz=job["imgsz"], int8=True, data=str(folder / "data.yaml")
        )
    return {}


def open_model(job):
    """A model with its predictor set up; told is what OpenVINO computes in."""
    model = YOLO(job["path"], task="detect")
    options = {name: job[name] for name in ("imgsz", "conf", "iou", "max_det")} | {
        "device": "cpu",
        "verbose": False,
        "source": job["image"],
    }
    model.predict(**options)
    torch.set_num_threads(job["threads"])  # choosing a device may have changed it
    OPENED[job["name"]] = (model, options)
    backend = model.predictor.model
    compiled = getattr(backend, "ov_compiled_model", None)
    compiled = compiled or getattr(getattr(backend, "backend", None), "ov_compiled_model", None)
    precision = None
    if compiled is not None:
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return {"precision": precision}


def search(name):
    """From file to boxes; the share of the model as the peer itself tells it."""
    model, options = OPENED[name]
    begun = time.perf_counter()
    [found] = model.predict(**options)
    boxes = found.boxes.data.cpu().numpy()
    whole = 1000 * (time.perf_counter() - begun)
    return {
        "model": found.speed["inference"],
        "whole": whole,
        "objects": len(boxes),
        "boxes": boxes.tolist(),
    }


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the peer prints is no answer
    for line in sys.stdin:
        job = json.loads(line)
        if "export" in job:
            answer = export(job["export"])
        elif "open" in job:
            answer = open_model(job["open"])
        elif "search" in job:
            answer = search(job["search"])
        else:
            OPENED.clear()
            answer = {}
        answer["version"] = importlib.metadata.version("torch")
        answer["operators"] = bool(_has_ops())
        print(json.dumps(answer), file=answers, flush=True)


main()
