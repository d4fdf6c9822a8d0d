"""SimD's m and n, from the training set (Shi et al., arXiv:2407.02394, 2024, section III).

The paper's: m is the mean, over every pair of a true box and an anchor of the same image in the
whole training set, of the centres' distance in x over the sum of both widths; n is the same in y
with heights. So they need no choosing, and a data set of smaller boxes is compared more strictly.

Ours: a detector without anchor boxes has none to pair, so each cell of each level gets a square of
8 strides, as the detectors have that the paper trains (theirs have two elongated ones beside it);
an image larger than the training window is paired within windows; of large sets, evenly spaced
images are looked at. Augmentation is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rstinynet.data.annotations import LabelledSet
from rstinynet.train.recipe import Recipe
from rstinynet.train.report import DIVISOR, training_scale

ANCHOR_STRIDES = 8
"""Side of the stand-ins for anchor boxes, in strides of their level."""
SAMPLED_IMAGES = 2000
LEAST = 1e-3
"""Stands for a mean of zero, by which nothing could be told apart."""


def with_simd_scale(recipe: Recipe, labelled: LabelledSet, *, strides: Sequence[int]) -> Recipe:
    """The recipe with `loss.simd_scale` measured where SimD is on and none is given."""
    if recipe.loss.metric != "simd" or recipe.loss.simd_scale is not None:
        return recipe
    measured = simd_scale(labelled, recipe, strides=strides)
    return replace(recipe, loss=replace(recipe.loss, simd_scale=measured))


def simd_scale(
    labelled: LabelledSet, recipe: Recipe, *, strides: Sequence[int]
) -> tuple[float, float]:
    """m and n, rounded to 4 digits, of the set's boxes at the scale of training.

    A function of the annotations and settings only, so a resumed run finds the same; (1, 1) where
    there is no box.
    """
    sums, pairs = np.zeros(2), 0
    step = max(1, math.ceil(len(labelled) / SAMPLED_IMAGES))
    for image in labelled.images[::step]:
        scale = training_scale(image, recipe)
        boxes = image.boxes[~image.crowd].astype(np.float64) * scale
        window = [
            min(math.ceil(side * scale / DIVISOR) * DIVISOR, recipe.imgsz)
            for side in (image.width, image.height)
        ]
        for stride in strides:
            cells = [side // stride for side in window]
            count = cells[0] * cells[1]
            for axis in (0, 1):
                middle = ((boxes[:, axis] + boxes[:, axis + 2]) / 2) % window[axis]
                sides = boxes[:, axis + 2] - boxes[:, axis] + ANCHOR_STRIDES * stride
                centres = (np.arange(cells[axis]) + 0.5) * stride
                # Every column (row) stands for as many anchors as it has cells.
                apart = np.abs(middle[:, None] - centres).mean(axis=1) if count else 0.0 * sides
                sums[axis] += count * float((apart / sides).sum())
            pairs += count * len(boxes)
    if not pairs:
        return 1.0, 1.0
    m, n = (max(LEAST, float(f"{value:.4g}")) for value in sums / pairs)
    return m, n
