"""How to search an image or scene: every option, its default and its check."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from rstinynet.errors import UsageError
from rstinynet.model.metadata import Scaling
from rstinynet.scenes.merge import MERGE_IOU
from rstinynet.scenes.reader import Fill
from rstinynet.scenes.views import check_views, scales_of
from rstinynet.suppress import Metric

if TYPE_CHECKING:
    from rstinynet.scenes.detector import Detector

LEAST_TILE = 32
"""Pixels of the source that a tile has at least."""
DEFAULT_OVERLAP = 64
"""Pixels that neighbouring tiles share; at least twice the largest tiny object."""
DEFAULT_IOU = 0.6
"""Overlap above which the weaker of two boxes of one class in one tile is dropped."""
DEFAULT_MAX_DET = 1500
"""Most objects of one tile, as AI-TOD's protocol counts them."""


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
    scale: float | Sequence[float] | None = None
    """Factor by which tiles are resized before the model sees them; of several each is a view."""
    tta: int = 1
    """Views of each tile that are searched (test-time augmentation): 1, 2, 4 or 8."""
    bands: Sequence[int] | None = None
    """Three bands as red, green, blue, or one that is repeated; counted from 1."""
    classes: Sequence[str] | None = None
    """Names of the classes to report."""
    sizes: Mapping[str, tuple[float, float]] | None = None
    """By name of a class, least and most metres of its boxes' longer sides; others are dropped."""
    metric: Metric = "iou"
    """What decides that boxes of two tiles are one object."""
    merge_iou: float = MERGE_IOU
    """And above which value of it."""
    scaling: Scaling | None = None
    """How values become 8-bit, also those that are 8-bit already."""
    gsd: float | Literal["weights"] | None = None
    """Metres a pixel to read a scene at; "weights" for the nearest that they were trained at."""
    source_gsd: float | None = None
    """Metres a pixel of a source that has no coordinate system to tell them."""
    nodata_fill: Fill = "grey"
    """What pixels without data look like to the model."""
    memory_limit: int | None = None
    """Bytes that the process may hold, whatever the size of the scene."""

    def __post_init__(self) -> None:
        for name, value in (("conf", self.conf), ("iou", self.iou), ("merge_iou", self.merge_iou)):
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} must lie in [0, 1], not {value}")
        if self.max_det < 1:
            raise UsageError(f"max_det must be at least 1, not {self.max_det}")
        if self.tile is not None and self.tile < LEAST_TILE:
            raise UsageError(f"tile must be at least {LEAST_TILE} pixels, not {self.tile}")
        if self.scale is not None:
            scales_of(self.scale)
        check_views(self.tta)
        if self.metric not in ("iou", "ios"):
            raise UsageError(f"metric must be 'iou' or 'ios', not {self.metric!r}")
        if self.nodata_fill not in get_args(Fill):
            known = ", ".join(get_args(Fill))
            raise UsageError(f"nodata_fill must be of {known}, not {self.nodata_fill!r}")
        if self.gsd != "weights" and self.gsd is not None and not 0 < self.gsd < math.inf:
            raise UsageError(f"gsd must be over 0, in metres a pixel, not {self.gsd}")
        if self.source_gsd is not None and not 0 < self.source_gsd < math.inf:
            raise UsageError(f"source_gsd must be over 0, in metres a pixel, not {self.source_gsd}")
        for name, size in (self.sizes or {}).items():
            try:
                least, most = map(float, size)
            except (TypeError, ValueError):
                least = most = math.nan
            if not 0 <= least <= most or least == math.inf:
                raise UsageError(
                    f"sizes of {name!r} must be (least, most) metres, 0 <= least <= most, not "
                    f"{size}"
                )

    def used_overlap(self, detector: Detector) -> int:
        """The overlap in pixels; the default becomes less where tiles are small."""
        if self.overlap != DEFAULT_OVERLAP:
            return self.overlap
        return min(self.overlap, (self.tile or detector.metadata.imgsz) // 2)

    def used_gsd(self, detector: Detector) -> float | tuple[float, float] | None:
        """Metres a pixel to read at, or the range to come into. UsageError where not known."""
        if self.gsd != "weights":
            return self.gsd
        if detector.metadata.gsd_m is None:
            raise UsageError(
                "these weights do not say which ground sampling distance they were trained at: "
                "give metres a pixel"
            )
        return detector.metadata.gsd_m

    def settled(self, detector: Detector) -> dict[str, Any]:
        """Every option by name, with what the weights fill in, as plain values."""
        own = detector.metadata
        scales = scales_of(own.scale if self.scale is None else self.scale)
        chosen = asdict(self) | {
            "tile": self.tile or own.imgsz,
            "overlap": self.used_overlap(detector),
            "scale": scales[0] if len(scales) == 1 else list(scales),
            "bands": None if self.bands is None else list(self.bands),
            "classes": None if self.classes is None else sorted(self.classes),
            "scaling": None if self.scaling is None else self.scaling.model_dump(),
            "sizes": {name: list(map(str, size)) for name, size in sorted(self.sizes.items())}
            if self.sizes
            else None,
        }
        # Tiles are the same whatever memory they were found in.
        del chosen["memory_limit"]
        return chosen | {"device": str(detector.device).partition(":")[0]}


def wanted_labels(
    names: Sequence[str], classes: Sequence[str] | None
) -> npt.NDArray[np.int64] | None:
    """Labels of the classes named; None for all. UsageError for a class there is not."""
    if classes is None:
        return None
    return np.array([_label(names, name) for name in classes], np.int64)


def size_limits(
    names: Sequence[str], sizes: Mapping[str, tuple[float, float]] | None
) -> npt.NDArray[np.float64] | None:
    """(C, 2) least and most metres of each class; None where none has any.

    UsageError for a class there is not.
    """
    if not sizes:
        return None
    limits = np.tile([0.0, np.inf], (len(names), 1))
    for name, size in sizes.items():
        limits[_label(names, name)] = size
    return limits


def of_size(
    labels: npt.NDArray[np.int64],
    longer_m: npt.NDArray[np.float64],
    limits: npt.NDArray[np.float64],
) -> npt.NDArray[np.bool_]:
    """(N,) which boxes, given by label and metres of the longer side, lie within `size_limits`.

    Classes without a limit do, whatever is known of their size.
    """
    least, most = limits[labels].T
    within = (longer_m >= least) & (longer_m <= most)
    return np.asarray(within | ((least == 0) & (most == np.inf)), np.bool_)


def _label(names: Sequence[str], name: str) -> int:
    if name not in names:
        close = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        known = ", ".join(names)
        raise UsageError(f"no class {name!r}: {hint}there are {known}")
    return names.index(name)


def parse_scaling(text: str) -> Scaling:
    """A scaling from `dtype`, `percentile`, `percentile:LOW:HIGH` or `fixed:LOW:HIGH`.

    Raises UsageError for anything else.
    """
    kind, *values = text.split(":")
    try:
        numbers = [float(value) for value in values]
        if len(numbers) == 2 and kind in ("fixed", "percentile") and numbers[0] < numbers[1]:
            if kind == "fixed" or (numbers[0] >= 0 and numbers[1] <= 100):
                return Scaling(
                    kind="fixed" if kind == "fixed" else "percentile",
                    low=numbers[0],
                    high=numbers[1],
                )
        elif not numbers and kind in ("dtype", "percentile"):
            return Scaling(kind="dtype" if kind == "dtype" else "percentile")
    except ValueError:
        pass
    raise UsageError(
        "scaling must be dtype, percentile, percentile:LOW:HIGH (0 to 100) or fixed:LOW:HIGH "
        f"(values of the source), not {text!r}"
    )


def parse_gsd(text: str) -> float | Literal["weights"]:
    """Metres a pixel, or "weights". Raises UsageError for anything else."""
    if text == "weights":
        return "weights"
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"gsd is metres a pixel, or `weights`, not {text!r}") from error


def parse_sizes(text: str) -> dict[str, tuple[float, float]]:
    """Sizes by class from `vehicle=3.5:20,ship=8:`, where either bound may be left out.

    Raises UsageError for anything else.
    """
    sizes: dict[str, tuple[float, float]] = {}
    for part in text.split(","):
        name, equals, bounds = part.rpartition("=")
        name = name.strip()
        low, colon, high = bounds.partition(":")
        try:
            size = (float(low or 0), float(high or math.inf))
        except ValueError:
            colon = ""
        if not (name and equals and colon) or name in sizes:
            raise UsageError(
                "size is CLASS=LEAST:MOST in metres, either of which may be left out, separated "
                f"by commas, a class once: vehicle=3.5:20,ship=8:, not {text!r}"
            )
        sizes[name] = size
    return sizes
