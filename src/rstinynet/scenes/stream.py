"""A scene through the detector in bounded memory: read ahead, find, merge row by row."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from rstinynet.detections import Detections, Float32Array
from rstinynet.errors import UsageError
from rstinynet.scenes import windows
from rstinynet.scenes.merge import MERGE_IOU, SeamMerger
from rstinynet.scenes.reader import Mask, Scene, Tile
from rstinynet.scenes.result import Result
from rstinynet.scenes.windows import Window
from rstinynet.suppress import Metric

if TYPE_CHECKING:
    from rstinynet.scenes.detector import Detector

DEFAULT_OVERLAP = 64
"""Pixels that neighbouring tiles share; at least twice the largest tiny object."""
DEFAULT_IOU = 0.6
"""Overlap above which the weaker of two boxes of one class in one tile is dropped."""
DEFAULT_MAX_DET = 1500
"""Most objects of one tile, as AI-TOD's protocol counts them."""
READ_AHEAD = 3
"""Tiles read while the detector works."""
GPU_BATCH = 8
"""Tiles of one forward pass where there is a GPU."""
MOSTLY = 0.5
"""A box with less than this share of valid pixels is dropped."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    """How to search an image or scene. What is None comes from the weights' metadata."""

    conf: float | None = None
    """Lowest confidence reported."""
    iou: float = DEFAULT_IOU
    """Overlap above which the weaker of two boxes of one class in one tile is dropped."""
    max_det: int = DEFAULT_MAX_DET
    """Most objects of one tile."""
    tile: int | None = None
    """Side of a tile in pixels of the source."""
    overlap: int = DEFAULT_OVERLAP
    """Pixels that neighbouring tiles share."""
    scale: float | None = None
    """Factor by which tiles are resized before the model sees them."""
    bands: Sequence[int] | None = None
    """Three bands as red, green, blue, or one that is repeated; counted from 1."""
    classes: Sequence[str] | None = None
    """Names of the classes to report."""
    metric: Metric = "iou"
    """What decides that boxes of two tiles are one object."""
    merge_iou: float = MERGE_IOU
    """And above which value of it."""

    def __post_init__(self) -> None:
        for name, value in (("conf", self.conf), ("iou", self.iou), ("merge_iou", self.merge_iou)):
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} must lie in [0, 1], not {value}")
        if self.max_det < 1:
            raise UsageError(f"max_det must be at least 1, not {self.max_det}")
        if self.tile is not None and self.tile < 32:
            raise UsageError(f"tile must be at least 32 pixels, not {self.tile}")
        if self.scale is not None and not 0 < self.scale <= 16:
            raise UsageError(f"scale must be over 0 and at most 16, not {self.scale}")
        if self.metric not in ("iou", "ios"):
            raise UsageError(f"metric must be 'iou' or 'ios', not {self.metric!r}")

    def used_overlap(self, detector: Detector) -> int:
        """The overlap in pixels; the default becomes less where tiles are small."""
        if self.overlap != DEFAULT_OVERLAP:
            return self.overlap
        return min(self.overlap, (self.tile or detector.metadata.imgsz) // 2)


def predict(
    detector: Detector,
    source: str | Path | npt.NDArray[Any],
    options: PredictOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Result:
    """Objects of an image, a scene or an array; see `Detector.predict`.

    `progress(done, total)` is told the number of tiles.
    """
    options = options or PredictOptions()
    wanted = wanted_labels(detector.names, options.classes)
    open_scene = partial(Scene, source, bands=options.bands, scaling=detector.metadata.scaling)
    with open_scene() as scene:
        found = _search(detector, scene, options, wanted, progress or _silent)
        return Result(
            detections=found.sorted_by_score(),
            class_names=detector.names,
            category_ids=tuple(detector.metadata.category_ids),
            source=scene.source.name,
            size=(scene.width, scene.height),
            crs=scene.source.crs,
            transform=scene.source.transform,
            notes=scene.source.notes,
            open_scene=open_scene,
        )


def wanted_labels(
    names: Sequence[str], classes: Sequence[str] | None
) -> npt.NDArray[np.int64] | None:
    """Labels of the classes named; None for all. UsageError for a class there is not."""
    if classes is None:
        return None
    labels = []
    for name in classes:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            known = ", ".join(names)
            raise UsageError(f"no class {name!r}: {hint}the model's are {known}")
        labels.append(names.index(name))
    return np.array(labels, np.int64)


def _search(
    detector: Detector,
    scene: Scene,
    options: PredictOptions,
    wanted: npt.NDArray[np.int64] | None,
    progress: Progress,
) -> Detections:
    tile = options.tile or detector.metadata.imgsz
    overlap = options.used_overlap(detector)
    grid = {"tile": tile, "overlap": overlap}
    total = windows.count(scene.width, scene.height, **grid)
    merger = SeamMerger(
        scene.width,
        scene.height,
        margin=overlap / 4,
        iou=options.merge_iou,
        metric=options.metric,
    )
    settled: list[Detections] = []
    done, top = 0, 0
    flat = (window for row in windows.rows(scene.width, scene.height, **grid) for window in row)
    batch = GPU_BATCH if detector.device.type == "cuda" else 1
    progress(0, total)
    for group in _groups(_ahead(scene, flat, READ_AHEAD + batch), batch):
        useful = [(w, t) for w, t in group if t.valid is None or t.valid.any()]
        results = detector.detect_batch(
            [tile_.image for _, tile_ in useful],
            conf=options.conf,
            iou=options.iou,
            max_det=options.max_det,
            scale=options.scale,
        )
        for (window, tile_), raw in zip(useful, results, strict=True):
            if window.y > top:
                settled.append(merger.settle(window.y))
                top = window.y
            found = raw if wanted is None else raw[np.isin(raw.labels, wanted)]
            merger.add(window, found[_on_data(found.boxes, tile_.valid)])
        done += len(group)
        progress(done, total)
    return Detections.concatenate([*settled, merger.settle()])


def _ahead(scene: Scene, todo: Iterable[Window], depth: int) -> Iterator[tuple[Window, Tile]]:
    """Windows with their pixels, in order, read in one thread up to `depth` ahead."""
    waiting: deque[tuple[Window, Future[Tile]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        try:
            for window in todo:
                waiting.append((window, pool.submit(scene.read, window)))
                if len(waiting) > depth:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _groups(items: Iterable[tuple[Window, Tile]], size: int) -> Iterator[list[tuple[Window, Tile]]]:
    group: list[tuple[Window, Tile]] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _on_data(boxes: Float32Array, valid: Mask | None) -> npt.NDArray[np.bool_]:
    """(N,) which boxes lie mostly on valid pixels."""
    if valid is None or not len(boxes):
        return np.ones(len(boxes), bool)
    height, width = valid.shape
    sums = cv2.integral(valid.astype(np.uint8))
    x0, y0 = (
        np.floor(boxes[:, i]).clip(0, n - 1).astype(int) for i, n in ((0, width), (1, height))
    )
    x1 = np.maximum(np.ceil(boxes[:, 2]).clip(0, width).astype(int), x0 + 1)
    y1 = np.maximum(np.ceil(boxes[:, 3]).clip(0, height).astype(int), y0 + 1)
    inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return np.asarray(inside >= MOSTLY * (x1 - x0) * (y1 - y0))


def _silent(done: int, total: int) -> None:
    """Progress that nobody asked for."""
