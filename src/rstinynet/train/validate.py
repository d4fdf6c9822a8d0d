"""Validation in training: the public detector and evaluation, on one or more processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import LabelledSet
from rstinynet.detections import Detections
from rstinynet.evaluate.coco import MAX_DET, evaluate
from rstinynet.evaluate.run import detector_cap, find_objects, fitting
from rstinynet.model.detector import DetectorModel
from rstinynet.model.weights import WeightsMetadata
from rstinynet.scenes.detector import Detector
from rstinynet.train.ranks import ALONE, Ranks

LOWEST_CONF = 0.001
"""Average precision integrates over confidences, so nearly all detections are needed."""
Measured = dict[str, Any]
"""An evaluation as `Evaluation.as_dict` gives it."""


def validate(
    model: DetectorModel,
    metadata: WeightsMetadata,
    labelled: LabelledSet,
    *,
    device: str,
    batch: int = 1,
    fit: int | None = None,
    ranks: Ranks = ALONE,
) -> Measured:
    """AI-TOD's numbers of `model` on `labelled`, the same on every process.

    The longer side of each image is resized to `fit` pixels, as letterbox training does; without
    it all are resized by the weights' factor.
    Groups of up to `batch` images are dealt out to the processes; which images go together does
    not depend on their number. The lead scores what all have found.
    """
    detector = Detector(model, metadata, device=device)
    cap = detector_cap(MAX_DET)
    search = partial(detector.detect_batch, conf=LOWEST_CONF, max_det=cap)
    found = find_objects(
        search if fit is None else fitting(search, side=fit),
        labelled,
        batch=batch,
        share=(ranks.rank, ranks.world),
    )
    if ranks.world == 1:
        return evaluate(labelled, found).as_dict()
    everything = _detections(ranks.rows(_rows(found)))
    measured: Measured = ranks.from_lead(
        evaluate(labelled, everything).as_dict() if ranks.leads else None
    )
    return measured


def spaced_images(labelled: LabelledSet, images: int | None) -> LabelledSet:
    """So many images of the set, evenly spaced and in its order; all for None or too many.

    The first ones would be of one class in a set that is sorted by class, and of one scene in one
    that is sorted by scene.
    """
    whole = len(labelled)
    if images is None or images >= whole:
        return labelled
    return replace(
        labelled, images=tuple(labelled.images[at * whole // images] for at in range(images))
    )


def with_objects(labelled: LabelledSet, count: int | None) -> LabelledSet:
    """So many of the images that have objects, as `spaced_images`; all of these for None."""
    some = tuple(image for image in labelled.images if (~image.crowd).any())
    return spaced_images(replace(labelled, images=some), count)


def images_at_once(
    labelled: LabelledSet, *, pixels: int, scale: float = 1.0, fit: int | None = None
) -> int:
    """How many of the largest images have no more than so many `pixels` once resized."""
    areas = [
        image.width
        * image.height
        * (scale if fit is None else fit / max(image.width, image.height)) ** 2
        for image in labelled.images
    ]
    return max(1, int(pixels // max([1.0, *areas])))


def _rows(found: Mapping[int, Detections]) -> npt.NDArray[np.float64]:
    """(N, 7) image id, box, score, label: exact in float64."""
    parts = [
        np.column_stack([np.full(len(each), image), each.boxes, each.scores, each.labels])
        for image, each in found.items()
    ]
    return np.concatenate([np.zeros((0, 7)), *parts])


def _detections(rows_N7: npt.NDArray[np.float64]) -> dict[int, Detections]:
    """The inverse of `_rows`; images without detections are left out."""
    rows_N7 = rows_N7[np.argsort(rows_N7[:, 0], kind="stable")]
    ids, starts = np.unique(rows_N7[:, 0], return_index=True)
    return {
        int(id_): Detections(
            part[:, 1:5].astype(np.float32), part[:, 5].astype(np.float32), part[:, 6].astype(int)
        )
        for id_, part in zip(ids, np.split(rows_N7, starts[1:]), strict=True)
    }
