"""The public face of a trained model: an image or a scene in, objects out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from rstinynet import boxes as box
from rstinynet.agree import agreed
from rstinynet.detections import Detections
from rstinynet.errors import UsageError
from rstinynet.evaluate.calibration import before_temperature, tempered
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.runtime.backend import Backend, RuntimeOptions
from rstinynet.runtime.opening import open_model
from rstinynet.scenes.options import LEAST_TILE
from rstinynet.scenes.result import Result
from rstinynet.scenes.stream import DEFAULT_IOU, DEFAULT_MAX_DET, PredictOptions, predict
from rstinynet.scenes.views import check_views, scales_of, seen, unseen
from rstinynet.suppress import suppress

if TYPE_CHECKING:
    from rstinynet.model.detector import DetectorModel

DEFAULT_MODEL = "rs-tinynet-lite"
"""The shipped weights that are used where none are named."""
PAD_VALUE = 114
"""Grey level of the border that brings an image to a multiple of the largest stride."""

_PILLOW_MODES = ("L", "LA", "RGB", "RGBA", "RGBX", "I", "F", "I;16", "I;16L", "I;16B")
"""Modes of Pillow's images whose first bands are grey, or red, green and blue."""
_MOST_BANDS = 16
"""An array of no more rows and of more bands has its bands first, as rasterio and torch have."""

Image = npt.NDArray[np.uint8]


