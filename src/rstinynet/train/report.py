"""What a run can teach, said before it starts: how many boxes get anchors, and what is lost.

A box that no anchor may stand for is never learned, and its place is taught as background. The
counts come from the assigner's own search for candidates, on the training boxes as they are, at
the scale of training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.data.augment_settings import AugmentSettings
from rstinynet.data.stats import SIDES_PX, SIZES, size_of
from rstinynet.loss.candidates import Grid, candidate_counts
from rstinynet.train.clock import Clock
from rstinynet.train.recipe import Recipe

MOST_SECONDS = 3.0
SAMPLED_IMAGES = 5000
DIVISOR = 32
"""Images are padded to multiples of this before the model sees them."""
MUCH_WARMUP = 1 / 3
"""Share of a run above which its warm-up is worth a word."""


def coverage(
    labelled: LabelledSet,
    recipe: Recipe,
    *,
    strides: Sequence[int],
    max_seconds: float = MOST_SECONDS,
) -> dict[str, Any]:
    """Boxes, and boxes without a candidate anchor, by AI-TOD size and by side in pixels.

    Of large sets, evenly spaced images are looked at, until `max_seconds` are over. Sizes go by the
    annotation's own area, sides by the square root of the box's area at the scale of training.
    """
    step = max(1, math.ceil(len(labelled) / SAMPLED_IMAGES))
    begun = time.monotonic()
    sizes: list[np.ndarray] = [np.zeros(0, np.int64)]
    sides: list[np.ndarray] = [np.zeros(0)]
    counts: list[np.ndarray] = [np.zeros(0, np.int64)]
    images = 0
    for image in labelled.images[::step]:
        if images and time.monotonic() - begun > max_seconds:
            break
        images += 1
        own = ~image.crowd
        scale = training_scale(image, recipe)
        boxes = torch.from_numpy(image.boxes[own]) * scale
        sizes.append(size_of(image.areas[own]))
        sides.append((boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt().double().numpy())
        grid = _grid(image, scale, strides)
        counts.append(candidate_counts(boxes, grid, recipe.loss).numpy())
    size, side, count = np.concatenate(sizes), np.concatenate(sides), np.concatenate(counts)
    bins = np.searchsorted(SIDES_PX, side, side="right") - 1
    ends = [*map(str, SIDES_PX[1:]), ""]
    return {
        "images": images,
        "images_in_all": len(labelled),
        "strides": list(strides),
        "imgsz": recipe.imgsz,
        "fit": recipe.augment.fit,
        "all": _counted(count),
        "sizes": {
            name: {
                **_counted(count[size == at]),
                "sides_px": {
                    f"{low}-{high}" if high else f"{low}+": _counted(count[chosen])
                    for number, (low, high) in enumerate(zip(SIDES_PX, ends, strict=True))
                    if (chosen := (size == at) & (bins == number)).any()
                },
            }
            for at, name in enumerate(SIZES)
        },
    }


def _counted(candidates: np.ndarray) -> dict[str, Any]:
    without = int((candidates == 0).sum())
    return {
        "boxes": len(candidates),
        "without_candidate": without,
        "share": without / len(candidates) if len(candidates) else 0.0,
        "median_candidates": float(np.median(candidates)) if len(candidates) else 0.0,
    }


def training_scale(image: LabelledImage, recipe: Recipe) -> float:
    """Resize factor of training, without its random zoom."""
    if recipe.augment.fit == "letterbox":
        return recipe.imgsz / max(image.width, image.height)
    return 1.0


def _grid(image: LabelledImage, scale: float, strides: Sequence[int]) -> Grid:
    width, height = (
        math.ceil(side * scale / DIVISOR) * DIVISOR for side in (image.width, image.height)
    )
    cell = torch.zeros(1)
    maps: list[Tensor] = [cell.expand(1, 1, height // s, width // s) for s in strides]
    return Grid(maps, strides)


def in_words(found: Mapping[str, Any]) -> str:
    """The counts as a table, in lines of text."""
    part = "" if found["images"] == found["images_in_all"] else f" of {found['images_in_all']}"
    total = found["all"]
    lines = [
        f"anchors: {total['without_candidate']} of {total['boxes']} training boxes "
        f"({100 * total['share']:.1f} %) get no candidate and cannot be learned "
        f"(strides {', '.join(map(str, found['strides']))}; {found['images']}{part} images at "
        f"{found['imgsz']} px, without augmentation)",
        f"  {'size':<12}{'side, px':>10}{'boxes':>9}{'none':>8}{'none, %':>9}{'candidates':>12}",
    ]
    for name, size in found["sizes"].items():
        if not size["boxes"]:
            continue
        lines.append(_line(name, "all", size))
        lines += [_line("", side, counts) for side, counts in size["sides_px"].items()]
    return "\n".join(lines)


def _line(name: str, side: str, counts: Mapping[str, Any]) -> str:
    return (
        f"  {name:<12}{side:>10}{counts['boxes']:>9}{counts['without_candidate']:>8}"
        f"{100 * counts['share']:>9.1f}{counts['median_candidates']:>12.0f}"
    )


def long_warmup_in_words(clock: Clock) -> str:
    """ ", warm-up takes N of M batches" where that is much of the run, or nothing."""
    ends = clock.recipe.max_minutes is not None  # by itself, with a tenth of the run
    if ends or clock.warmup <= MUCH_WARMUP * clock.total:
        return ""
    return f", warm-up takes {min(clock.warmup, clock.total)} of {clock.total} batches"


def lost_in_words(row: Mapping[str, Any], settings: AugmentSettings) -> str:
    """What augmentation made of an epoch's objects, from the epoch's row of results."""
    kept, cut, small = (int(row[key]) for key in ("objects", "ignored_cut", "ignored_small"))
    became = "regions to ignore" if settings.cut_boxes == "ignore" else "background"
    share = (cut + small) / max(kept + cut + small, 1)
    return (
        f"  objects: {kept} taught; {cut + small} ({100 * share:.1f} %) became {became}: {cut} "
        f"with less than {100 * settings.min_visibility:g} % left in the window, {small} with a "
        f"side under {settings.min_box_px:g} px"
    )
