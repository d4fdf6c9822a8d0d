"""Several models as one: each searches the image, and what they agree on is found.

Models that were trained apart err in different places: an object that both show is surer, its box
the mean of theirs, and what one of them invents has half its score.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rstinynet import boxes as box
from rstinynet.agree import OWN_IOU, agreed
from rstinynet.detections import Detections
from rstinynet.errors import WeightsError
from rstinynet.evaluate.calibration import before_temperature, tempered
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.runtime.backend import Backend, Images, Precision
from rstinynet.suppress import suppress


class Member(NamedTuple):
    """One of the models."""

    backend: Backend
    metadata: WeightsMetadata
    named: str
    """As the user calls it."""


class EnsembleBackend:
    """A `Backend` whose scores are the mean over its members' calibrated ones."""

    def __init__(self, members: Sequence[Member], *, names: Sequence[str]) -> None:
        """`names` are the classes by label; each member knows all of them, in any order."""
        backends = [member.backend for member in members]
        self._members = list(members)
        self._labels = [
            np.array([list(names).index(name) for name in member.metadata.names])
            for member in members
        ]
        # Ray gives its workers a GPU where the device is one: also if only some members need it.
        self.device: str = next((b.device for b in backends if b.device != "cpu"), "cpu")
        self.batch: int = min(backend.batch for backend in backends)
        self.multiple: int = math.lcm(*(backend.multiple for backend in backends))
        self.side: int | None = backends[0].side
        same = {backend.precision for backend in backends}
        self.precision: Precision | None = same.pop() if len(same) == 1 else None

    def digest(self) -> str:
        """See `Backend.digest`."""
        digest = hashlib.sha256()
        for member in self._members:
            digest.update(member.backend.digest().encode())
            digest.update(member.metadata.model_dump_json().encode())
        return digest.hexdigest()

    def find(self, images_BHWC: Images, *, conf: float) -> list[Detections]:
        """See `Backend.find`; overlaps are gone but for those of what the members agree on, which
        the `iou` given to a search is for.
        """
        # A mean above `conf` needs also what some members score below it.
        least = conf / len(self._members)
        every = [
            self._of(member, labels, images_BHWC, least)
            for member, labels in zip(self._members, self._labels, strict=True)
        ]
        means = [agreed(looks) for looks in zip(*every, strict=True)]
        return [mean[mean.scores > conf] for mean in means]

    def _of(
        self, member: Member, labels: np.ndarray, images_BHWC: Images, conf: float
    ) -> list[Detections]:
        """What one member finds in each image, with this ensemble's labels."""
        temperature = member.metadata.temperature
        found = []
        for raw in member.backend.find(images_BHWC, conf=before_temperature(conf, temperature)):
            scores = raw.scores
            if temperature != 1:
                scores = tempered(scores, temperature).astype(np.float32)
            useful = (box.area(raw.boxes) > 0) & np.isfinite(raw.boxes).all(axis=1)
            useful &= scores > conf
            own = Detections(raw.boxes, scores, labels[raw.labels])[useful]
            found.append(suppress(own, iou=OWN_IOU))
        return found


def together(members: Sequence[Member]) -> tuple[EnsembleBackend, WeightsMetadata]:
    """The members as one model, and what it says of itself.

    Classes, their order and ids are the first one's; the tile is the largest of theirs, and default
    confidences are the mean, as scores are. Raises WeightsError, naming both, where a member knows
    other classes than the first, or takes its input otherwise (scale, bands, scaling, side).
    """
    first = members[0]
    for other in members[1:]:
        _check(first, other)
    every = [member.metadata for member in members]
    names = first.metadata.names
    own = None
    if any(each.class_conf is not None for each in every):
        own = tuple(float(np.mean([_threshold(each, name) for each in every])) for name in names)
    metadata = WeightsMetadata(
        model=",".join(each.model for each in every),
        names=names,
        category_ids=first.metadata.category_ids,
        imgsz=max(each.imgsz for each in every),
        scale=first.metadata.scale,
        bands=first.metadata.bands,
        scaling=first.metadata.scaling,
        gsd_m=_common_gsd(members),
        conf=float(np.mean([each.conf for each in every])),
        class_conf=own,
        licence="; ".join(dict.fromkeys(each.licence for each in every)),
    )
    return EnsembleBackend(members, names=names), metadata


def _threshold(metadata: WeightsMetadata, name: str) -> float:
    if metadata.class_conf is None:
        return metadata.conf
    return metadata.class_conf[metadata.names.index(name)]


def _check(first: Member, other: Member) -> None:
    """WeightsError where these two cannot search one image together."""
    one, two = first.metadata, other.metadata
    if set(one.names) != set(two.names):
        raise WeightsError(
            f"models that search together must know the same classes: {first.named} knows "
            f"{', '.join(one.names)}, {other.named} {', '.join(two.names)}"
        )
    for what, mine, theirs in (
        ("scale", one.scale, two.scale),
        ("number of bands", one.bands, two.bands),
        ("scaling", one.scaling, two.scaling),
    ):
        if mine != theirs:
            raise WeightsError(
                f"models that search together must have the same {what}: {first.named} has "
                f"{mine}, {other.named} {theirs}"
            )
    sides = first.backend.side, other.backend.side
    if sides[0] != sides[1]:
        raise WeightsError(
            f"models that search together must take the same side of the input: {first.named} "
            f"takes {sides[0] or 'any'}, {other.named} {sides[1] or 'any'}; `rstinynet export "
            "--dynamic` writes a file that takes any"
        )


def _common_gsd(members: Sequence[Member]) -> tuple[float, float] | None:
    """The metres a pixel that all were trained at, as far as known. WeightsError for none."""
    known = [(m, m.metadata.gsd_m) for m in members if m.metadata.gsd_m is not None]
    if not known:
        return None
    low = max(gsd[0] for _, gsd in known)
    high = min(gsd[1] for _, gsd in known)
    if low > high:
        shown = ", ".join(f"{m.named} at {gsd[0]:g} to {gsd[1]:g} m" for m, gsd in known)
        raise WeightsError(
            f"models that search together must share ground sampling distances: {shown}"
        )
    return low, high