class Detector:
    """A model ready to find objects, with the metadata that its weights carry."""

    device: str
    """What the model runs on, in its runtime's words: "cpu", "cuda:0", ..."""
    batch: int = 1
    """Tiles of a scene in one forward pass."""

    def __init__(
        self,
        model: DetectorModel | Backend,
        metadata: WeightsMetadata,
        *,
        device: str | None = None,
    ) -> None:
        """Take a backend as it is; fuse a torch `model` and move it to `device` ("cuda:1", ...).

        Without `device` a GPU is used where torch sees one. Raises UsageError for a device that
        torch does not have.
        """
        self.metadata = metadata
        self.backend: Backend = _backend(model, device)
        self.device = self.backend.device
        self.batch = self.backend.batch

    @classmethod
    def load(
        cls,
        path_or_name: str | Path | Sequence[str | Path] = DEFAULT_MODEL,
        *,
        device: str | None = None,
        options: RuntimeOptions | None = None,
    ) -> Detector:
        """The detector of weights shipped under a name, of a weights file or an exported model.

        Of several, a sequence or names separated by commas, it is what they agree on
        (`rstinynet.runtime.ensemble`). Raises WeightsError where there are no such weights, or they
        cannot be used or not together, ExportError for an exported model that cannot be run,
        UsageError for a device that is not there.
        """
        backend, metadata = open_model(path_or_name, device=device, options=options)
        return cls(backend, metadata)

    @property
    def model(self) -> DetectorModel:
        """The fused torch model; UsageError where another runtime runs it."""
        model: DetectorModel | None = getattr(self.backend, "model", None)
        if model is None:
            raise UsageError(
                "this detector is run without torch, or has several models: it has no torch model"
            )
        return model

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, by label."""
        return tuple(self.metadata.names)

    def detect(
        self,
        image_HWC: Image,
        *,
        conf: float | None = None,
        iou: float = DEFAULT_IOU,
        max_det: int = DEFAULT_MAX_DET,
        scale: float | Sequence[float] | None = None,
        tta: int = 1,
    ) -> Detections:
        """Objects of one uint8 RGB image (H, W, 3), in one forward pass, best first.

        The image is resized by `scale` (default: the weights'), padded at the right and bottom,
        and boxes are mapped back and cut to the image. `conf` defaults to the weights' own
        threshold, by class where they have one. With `tta` 2, 4 or 8, as many views of the image
        (mirrored, with 8 also turned) are searched, and the scores are their mean; of several
        scales each is searched in all of them, and all count alike.
        """
        return self.detect_batch(
            [image_HWC], conf=conf, iou=iou, max_det=max_det, scale=scale, tta=tta
        )[0]

    def detect_batch(
        self,
        images: Sequence[Image],
        *,
        conf: float | None = None,
        iou: float = DEFAULT_IOU,
        max_det: int = DEFAULT_MAX_DET,
        scale: float | Sequence[float] | None = None,
        tta: int = 1,
    ) -> list[Detections]:
        """`detect` for several images of one size, in one forward pass for each view."""
        check_views(tta)
        # The options' own checks, for what both have.
        PredictOptions(conf=conf, iou=iou, max_det=max_det)
        if not len(images):
            return []
        height, width = _size(images)
        scales = scales_of(self.metadata.scale if scale is None else scale)
        lowest, by_class = self._thresholds(conf)
        if tta > 1 or len(scales) > 1:
            every = self._seen_all_ways(images, tta, scales, conf=lowest, iou=iou, max_det=max_det)
            least = np.full(len(self.names), lowest) if by_class is None else by_class
            return [
                suppress(each[each.scores > least[each.labels]], iou=iou, max_det=max_det)
                for each in every
            ]
        factor, side = scales[0], self.backend.side
        if side is not None and round(max(height, width) * factor) > side:
            if side / factor < LEAST_TILE:
                raise UsageError(
                    f"at a scale of {factor:g} this model's {side} pixels show less than "
                    f"{LEAST_TILE} of the image: choose a scale of at most {side / LEAST_TILE:g}"
                )
            tiled = PredictOptions(
                conf=conf, iou=iou, max_det=max_det, scale=factor, tile=int(side / factor)
            )
            found = (predict(self, image, tiled).detections for image in images)
            return [one.sorted_by_score()[:max_det] for one in found]
        batch, factors = self._prepare(images, factor)
        temperature = self.metadata.temperature
        results = []
        for raw in self.backend.find(batch, conf=before_temperature(lowest, temperature)):
            if temperature != 1:
                scores = tempered(raw.scores, temperature).astype(np.float32)
                raw = Detections(raw.boxes, scores, raw.labels)[scores > lowest]
            back = box.clip(raw.boxes / factors, width=width, height=height)
            raw = Detections(back.astype(np.float32), raw.scores, raw.labels)
            useful = (box.area(raw.boxes) > 0) & np.isfinite(raw.boxes).all(axis=1)
            if by_class is not None:
                useful &= raw.scores > by_class[raw.labels]
            results.append(suppress(raw[useful], iou=iou, max_det=max_det))
        return results

    def predict(self, source: str | Path | npt.NDArray[Any], **options: Any) -> Result:
        """Objects of an image file, a scene of any size or an array (H, W) or (H, W, bands).

        An array may be of any kind that numpy can see as one (Pillow's images, tensors on the CPU).
        What is larger than a tile is read and searched tile by tile in bounded memory. `options`
        are the fields of `rstinynet.scenes.options.PredictOptions`: conf, iou, max_det, tile,
        overlap, scale, tta, bands, classes, sizes and more. Raises DataError for a source that
        cannot be read, UsageError for an option that makes no sense.
        """
        try:
            chosen = PredictOptions(**options)
        except TypeError as error:
            known = ", ".join(PredictOptions.__dataclass_fields__)
            raise UsageError(f"predict takes the options {known}; {error}") from error
        return predict(self, _source(source), chosen)

    def _seen_all_ways(
        self,
        images: Sequence[Image],
        tta: int,
        scales: Sequence[float],
        *,
        conf: float,
        **options: Any,
    ) -> list[Detections]:
        """What `tta` views of each image at each scale agree on.

        A mean above `conf` needs also what some views score below it. What even this leaves out
        would add less than `conf` from all views together.
        """
        height, width = images[0].shape[:2]
        parts: list[list[Detections]] = [[] for _ in images]
        least = conf / (tta * len(scales))
        for view, scale in product(range(tta), scales):
            turned = [seen(image, view) for image in images]
            found = self.detect_batch(turned, conf=least, scale=scale, **options)
            for part, one in zip(parts, found, strict=True):
                back = unseen(one.boxes, view, width=width, height=height)
                part.append(Detections(back, one.scores, one.labels))
        return [agreed(part) for part in parts]

    def _prepare(self, images: Sequence[Image], factor: float) -> tuple[Image, npt.NDArray[Any]]:
        """Padded images (B, H, W, 3), and by how much x and y were really stretched, as (4,)."""
        height, width = images[0].shape[:2]
        new_w, new_h = max(1, round(width * factor)), max(1, round(height * factor))
        unit = self.backend.side or self.backend.multiple
        padded = (-(-new_h // unit) * unit, -(-new_w // unit) * unit)
        canvas = np.full((len(images), *padded, 3), PAD_VALUE, np.uint8)
        for slot, image in zip(canvas, images, strict=True):
            if (new_h, new_w) != (height, width):
                way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
                slot[:new_h, :new_w] = cv2.resize(image, (new_w, new_h), interpolation=way)
            else:
                slot[:new_h, :new_w] = image
        stretch = np.array([new_w / width, new_h / height] * 2, np.float64)
        return canvas, stretch

    def _thresholds(self, conf: float | None) -> tuple[float, npt.NDArray[np.float32] | None]:
        if conf is not None:
            return conf, None
        own = self.metadata.class_conf
        if own is None:
            return self.metadata.conf, None
        return min(own), np.asarray(own, np.float32)


def _size(images: Sequence[Image]) -> tuple[int, int]:
    for image in images:
        if not isinstance(image, np.ndarray):
            raise UsageError(
                f"an image must be a uint8 array (H, W, 3), not {type(image).__name__}; `predict` "
                "takes other kinds of arrays, and paths"
            )
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise UsageError(
                f"an image must be a uint8 array (H, W, 3), not {image.dtype} {image.shape}; "
                "use predict, which scales other types and chooses bands"
            )
        if image.shape != images[0].shape:
            raise UsageError(
                f"images of one batch must have one size, not {images[0].shape}, {image.shape}"
            )
    height, width = images[0].shape[:2]
    return height, width


def _source(source: Any) -> str | Path | npt.NDArray[Any]:
    """A path, or anything else as the array that it can be seen as. UsageError for what is none."""
    if isinstance(source, str | Path):
        return source
    if isinstance(source, os.PathLike):
        return Path(source)
    mode = getattr(source, "mode", None)
    if isinstance(mode, str) and mode not in _PILLOW_MODES:
        raise UsageError(
            f"an image of Pillow's mode {mode} holds no levels of grey or of red, green and blue: "
            "give image.convert('RGB')"
        )
    if not hasattr(source, "__array__") and not hasattr(source, "__array_interface__"):
        raise UsageError(
            f"a source is a path or an array (H, W) or (H, W, bands), not a {type(source).__name__}"
        )
    try:
        array = source if isinstance(source, np.ma.MaskedArray) else np.asarray(source)
    except (TypeError, ValueError, RuntimeError) as error:  # of tensors that are elsewhere
        raise UsageError(f"this {type(source).__name__} is no array in memory: {error}") from error
    if array.ndim == 3 and array.shape[0] <= _MOST_BANDS < array.shape[2]:
        raise UsageError(
            f"an array {array.shape} would be an image of {array.shape[0]} rows and "
            f"{array.shape[2]} bands; bands come last: give np.moveaxis(array, 0, -1)"
        )
    return array


def _backend(model: Any, device: str | None) -> Backend:
    if hasattr(model, "find"):
        ready: Backend = model
        return ready
    from rstinynet.runtime.torch_backend import TorchBackend

    return TorchBackend(model, device=device)
