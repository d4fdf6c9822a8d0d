"""benchmarks/peers: what workers ask of a peer's library, which a made up one of its name tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
TORCHVISION = {
    "torchvision/__init__.py": "from types import SimpleNamespace\nops = SimpleNamespace()\n",
    "torchvision/extension.py": "def _has_ops():\n    return True\n",
}
ULTRALYTICS = {
    "ultralytics/__init__.py": """
import json
from pathlib import Path
from types import SimpleNamespace
import torch
from ultralytics.utils import nms

__version__ = "1.0"

class Boxes:
    def __init__(self, rows):
        self.xyxy, self.conf, self.cls = rows[:, :4], rows[:, 4], rows[:, 5]
    def cpu(self):
        return self
    numpy = cpu

class Net(torch.nn.Conv2d):
    def __init__(self, *args, **options):
        super().__init__(3, 1, 1)

class YOLO:
    def __init__(self, name):
        print(name)
        self.model = Net()
    def train(self, project=".", **options):
        Path(project, "asked.json").write_text(json.dumps(options))
    def predict(self, pixels, **options):
        found = nms.non_max_suppression(options["conf"], options["iou"])
        return [SimpleNamespace(boxes=Boxes(found.numpy()))]
""",
    "ultralytics/utils/__init__.py": "",
    "ultralytics/utils/nms.py": """
import torch

def non_max_suppression(conf, iou, multi_label=False):
    rows = [[2, 2, 9, 9, 0.6, 0], [2, 2, 9, 9, 0.3, 1]]
    return torch.tensor(rows[: 1 + multi_label])
""",
}
TRANSFORMERS = {
    "transformers/__init__.py": """
import torch

class FrozenBatchNorm2d(torch.nn.Module):
    def __init__(self, count):
        super().__init__()
        self.register_buffer("weight", torch.ones(count))

class Config:
    def __init__(self, **options):
        self.__dict__.update(options)

class Model(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), FrozenBatchNorm2d(5))
        self.backbone.requires_grad_(False)

DetrConfig = DFineConfig = ResNetConfig = RTDetrConfig = Config
DetrForObjectDetection = DFineForObjectDetection = RTDetrForObjectDetection = Model
"""
}


@pytest.fixture
def python(tmp_path):
    """Runs Python with the workers' folder and libraries that are made up; what it printed."""

    def run(libraries, *arguments):
        for name, text in libraries.items():
            path = tmp_path / "libraries" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        paths = os.pathsep.join([str(tmp_path / "libraries"), str(PEERS)])
        command = [sys.executable, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert not done.returncode, done.stderr
        return done.stdout

    return run


@pytest.fixture
def job(tmp_path):
    """The folder of a run of so many epochs over one image, half as high as wide."""
    path = tmp_path / "image.png"
    image = np.zeros((101, 201, 3), np.uint8)
    image[61:, 121:] = (0, 0, 255)
    cv2.imwrite(str(path), image)
    described = {"id": 7, "path": str(path), "width": 201, "height": 101, "labels": [0]}
    described["boxes"] = [[121, 61, 201, 101]]
    content = {"names": ["ship", "vehicle"], "category_ids": [4, 6]}
    content |= {"train": [described], "val": [described]}
    (tmp_path / "data.json").write_text(json.dumps(content))

    def make(epochs, **more):
        values = {"model": "yolo11n", "epochs": epochs, "batch": 1, "imgsz": 64, "seed": 0}
        values |= {"device": "cpu", "described": str(tmp_path / "data.json"), **more}
        (tmp_path / "job.json").write_text(json.dumps(values))
        return tmp_path

    return make


def test_ultralytics_has_mosaics_in_a_short_run_and_is_scored_on_every_class(python, job):
    folder = job(8)
    python(ULTRALYTICS | TORCHVISION, PEERS / "ultralytics_worker.py", folder)
    assert json.loads((folder / "asked.json").read_text())["close_mosaic"] == 1
    entries = json.loads((folder / "dets.json").read_text())
    assert [(entry["category_id"], entry["bbox"]) for entry in entries] == [
        (4, [2, 2, 7, 7]),
        (6, [2, 2, 7, 7]),
    ]


@pytest.mark.parametrize(("epoch", "goes_on"), [(2, True), (7, False), (-1, False)])
def test_ultralytics_goes_on_where_it_was_stopped(python, job, monkeypatch, epoch, goes_on):
    folder = job(8)
    monkeypatch.chdir(folder)
    last = folder / "run" / "weights" / "last.pt"
    last.parent.mkdir(parents=True)
    torch.save({"epoch": epoch}, last)
    # Resumed once before, after its second epoch.
    (folder / "run" / "results.csv").write_text("epoch,time\n1,600\n2,1200\n3,540\n")
    said = python(ULTRALYTICS | TORCHVISION, PEERS / "ultralytics_worker.py", folder)
    asked = folder / "asked.json"
    assert asked.exists() == goes_on
    if goes_on:
        assert json.loads(asked.read_text()) == {"resume": True}
        assert said.startswith(str(last))
    minutes = json.loads((folder / "peer.json").read_text())["minutes"]
    assert 29 <= minutes < 31


def test_nothing_of_transformers_models_is_held_at_random_weights(python):
    told = python(
        TRANSFORMERS,
        "-c",
        "import torch, transformers_worker as worker\n"
        "assert not worker.build('rtdetr', 2, 64).config.freeze_backbone_batch_norms\n"
        "assert not worker.build('dfine', 2, 64).config.freeze_backbone_batch_norms\n"
        "detr = worker.build('detr', 2, 64)\n"
        "print(all(each.requires_grad for each in detr.parameters()), detr.backbone)",
    )
    assert told.startswith("True")
    assert "BatchNorm2d(5" in told


def test_boxes_follow_an_image_whose_sides_are_rounded(python, job):
    # 201 x 101 pixels become 64 x 32, and not 64 x 32.16.
    told = python(
        {},
        "-c",
        "import sys, json, numpy as np, common\n"
        "job = common.Job(__import__('pathlib').Path(sys.argv[1]))\n"
        "pixels, boxes, _ = common.load(job.val[0], job.imgsz)\n"
        "model = __import__('torch').nn.Identity()\n"
        "found = common.predict(job, model, lambda image: (boxes, np.ones(1), np.zeros(1)))\n"
        "print(json.dumps([pixels[:, 60, 0].tolist(), boxes.tolist(), found[0]['bbox']]))",
        job(1),
    )
    column, [box], back = json.loads(told)
    assert column[31:33] == [255, 114]  # red first, then the border
    np.testing.assert_allclose(box[2:], (64, 32), atol=1e-4)
    np.testing.assert_allclose(back, (121, 61, 80, 40), atol=1e-4)
