"""What scripts/deepness runs: `expect` where rstinynet is, `check` where only onnxruntime 1.17 is.

`check` does what the plugin does with a detector of type YOLO_Ultralytics: the same session and
keys, values divided by 255, the score of an anchor's best class over the threshold, greedy NMS
without regard to class, boxes cut to whole pixels.
"""

from __future__ import annotations

import json
import sys

import numpy as np

NEEDED = {
    "model_type": "Detector",
    "det_type": "YOLO_Ultralytics",
}


def expect(model: str, wanted: str) -> None:
    """Write a tile of the sample scene, and what our own detector finds on it."""
    from importlib import resources

    import rstinynet
    from rstinynet.data.image import read_rgb

    with resources.as_file(resources.files("rstinynet") / "samples" / "vegas_pan.tif") as scene:
        image = read_rgb(scene)
    detector = rstinynet.load(model)
    side = detector.backend.side
    tile = np.ascontiguousarray(image[-side:, :side])
    found = detector.detect(tile)
    np.savez(wanted, tile=tile, boxes=found.boxes, labels=found.labels, names=detector.names)


def check(model: str, wanted: str) -> None:
    """Read and run the file as the plugin does; ends with an AssertionError where it cannot."""
    import onnxruntime

    assert onnxruntime.__version__.startswith("1.17."), onnxruntime.__version__
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    (output,) = session.get_outputs()
    meta = session.get_modelmeta().custom_metadata_map
    read = {key: json.loads(meta[key]) for key in NEEDED}
    assert read == NEEDED, read
    names = [name for _, name in sorted(json.loads(meta["class_names"]).items(), key=_number)]
    conf, iou = float(json.loads(meta["det_conf"])), float(json.loads(meta["det_iou_thresh"]))
    side = int(json.loads(meta["tile_size"]))
    assert list(entry.shape[-2:]) == [side, side], entry.shape
    assert entry.shape[-3] == 3, entry.shape
    assert isinstance(entry.shape[0], str), "the batch is to be free"
    assert len(output.shape) == 3, output.shape
    assert output.shape[1] == 4 + len(names), output.shape
    mean = np.asarray(json.loads(meta["standardization_mean"]), np.float32)
    deviation = np.asarray(json.loads(meta["standardization_std"]), np.float32)
    assert int(json.loads(meta["tiles_overlap"])) >= 0
    if "resolution" in meta:
        assert float(json.loads(meta["resolution"])) > 0

    with np.load(wanted) as given:
        tile, boxes, labels = given["tile"], given["boxes"], given["labels"]
        assert [str(name) for name in given["names"]] == names
    x = ((tile / 255.0 - mean) / deviation).transpose(2, 0, 1)[None].astype(np.float32)
    # It fills a batch with several tiles.
    outputs = session.run(None, {entry.name: np.concatenate([x, x])})[0]
    assert np.allclose(outputs[0], outputs[1], atol=1e-4)
    found, classes = _found(outputs[0].T, conf, iou)
    assert found.dtype.kind == "i"
    shares = [_overlap(box, found) for box in boxes]
    again = [
        bool(len(s) and s.max() > 0.5 and classes[s.argmax()] == k)
        for s, k in zip(shares, labels, strict=True)
    ]
    print(
        f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}: the plugin's way finds "
        f"{len(found)} objects, ours {len(boxes)}; of ours {sum(again)} are among them (IoU > .5, "
        "same class)"
    )
    assert len(boxes) > 0
    assert sum(again) >= 0.8 * len(boxes)


def _number(item: tuple[str, str]) -> int:
    return int(item[0])


def _found(rows: np.ndarray, conf: float, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (K, 4) in whole pixels and classes (K,) of (A, 4 + C)."""
    scores = rows[:, 4:].max(axis=1)
    rows, scores = rows[scores >= conf], scores[scores >= conf]
    half = rows[:, 2:4] / 2
    corners = np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1)
    left, kept = np.argsort(-scores), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[_overlap(corners[best], corners[left], pixel=1) < iou]
    return corners[kept].astype(int), rows[kept, 4:].argmax(axis=1)


def _overlap(box: np.ndarray, others: np.ndarray, *, pixel: int = 0) -> np.ndarray:
    """IoU of one box with (K, 4); `pixel` 1 counts both ends of a side, as the plugin does."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + pixel
    both = sides.clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2] + pixel).prod(axis=1)
    return both / ((box[2:] - box[:2] + pixel).prod() + areas - both)


if __name__ == "__main__":
    {"expect": expect, "check": check}[sys.argv[1]](*sys.argv[2:])
