"""Whether an exported model gives what its weights give: raw outputs, and AP where there is data.

Float: the largest difference over every anchor. Half precision and INT8 round, so single anchors
may differ much; there the scores of all anchors are held to a mean, and AP to a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from rstinynet.boxes import pairwise_iou
from rstinynet.data.annotations import LabelledSet
from rstinynet.detections import Detections, Float32Array
from rstinynet.errors import ExportError
from rstinynet.evaluate.classes import match_classes
from rstinynet.evaluate.coco import MAX_DET, Evaluation, evaluate
from rstinynet.evaluate.run import detector_cap, find_objects
from rstinynet.model.decode import decode
from rstinynet.model.detector import DetectorModel
from rstinynet.scenes.detector import Detector

Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a difference may be."""

    boxes_px: float | None
    """Largest of a side of a box, pixels of the input; None: not asked."""
    scores_max: float | None
    """Largest of a score; None: not asked."""
    scores_mean: float
    """Mean over all scores."""
    ap: float
    """Loss of AP, in [0, 1]."""
    object_score: float = 0.01
    """How far above the confidence an object of one must score to be missed from the other."""
    noise_scores_mean: float | None = None
    """Another `scores_mean` on noise: eight bits have no room for what calibration never saw."""


TOLERANCES: dict[Precision, Tolerance] = {
    "float32": Tolerance(boxes_px=0.05, scores_max=1e-3, scores_mean=1e-5, ap=0.001),
    "float16": Tolerance(
        boxes_px=None, scores_max=0.05, scores_mean=1e-3, ap=0.002, object_score=0.05
    ),
    "int8": Tolerance(
        boxes_px=None, scores_max=None, scores_mean=0.01, ap=0.01, noise_scores_mean=0.1
    ),
}


def torch_output(model: DetectorModel, x_BCHW: Float32Array) -> Float32Array:
    """(B, 4 + C, A) xywh and scores of a torch model, as an exported one gives them."""
    with torch.inference_mode():
        boxes, scores = decode(model(torch.from_numpy(x_BCHW)).main, model.strides)
    low, high = boxes[..., :2], boxes[..., 2:]
    whole = torch.cat([(low + high) / 2, high - low, scores], dim=-1).transpose(1, 2)
    return np.asarray(whole.numpy(), np.float32)


def compare(
    wanted: Float32Array,
    got: Float32Array,
    *,
    precision: Precision,
    where: str,
    noise: bool = False,
) -> dict[str, float]:
    """The differences; ExportError beyond the tolerance of `precision`, on `noise` its own."""
    if wanted.shape != got.shape:
        raise ExportError(f"{where}: the output is {got.shape}, and torch's is {wanted.shape}")
    apart = np.abs(wanted - got)
    if not np.isfinite(apart).all():
        raise ExportError(f"{where}: the output has values that are not finite")
    found = {
        "boxes_px_max": float(apart[:, :4].max()),
        "scores_max": float(apart[:, 4:].max()),
        "scores_mean": float(apart[:, 4:].mean()),
    }
    allowed = TOLERANCES[precision]
    on_noise = allowed.noise_scores_mean if noise else None
    limits = {
        "boxes_px_max": allowed.boxes_px,
        "scores_max": allowed.scores_max,
        "scores_mean": allowed.scores_mean if on_noise is None else on_noise,
    }
    for name, limit in limits.items():
        if limit is not None and found[name] > limit:
            raise ExportError(
                f"{where}: the exported model does not equal its weights: {name} is "
                f"{found[name]:.2g}, and {limit:g} is the most for {precision}"
            )
    return found


def compare_objects(
    wanted: Detections, got: Detections, *, conf: float, iou: float, precision: Precision
) -> dict[str, int]:
    """With NMS inside: how many objects both have, and how many of one the other lacks.

    An object is lacking where none of its class overlaps it as much as NMS takes for one object:
    of boxes that score the same, NMS may keep any. ExportError beyond 2 %.
    """
    sure = conf + TOLERANCES[precision].object_score
    lacking = sum(
        int((one.scores[alone] >= sure).sum())
        for one, alone in (
            (wanted, _without_partner(wanted, got, iou=iou)),
            (got, _without_partner(got, wanted, iou=iou)),
        )
    )
    if lacking > 0.02 * max(len(wanted), 50):
        raise ExportError(
            f"with NMS inside {len(got)} objects are found where the weights find {len(wanted)}, "
            f"and {lacking} of them only by one of the two"
        )
    return {"objects": len(got), "objects_before": len(wanted), "objects_lacking": lacking}


def check_suppressed(rows: Float32Array, *, iou: float, where: str) -> None:
    """That NMS inside the graph did its work, which a `Detector` would do once more.

    `rows` are (K, 7): image, corners in pixels, score, class. ExportError where two of a class
    overlap by more than `iou`.
    """
    for image, label in np.unique(rows[:, [0, 6]], axis=0):
        boxes = rows[(rows[:, 0] == image) & (rows[:, 6] == label), 1:5]
        most = float(np.triu(pairwise_iou(boxes, boxes), 1).max(initial=0))
        if most > iou + 0.01:
            raise ExportError(
                f"{where}: boxes of one class overlap by {most:.2f}, and {iou:g} is the most that "
                "NMS inside should leave"
            )


def _without_partner(one: Detections, other: Detections, *, iou: float) -> npt.NDArray[np.bool_]:
    """(N,) of `one`: none of its class in `other` overlaps it so much, but for rounding."""
    same = one.labels[:, None] == other.labels[None, :]
    near = pairwise_iou(one.boxes, other.boxes) >= iou - 0.01
    return np.asarray(~(same & near).any(axis=1), np.bool_)


def average_precision(detector: Detector, labelled: LabelledSet) -> float:
    """AP of a detector on a labelled split, as `rstinynet val` measures it."""
    return float(evaluation(detector, labelled).as_dict()["ap"])


def evaluation(detector: Detector, labelled: LabelledSet) -> Evaluation:
    """All numbers of a detector on a labelled split, as `rstinynet val` measures them."""
    match = match_classes(detector.names, data_names=labelled.names)
    cap = detector_cap(MAX_DET)
    found = find_objects(
        lambda images: detector.detect_batch(images, conf=0.001, max_det=cap), labelled
    )
    translated = {at: match.translate(one) for at, one in found.items()}
    return evaluate(labelled, translated)


def compare_ap(
    before: float, after: float, *, precision: Precision, where: Path
) -> dict[str, float]:
    """AP of the weights and of the file; ExportError where more is lost than allowed."""
    limit = TOLERANCES[precision].ap
    if before - after > limit:
        raise ExportError(
            f"{where}: AP is {after:.4f}, and {before:.4f} before the export; {limit:g} is the "
            f"most that {precision} may lose. Calibrate on more images like those it is for, or "
            "export in float"
        )
    return {"ap_before": before, "ap_after": after}


def inputs(images: Sequence[Any], *, imgsz: int) -> Float32Array:
    """(B, 3, S, S) of RGB images cut, or padded with grey, to the model's square."""
    x = np.full((len(images), imgsz, imgsz, 3), 114, np.uint8)
    for slot, image in zip(x, images, strict=True):
        part = image[:imgsz, :imgsz]
        slot[: part.shape[0], : part.shape[1]] = part
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2).astype(np.float32) / 255)
