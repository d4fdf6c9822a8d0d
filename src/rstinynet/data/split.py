"""Dividing a labelled set by ground rather than by image, so that no split has seen another's."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from rasterio.warp import transform

from rstinynet.data.annotations import LabelledImage, LabelledSet, fingerprint_of
from rstinynet.data.overlap import footprint
from rstinynet.errors import DataError, UsageError

TILE_OF_SCENE = re.compile(r"^(.+?)(?:__\d+(?:\.\d+)?__\d+___\d+|_{1,2}\d+_\d+)$")
"""Names of tiles as most tools write them, SCENE_x_y or SCENE__x_y, and as DOTA's tools do,
SCENE__scale__x___y; others are their own scene."""

EQUAL_AREA_CRS = 6933
"""EPSG code of a world grid in metres, on which spatial blocks are laid."""

Group = Callable[[LabelledImage], str]


def by_scene(pattern: str | None = None) -> Group:
    """Groups by a regular expression's first group in the file's stem, by default the scene.

    Raises:
        UsageError: not a regular expression, or one without a group.
    """
    if pattern is None:
        expression = TILE_OF_SCENE
    else:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise UsageError(f"not a regular expression: {pattern!r}: {error}") from error
        if not expression.groups:
            raise UsageError(
                f"the expression {pattern!r} needs a group: the part that names the scene"
            )

    def group(image: LabelledImage) -> str:
        found = expression.search(image.path.stem)
        scene = None if found is None else found[1]  # None too for a group that takes no part
        if scene is None and pattern is not None:
            raise DataError(
                f"{image.path.name}: {pattern!r} does not match; correct the expression"
            )
        return image.path.stem if scene is None else str(scene)

    return group


def by_prefix(length: int) -> Group:
    """Groups by the first `length` characters of the file name.

    Raises:
        UsageError: a length below 1.
    """
    if length < 1:
        raise UsageError(f"a prefix has at least 1 character, not {length}")
    return lambda image: image.path.stem[:length]


def by_block(metres: float) -> Group:
    """Groups by the square block of ground that the middle of a georeferenced TIFF lies in.

    Raises:
        UsageError: a side that is not above 0.
    """
    if not metres > 0:
        raise UsageError(f"a block's side must be above 0 metres, not {metres}")

    def group(image: LabelledImage) -> str:
        ground = footprint(image.path)
        if ground is None:
            raise DataError(
                f"{image.path}: not georeferenced in a system that leads to longitude and "
                "latitude, so that it lies in no block; divide by scene instead"
            )
        west, south, east, north = ground.bounds
        xs, ys = transform(4326, EQUAL_AREA_CRS, [(west + east) / 2], [(south + north) / 2])
        return f"{int(xs[0] // metres)} {int(ys[0] // metres)}"

    return group


def divide(
    labelled: LabelledSet, shares: Mapping[str, float], *, group: Group, seed: int = 0
) -> dict[str, LabelledSet]:
    """Splits of about these shares of the images, every group whole in one of them.

    Groups are taken largest first, equal ones in an order drawn from the seed, and each goes to
    the split that lacks the most. The same arguments give the same splits.

    Raises:
        UsageError: shares that are not above 0, a seed below 0.
        DataError: fewer groups than splits.
    """
    if not shares or not all(0 < share < np.inf for share in shares.values()):
        raise UsageError(f"shares must be above 0, not {dict(shares)}")
    if seed < 0:
        raise UsageError(f"the seed must be 0 or more, not {seed}")
    members: defaultdict[str, list[int]] = defaultdict(list)
    for at, image in enumerate(labelled.images):
        members[group(image)].append(at)
    if len(members) < len(shares):
        raise DataError(
            f"{len(members)} groups ({', '.join(sorted(members)[:3])}) cannot be divided into "
            f"{len(shares)} splits; choose a finer grouping"
        )
    order = sorted(members)
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=lambda name: -len(members[name]))
    total = sum(shares.values())
    lacking = {name: share / total * len(labelled) for name, share in shares.items()}
    chosen: dict[str, list[int]] = {name: [] for name in shares}
    for number, name in enumerate(order):
        left = len(order) - number
        empty = [split for split in shares if not chosen[split]]
        # The last groups go where there is nothing yet, so that no split stays empty.
        candidates = empty if len(empty) >= left else list(shares)
        split = max(candidates, key=lambda each: lacking[each])
        chosen[split] += members[name]
        lacking[split] -= len(members[name])
    return {name: _part(labelled, sorted(rows), name) for name, rows in chosen.items()}


def _part(labelled: LabelledSet, rows: list[int], name: str) -> LabelledSet:
    images = tuple(labelled.images[row] for row in rows)
    paths = "\n".join(str(Path(image.path).name) for image in images)
    mark = fingerprint_of(os.fsencode(f"{labelled.fingerprint} {name}\n{paths}"))
    return replace(labelled, images=images, fingerprint=mark)
