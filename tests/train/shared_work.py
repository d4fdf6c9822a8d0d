"""Run by `test_ranks.py`, in one process and in several: the same work, shared or not."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch

from rstinynet.data.folder import open_split
from rstinynet.detections import Detections
from rstinynet.model.presets import build
from rstinynet.train import validate as validation
from rstinynet.train.batches import Batches
from rstinynet.train.learner import Learner
from rstinynet.train.overrides import with_overrides
from rstinynet.train.recipe import short


class BrightSpots:
    """Finds what is bright, so that there is something to score without any training."""

    def __init__(self, *_, **__):
        pass

    def detect_batch(self, images, *, conf, max_det):
        return [self.detect(image) for image in images]

    def detect(self, image):
        bright = (image.min(axis=2) > 200).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(bright)
        x, y, w, h, area = stats[1:].T.astype(np.float32)
        boxes = np.stack([x, y, x + w, y + h], axis=1)
        return Detections(boxes, area / 1e4, (w != h).astype(np.int64))


def steps(data, ranks):
    """The losses of six updates, and the weights after them, with the network in float64."""
    changes = {
        "imgsz": 64,
        "batch": 5,
        "nominal_batch": None,
        "optimizer": "sgd",
        "lr0": 1e-3,
        "amp": False,
    }
    recipe = with_overrides(short(), changes | {"mosaic_prob": 0.2})
    torch.manual_seed(0)
    model = build("yolo11n", 2).double()
    learner = Learner(model, recipe, torch.device("cpu"), ranks=ranks)
    learner.hold_backbone(False)
    in_float32 = learner.images
    learner.images = lambda batch: in_float32(batch).double()
    losses = []
    with Batches(open_split(Path(data), "train"), recipe, ranks=ranks) as batches:
        for iteration in range(6):
            batch = batches.make(iteration, mosaic=True)
            losses.append(learner.learn(batch, images=batches.batch))
            learner.update(batch)
    return losses, learner.plain().state_dict()


def scores(data, ranks):
    """A validation's numbers."""
    labelled = open_split(Path(data), "val")
    with mock.patch.object(validation, "Detector", BrightSpots):
        return validation.validate(None, None, labelled, device="cpu", batch=2, ranks=ranks)


def averages(data, ranks):
    """(processes, statistics) of the averaged model where each has norms of its own."""
    recipe = with_overrides(short(), {"imgsz": 64, "batch": 5, "amp": False, "sync_norms": False})
    torch.manual_seed(0)
    learner = Learner(build("yolo11n", 2), recipe, torch.device("cpu"), ranks=ranks)
    learner.hold_backbone(False)
    with Batches(open_split(Path(data), "train"), recipe, ranks=ranks) as batches:
        batch = batches.make(0, mosaic=True)
        learner.learn(batch, images=batches.batch)
        learner.update(batch)
    own = [each.flatten() for each in learner.ema.module.buffers() if each.is_floating_point()]
    return torch.from_numpy(ranks.rows(torch.cat(own).double().numpy()[None]))
