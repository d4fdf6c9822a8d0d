"""The one thing that inference asks of a runtime, in numpy alone.

Shape legend: B images, H and W pixels, A anchors, C classes, K objects.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

import numpy as np
import numpy.typing as npt

from rstinynet.detections import Detections, Float32Array
from rstinynet.errors import ExportError, UsageError

Images = npt.NDArray[np.uint8]
Precision = Literal["float32", "bfloat16", "float16"]
"""What the network is computed in; boxes are decoded in float32 whatever it is."""
MAX_CANDIDATES = 30_000
"""Most candidates of one image, so that a very low threshold cannot exhaust memory."""
NMS_COLUMNS = 7
"""Of the output of a model with NMS inside: image, x1, y1, x2, y2, score, class."""

NMS_CONF = 0.001
"""Of such a model: what scores no more is not in its output, whatever is asked."""


class Backend(Protocol):
    """A model that is ready to run, whatever runs it."""

    @property
    def device(self) -> str:
        """What it runs on, in the runtime's own words: "cpu", "cuda:0", ..."""

    @property
    def batch(self) -> int:
        """Images of one size that are worth a forward pass together."""

    @property
    def multiple(self) -> int:
        """What the sides of its input must be multiples of."""

    @property
    def side(self) -> int | None:
        """The side of the square input, where it has one size only."""

    @property
    def precision(self) -> Precision | None:
        """What the network is computed in; None where that is the file's own choice."""

    def digest(self) -> str:
        """A hash of the whole model, to tell whether a search goes on with the same."""

    def find(self, images_BHWC: Images, *, conf: float) -> list[Detections]:
        """For each RGB image every (anchor, class) that scores over `conf`, best first.

        Boxes are in pixels of the images given; overlaps remain, unless NMS is in the model.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """How a model is run. None is the runtime's own choice."""

    threads: int | None = None
    """Threads of one forward pass."""
    providers: tuple[str, ...] | None = None
    """ONNX Runtime's execution providers, the preferred first."""
    batch: int | None = None
    """Tiles of a scene in one forward pass."""
    precision: Precision = "float32"
    """Less is faster where the processor has it, and moves scores and boxes a little."""

    def __post_init__(self) -> None:
        as_precision(self.precision)
        check_threads(self.threads)
        if isinstance(self.providers, str):
            raise UsageError(
                "providers must be a tuple of names, the preferred first, such as ('cuda', 'cpu'), "
                f"not {self.providers!r}"
            )
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch must be at least 1, not {self.batch}")


def check_threads(threads: int | None, *, name: str = "threads") -> None:
    """UsageError, which calls them `name`, for no threads, or more than are of any use here.

    Runtimes end the process, or hang, where the system cannot give as many as they are told.
    """
    most = max(64, 4 * (os.cpu_count() or 1))
    if threads is not None and not 1 <= threads <= most:
        raise UsageError(
            f"{name} must be at least 1 and on this machine at most {most}, not {threads}; as many "
            "as there are processors are mostly the fastest"
        )


def as_precision(text: str, *, name: str = "precision") -> Precision:
    """`text` as a precision; UsageError, which calls it `name`, for any other."""
    for known in get_args(Precision):
        if text == known:
            return cast(Precision, known)
    raise UsageError(f"{name} must be one of {', '.join(get_args(Precision))}, not {text!r}")


def digest_of(*paths: Path) -> str:
    """A hash of all of these files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def to_input(images_BHWC: Images) -> Float32Array:
    """(B, 3, H, W) float32 in [0, 1], in one pass over the pixels."""
    x_BCHW = np.empty((len(images_BHWC), 3, *images_BHWC.shape[1:3]), np.float32)
    np.multiply(images_BHWC.transpose(0, 3, 1, 2), np.float32(1 / 255), out=x_BCHW)
    return x_BCHW


def candidates(
    output: Float32Array, *, count: int, classes: int, conf: float, origin: str
) -> list[Detections]:
    """What an exported model's output says of each of `count` images.

    `output` is (B, 4 + C, A), centre, width and height in pixels and scores; or, with NMS in the
    model, (K, 7). ExportError for any other shape; `origin` names the file.
    """
    if output.ndim == 3 and output.shape[:2] == (count, 4 + classes):
        return [_of_anchors(one, conf) for one in output]
    if output.ndim == 2 and output.shape[1] == NMS_COLUMNS and (output[:, 6] < classes).all():
        return [_of_rows(output[output[:, 0] == image, 1:], conf) for image in range(count)]
    raise ExportError(
        f"{origin}: the output must be (B, 4 + classes, anchors) or (objects, {NMS_COLUMNS}), not "
        f"{output.shape} for {count} images and {classes} classes: export the model with "
        "`rstinynet export`"
    )


def _of_anchors(output_FA: Float32Array, conf: float) -> Detections:
    scores_CA = output_FA[4:]
    label, anchor = np.nonzero(scores_CA > conf)
    scores = scores_CA[label, anchor]
    # As torch's: best first, of equals the earlier anchor, then the lower class.
    order = np.lexsort((label, anchor, -scores))[:MAX_CANDIDATES]
    label, anchor, scores = label[order], anchor[order], scores[order]
    x, y, width, height = output_FA[:4, anchor].astype(np.float32)
    half_w, half_h = width / 2, height / 2
    boxes = np.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=1)
    return Detections(boxes, scores.astype(np.float32), label.astype(np.int64))


def _of_rows(rows_K6: Float32Array, conf: float) -> Detections:
    rows = rows_K6[rows_K6[:, 4] > conf]
    found = Detections(
        rows[:, :4].astype(np.float32), rows[:, 4].astype(np.float32), rows[:, 5].astype(np.int64)
    )
    return found.sorted_by_score()[:MAX_CANDIDATES]


def checked_sides(shape: Sequence[int | None], *, origin: str) -> int | None:
    """The fixed side of an input (B, 3, S, S), or None where H and W are free.

    ExportError for another input, or a side that is no multiple of 32; `origin` names the file.
    """
    if len(shape) != 4 or shape[1] not in (3, None) or shape[2] != shape[3]:
        raise ExportError(
            f"{origin}: the input must be (B, 3, S, S), not {tuple(shape)}: export the model with "
            "`rstinynet export`"
        )
    if shape[2] is not None and shape[2] % 32:
        raise ExportError(f"{origin}: the side of the input must be a multiple of 32: {shape[2]}")
    return shape[2]
