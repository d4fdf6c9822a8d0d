"""What is kept of each detection once its image has been matched: all that any score needs.

21 bytes a detection, and 22 more (for ten thresholds and five sizes) for those near an object;
boxes and images are let go. Everything else is derived from these: scores of all images or some,
curves, working points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rstinynet.evaluate.columns import BoolArray, Chunk, FloatArray, IntArray
from rstinynet.evaluate.match import Matches
from rstinynet.evaluate.protocols import Protocol

_RECORD = np.dtype(
    [("score", "<f8"), ("image", "<i4"), ("rank", "<i4"), ("near", "<i4"), ("out", "u1")]
)
_LOOSE = 7
"""Bit of `out` for detections that no size counts as false."""
Packed = npt.NDArray[np.void]
Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRecords:
    """The detections of one class, by falling score; equal ones by image, then as given."""

    score: FloatArray
    """(N,)"""
    image: IntArray
    """(N,) position of the image."""
    rank: IntArray
    """(N,) place among those of the class on its image, from 0."""
    out: Bits
    """(N,) bit s is set where an unmatched one is not false in size s."""
    near: IntArray
    """(N,) row in the following; -1 for detections that match nothing."""
    hit: Bits
    """(K, bytes) packed bits (thresholds, sizes): found an object that counts."""
    ignored: Bits
    """(K, bytes) likewise: found a region, or an object of another size."""
    iou: FloatArray
    """(K,) overlap with the object found at the first threshold, 0 without."""
    objects: npt.NDArray[np.int32]
    """(M,) positions of the images of the class's objects, regions left out."""
    sizes: Bits
    """(M,) bit s is set where the object is of size s."""

    def __len__(self) -> int:
        return len(self.score)

    def on(self, images: BoolArray) -> ClassRecords:
        """Those of the images that are marked by position (I,)."""
        return self.parted(np.where(images, 0, 1), count=1)[0]

    def parted(self, group: IntArray, *, count: int) -> list[ClassRecords]:
        """Those of the images of each group from 0 to `count`; `group` (I,) by position."""
        mine, there = group[self.image], group[self.objects]
        order = np.argsort(mine, kind="stable")
        ends = np.searchsorted(mine[order], np.arange(count + 1))
        parts = []
        for number in range(count):
            rows = order[ends[number] : ends[number + 1]]
            objects = there == number
            near = self.near[rows]
            table = near[near >= 0]
            near[near >= 0] = np.arange(len(table))
            parts.append(
                ClassRecords(
                    score=self.score[rows], image=self.image[rows], rank=self.rank[rows],
                    out=self.out[rows], near=near, hit=self.hit[table],
                    ignored=self.ignored[table], iou=self.iou[table],
                    objects=self.objects[objects], sizes=self.sizes[objects],
                )
            )  # fmt: skip
        return parts

    def count(self, size: int = 0) -> int:
        """Objects of a size that are to be found."""
        return int(((self.sizes >> size) & 1).sum())


class Records:
    """Collects the matches of chunk after chunk."""

    def __init__(self, protocol: Protocol, *, classes: int, images: int) -> None:
        if len(protocol.sizes) >= _LOOSE:
            raise ValueError(f"at most {_LOOSE - 1} sizes fit, not {len(protocol.sizes)}")
        self.protocol = protocol
        self.classes = classes
        self.images = images
        self.detections = np.zeros(classes, np.int64)
        """(C,) detections that took part, before the limit of each image."""
        self.dropped = 0
        """Detections left out since their class is not labelled on their image."""
        self._rows: list[list[Packed]] = [[] for _ in range(classes)]
        self._near: list[list[tuple[Bits, Bits, FloatArray]]] = [[] for _ in range(classes)]
        self._kept = np.zeros(classes, np.int64)
        self._objects: list[list[tuple[IntArray, Bits]]] = [[] for _ in range(classes)]

    def add(self, chunk: Chunk, matches: Matches) -> None:
        """Take in one chunk; chunks come in the order of their images."""
        self.dropped += len(chunk.dropped)
        self.detections += np.bincount(chunk.found.label, minlength=self.classes)
        self._add_objects(chunk)
        near = np.full(len(matches.row), -1, np.int32)
        near[matches.near] = np.arange(len(matches.near))
        rows = np.empty(len(matches.row), _RECORD)
        rows["score"] = chunk.found.score[matches.row]
        rows["image"] = chunk.found.image[matches.row]
        rows["rank"] = matches.rank
        rows["out"] = self._outside(chunk, matches.row)
        label = chunk.found.label[matches.row]
        hit, ignored = _packed(matches.hit), _packed(matches.ignored)
        for k in np.unique(label).tolist():
            mine = np.flatnonzero(label == k)
            part, held = rows[mine], near[mine]
            table = held[held >= 0]
            part["near"] = -1
            part["near"][held >= 0] = self._kept[k] + np.arange(len(table))
            self._kept[k] += len(table)
            self._rows[k].append(part)
            self._near[k].append((hit[table], ignored[table], matches.iou[table]))

    def _outside(self, chunk: Chunk, row: IntArray) -> Bits:
        """(N,) sizes that the area of the detection does not belong to, as bits."""
        xywh = chunk.found.xywh[row]
        area = xywh[:, 2] * xywh[:, 3]
        bits = np.zeros(len(row), np.uint8)
        for at, size in enumerate(self.protocol.sizes):
            # VOC knows no size: an unmatched detection of any is false.
            if self.protocol.matching == "coco":
                bits |= ((area < size.low) | (area > size.high)).astype(np.uint8) << at
        bits[chunk.found.loose[row]] = (1 << _LOOSE) - 1
        return bits

    def _add_objects(self, chunk: Chunk) -> None:
        truth = chunk.truth.take(~chunk.truth.crowd)
        bits = np.zeros(len(truth), np.uint8)
        for at, size in enumerate(self.protocol.sizes):
            inside = (truth.area >= size.low) & (truth.area <= size.high)
            bits |= inside.astype(np.uint8) << at
        for k in np.unique(truth.label).tolist():
            mine = truth.label == k
            self._objects[k].append((truth.image[mine].astype(np.int32), bits[mine]))

    def of(self, label: int) -> ClassRecords:
        """Everything of one class, by falling score."""
        rows = np.concatenate([np.zeros(0, _RECORD), *self._rows[label]])
        width = -(-len(self.protocol.ious) * len(self.protocol.sizes) // 8)
        near = [(np.zeros((0, width), np.uint8), np.zeros((0, width), np.uint8), np.zeros(0))]
        near += self._near[label]
        objects = [(np.zeros(0, np.int32), np.zeros(0, np.uint8)), *self._objects[label]]
        order = np.argsort(-rows["score"], kind="stable")
        rows = rows[order]
        return ClassRecords(
            score=rows["score"], image=rows["image"], rank=rows["rank"], out=rows["out"],
            near=rows["near"],
            hit=np.concatenate([part[0] for part in near]),
            ignored=np.concatenate([part[1] for part in near]),
            iou=np.concatenate([part[2] for part in near]),
            objects=np.concatenate([part[0] for part in objects]),
            sizes=np.concatenate([part[1] for part in objects]),
        )  # fmt: skip


def _packed(lanes: BoolArray) -> Bits:
    return np.packbits(lanes.reshape(len(lanes), lanes.shape[1] * lanes.shape[2]), axis=1)
