"""SAHI on one scene, timed in an environment that has it: SCENE TILE OVERLAP BOXES.npy MODEL.

MODEL is `dots`, the stand-in, or weights of rs-tinynet, run by the same detector as ours through an
adapter (then the package must be importable there). Prints a JSON object; saves (N, 5) boxes and
scores. Used by `scene_vs_sahi.py`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from dots import dots
from PIL import Image
from sahi.models.base import DetectionModel
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction

Image.MAX_IMAGE_PIXELS = None


class Adapter(DetectionModel):
    """A function from an image to boxes and scores, as SAHI wants a model to be."""

    find = staticmethod(dots)
    wall = 0.0
    cpu = 0.0

    def check_dependencies(self, *args, **options):
        """Nothing but this file."""

    def load_model(self):
        self.model = self.find
        self.category_mapping = {"0": "object"}

    def set_model(self, model, **options):
        self.model = model

    def perform_inference(self, image):
        start, worked = time.perf_counter(), time.thread_time()
        self._original_predictions = [self.find(image)]
        self.wall += time.perf_counter() - start
        self.cpu += time.thread_time() - worked

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list=None, full_shape_list=None
    ):
        shift = (shift_amount_list or [[0, 0]])[0]
        shift = shift[0] if isinstance(shift[0], list) else shift
        full = (full_shape_list or [None])[0]
        boxes, scores = self._original_predictions[0]
        self._object_prediction_list_per_image = [
            [
                ObjectPrediction(
                    bbox=box,
                    score=score,
                    category_id=0,
                    category_name="object",
                    shift_amount=shift,
                    full_shape=full[0] if full and isinstance(full[0], list) else full,
                )
                for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
            ]
        ]


def peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("VmHWM is not in /proc/self/status")


def main() -> None:
    scene, tile, overlap, out, weights = sys.argv[1:]
    size = int(tile)
    if weights != "dots":
        from rstinynet.scenes.detector import Detector

        detector = Detector.load(weights, device="cpu")

        def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found = detector.detect(np.ascontiguousarray(image))
            return found.boxes, found.scores

        Adapter.find = staticmethod(find)
    model = Adapter(model_path="none", confidence_threshold=0.0, device="cpu")
    model.perform_inference(np.zeros((size, size, 3), np.uint8))
    model.wall = model.cpu = 0.0
    loaded, start, worked = peak(), time.perf_counter(), time.process_time()
    result = get_sliced_prediction(
        scene,
        model,
        slice_height=size,
        slice_width=size,
        overlap_height_ratio=int(overlap) / size,
        overlap_width_ratio=int(overlap) / size,
        perform_standard_pred=False,
        postprocess_type="NMS",
        postprocess_match_metric="IOU",
        postprocess_match_threshold=0.3,
        verbose=0,
    )
    wall, cpu = time.perf_counter() - start, time.process_time() - worked
    rows = [[*p.bbox.to_xyxy(), p.score.value] for p in result.object_prediction_list]
    np.save(out, np.array(rows, np.float32).reshape(-1, 5))
    line = {"wall": wall, "model": model.wall, "cpu": cpu - model.cpu, "found": len(rows)}
    print(json.dumps(line | {"loaded": loaded, "peak": peak()}))


if __name__ == "__main__":
    main()
