"""COCO results files: lists of {image_id, category_id, bbox, score}, read and written.

Reading holds a few megabytes of the file at a time, whatever its size; what is kept of a detection
are 48 bytes, and of a large file these wait on disk until their images are scored.
"""

from __future__ import annotations

import json
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import LabelledSet
from rstinynet.detections import Detections, Int64Array
from rstinynet.errors import DataError
from rstinynet.evaluate.entries import ROW, Ids, entries_of, rows_of
from rstinynet.files import replacing

LARGE_FILE = 128 * 2**20
"""Bytes of a results file from which its detections wait on disk instead of in memory."""
PART = 16 * 2**20
"""Bytes of detections that are taken back from disk at a time."""
_BYTES_OF_ENTRY = 100
"""About what an entry takes in JSON: only the number of parts depends on it."""
Rows = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class CocoDetections:
    """Objects of one image as a results file gives them, in double precision.

    Single precision would merge scores that the file tells apart and so change their order.
    """

    boxes_xywh: npt.NDArray[np.float64]
    """(N, 4) left, top, width, height in pixels."""
    scores: npt.NDArray[np.float64]
    """(N,)"""
    labels: Int64Array
    """(N,) class index into the set's categories."""

    def __len__(self) -> int:
        return len(self.boxes_xywh)


class StoredResults:
    """The detections of a results file, by position of their image among those sorted by id.

    Small files are held in memory, large ones in a temporary folder that goes with the object.
    """

    def __init__(self, blocks: Iterator[Rows], *, images: int, parts: int) -> None:
        self._images = images
        self._edges = np.linspace(0, images, min(parts, max(images, 1)) + 1).astype(np.int64)
        self._held: Rows | None = None
        self._folder: Path | None = None
        self.count = 0
        """Detections in the file."""
        if len(self._edges) == 2:
            rows = list(blocks)
            held = np.concatenate(rows) if rows else np.zeros(0, ROW)
            self._held = held[np.argsort(held["image"], kind="stable")]
            self.count = len(held)
        else:
            folder = tempfile.TemporaryDirectory(prefix="rstinynet-val-")
            self._clean = weakref.finalize(self, folder.cleanup)
            self._folder = Path(folder.name)
            for block in blocks:
                self._put_away(block)

    def _put_away(self, block: Rows) -> None:
        assert self._folder is not None
        self.count += len(block)
        # Results mostly come image by image, so that few parts are touched by a block.
        part = np.searchsorted(self._edges, block["image"], side="right") - 1
        for number in np.unique(part).tolist():
            with (self._folder / f"{number}.rows").open("ab") as file:
                file.write(block[part == number].tobytes())

    def parts(self) -> Iterator[tuple[int, int, StoredRows]]:
        """All images in order: first position, position after the last, detections by image."""
        for number, (first, last) in enumerate(
            zip(self._edges[:-1].tolist(), self._edges[1:].tolist(), strict=True)
        ):
            if self._held is not None:
                rows = self._held
            else:
                assert self._folder is not None
                file = self._folder / f"{number}.rows"
                rows = np.fromfile(file, ROW) if file.is_file() else np.zeros(0, ROW)
                rows = rows[np.argsort(rows["image"], kind="stable")]
            yield first, last, StoredRows(rows)


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Columns of stored detections."""

    rows: Rows

    @property
    def image(self) -> npt.NDArray[np.int32]:
        """(N,) position of the image, ascending."""
        return self.rows["image"]

    @property
    def label(self) -> npt.NDArray[np.int32]:
        """(N,) class index."""
        return self.rows["label"]

    @property
    def xywh(self) -> npt.NDArray[np.float64]:
        """(N, 4) left, top, width, height in pixels."""
        return self.rows["xywh"]

    @property
    def score(self) -> npt.NDArray[np.float64]:
        """(N,)"""
        return self.rows["score"]

    def cut(self, held: slice) -> StoredRows:
        """Some of the rows."""
        return StoredRows(self.rows[held])


def open_results(path: Path | str, labelled: LabelledSet) -> StoredResults:
    """The detections of a COCO results file made on the images of `labelled`, ready to be scored.

    Raises DataError as `read_results` does.
    """
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise DataError(
            f"a results file must be readable; {path} is not: {error.strerror}"
        ) from error
    parts = 1
    if size >= LARGE_FILE:
        parts = 1 + size * ROW.itemsize // (_BYTES_OF_ENTRY * PART)
    return StoredResults(_blocks(Path(path), labelled), images=len(labelled), parts=parts)


def read_results(path: Path | str, labelled: LabelledSet) -> dict[int, CocoDetections]:
    """Detections by image id, of a COCO results file made on the images of `labelled`.

    Raises DataError, naming the file, the entry and the value, for a file that cannot be read, an
    image or category that the set lacks, and boxes or scores that are not finite numbers.
    """
    blocks = list(_blocks(Path(path), labelled))
    rows = np.concatenate(blocks) if blocks else np.zeros(0, ROW)
    rows = rows[np.argsort(rows["image"], kind="stable")]
    ids = sorted(image.id for image in labelled.images)
    there, starts = np.unique(rows["image"], return_index=True)
    return {
        ids[position]: CocoDetections(
            part["xywh"].copy(), part["score"].copy(), part["label"].astype(np.int64)
        )
        for position, part in zip(there.tolist(), np.split(rows, starts[1:]), strict=False)
    }


def _blocks(path: Path, labelled: LabelledSet) -> Iterator[Rows]:
    ids = Ids.of(
        sorted(image.id for image in labelled.images),
        [category.id for category in labelled.categories],
    )
    for first, entries in entries_of(path):
        yield rows_of(entries, ids, where=path, first=first)


def write_results(
    path: Path | str, found: Mapping[int, Detections | CocoDetections], labelled: LabelledSet
) -> None:
    """Write `found` by image id as a COCO results file with the set's category ids, unrounded."""
    ids = [category.id for category in labelled.categories]
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.write("[")
        separator = ""
        for image_id in sorted(found):
            for entry in _written(image_id, found[image_id], ids):
                file.write(separator + entry)
                separator = ",\n"
        file.write("]\n")


def _written(
    image_id: int, detections: Detections | CocoDetections, ids: Sequence[int]
) -> Iterator[str]:
    if isinstance(detections, CocoDetections):
        boxes = detections.boxes_xywh
    else:
        boxes = detections.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
    for bbox, score, label in zip(
        boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
    ):
        yield json.dumps(
            {"image_id": image_id, "category_id": ids[label], "bbox": bbox, "score": score},
            allow_nan=False,
        )
