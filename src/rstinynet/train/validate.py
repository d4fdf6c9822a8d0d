"""Validation in training: the public detector and the public evaluation, nothing of its own."""

from __future__ import annotations

from dataclasses import replace

from rstinynet.data.annotations import LabelledSet
from rstinynet.evaluate.coco import Evaluation, evaluate
from rstinynet.evaluate.run import find_objects
from rstinynet.model.detector import DetectorModel
from rstinynet.model.weights import WeightsMetadata
from rstinynet.scenes.detector import Detector

LOWEST_CONF = 0.001
"""Average precision integrates over confidences, so nearly all detections are needed."""


def validate(
    model: DetectorModel,
    metadata: WeightsMetadata,
    labelled: LabelledSet,
    *,
    device: str,
    images: int | None = None,
) -> Evaluation:
    """AI-TOD's numbers of `model` on the first `images` images of `labelled`, or on all."""
    detector = Detector(model, metadata, device=device)
    chosen = replace(labelled, images=labelled.images[:images])
    found = find_objects(lambda batch: detector.detect_batch(batch, conf=LOWEST_CONF), chosen)
    return evaluate(chosen, found)
