"""The entries of a COCO results file, block by block, checked and as columns."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from rstinynet.errors import DataError

ROW = np.dtype([("image", "<i4"), ("label", "<i4"), ("xywh", "<f8", 4), ("score", "<f8")])
"""A detection: position of its image among those sorted by id, class index, box, score."""
BLOCK = 2**18
"""Characters of the file that are parsed at a time."""
_KEYS = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True, slots=True)
class Ids:
    """Ids of a labelled set, to translate those of a results file."""

    images: npt.NDArray[np.int64]
    """Ascending."""
    categories: npt.NDArray[np.int64]
    """Ascending: a class index is a position in it."""

    @staticmethod
    def of(images: Sequence[int], categories: Sequence[int]) -> Ids:
        """Ids from ascending numbers."""
        return Ids(np.array(images, np.int64), np.array(categories, np.int64))


def entries_of(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """Blocks of a file's entries, each with the number of its first entry.

    Raises DataError for a file that cannot be read, is not JSON or holds no list.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _blocks(path, iter(lambda: file.read(BLOCK), ""))
    except OSError as error:
        reason = error.strerror
        raise DataError(f"a results file must be readable; {path} is not: {reason}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"a results file must be JSON; {path} is not: {error}") from error


def _blocks(path: Path, texts: Iterator[str]) -> Iterator[tuple[int, list[Any]]]:
    text = next(texts, "").lstrip()
    if not text.startswith("["):
        _refuse_other(path, text, chain([text], texts))
    rest, count = text[1:], 0
    for text in texts:
        rest += text
        piece, rest = _whole_entries(path, rest, count)
        if piece:
            yield count, piece
            count += len(piece)
    body = rest.rstrip()
    if not body.endswith("]"):
        raise DataError(
            f"a results file must be JSON; {path} is not: it ends within its list, at or "
            f"after entry {count}: was it cut short?"
        )
    # A comma is owed between what was parsed and what is left.
    last = _parse(path, f"[{body}", count)
    if last:
        yield count, last
    elif count:
        raise DataError(
            f"a results file must be JSON; {path} is not: a comma stands before the end of its "
            f"list, after entry {count - 1}"
        )


def _whole_entries(path: Path, text: str, count: int) -> tuple[list[Any], str]:
    """The entries that end within `text`, and what is left after the comma behind them."""
    end = len(text)
    for _ in range(64):
        end = text.rfind(",", 0, end)
        # Most commas stand within entries: one behind a brace is likely to part two.
        while end > 0 and not text[:end][-8:].rstrip().endswith("}"):
            end = text.rfind(",", 0, end)
        if end <= 0:
            break
        try:
            return json.loads(f"[{text[:end]}]"), text[end + 1 :]
        except (ValueError, RecursionError) as error:
            # An error before the cut is the file's own; at the cut it is the cut's.
            place = error.pos if isinstance(error, json.JSONDecodeError) else 0
            cut = place >= end or "Unterminated string" in str(error)
            if not cut:
                raise _not_json(path, error, count) from error
    return [], text


def _parse(path: Path, text: str, count: int) -> list[Any]:
    try:
        content: list[Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(path, error, count) from error
    return content


def _not_json(path: Path, error: Exception, count: int) -> DataError:
    place = f", at or after entry {count}" if count else ""
    return DataError(f"a results file must be JSON; {path} is not{place}: {error}")


def _refuse_other(path: Path, begun: str, texts: Iterator[str]) -> NoReturn:
    kind = "nothing"
    if begun.startswith("{"):
        # As large as annotations are, they must be JSON to be taken for such.
        kind = "dict"
        if len(begun) < BLOCK:
            _parse(path, "".join(texts), 0)
    elif begun:
        kind = type(_parse(path, "".join(texts), 0)).__name__
    else:
        _parse(path, "", 0)
    raise DataError(
        f"a results file must hold a list of detections; {path} holds a {kind}: give the "
        "detections, not the annotations"
    )


def rows_of(entries: Sequence[Any], ids: Ids, *, where: Path, first: int) -> npt.NDArray[np.void]:
    """(N,) of `ROW` from the entries of `where`, the first of which has the number `first`.

    Raises DataError, naming the entry and its value, for the first entry that is wrong.
    """
    columns = _columns(entries)
    if columns is None:
        checked = [
            _fields(entry, f"{where}, entry {number}")
            for number, entry in enumerate(entries, first)
        ]
        columns = tuple(np.array(column) for column in zip(*checked, strict=True))
    image_ids, category_ids, boxes, scores = columns
    image = np.minimum(np.searchsorted(ids.images, image_ids), len(ids.images) - 1)
    label = np.minimum(np.searchsorted(ids.categories, category_ids), len(ids.categories) - 1)
    if len(ids.images) == 0 or len(ids.categories) == 0:
        wrong_image = np.ones(len(entries), np.bool_)
        wrong_category = wrong_image
    else:
        wrong_image = ids.images[image] != image_ids
        wrong_category = ids.categories[label] != category_ids
    if wrong_image.any() or wrong_category.any():
        at = int((wrong_image | wrong_category).argmax())
        _refuse_ids(f"{where}, entry {first + at}", entries[at], ids, bool(wrong_image[at]))
    rows = np.empty(len(entries), ROW)
    rows["image"], rows["label"], rows["xywh"], rows["score"] = image, label, boxes, scores
    return rows


def _columns(entries: Sequence[Any]) -> tuple[npt.NDArray[Any], ...] | None:
    """Four columns where every entry is plainly right, else None."""
    try:
        images = [entry["image_id"] for entry in entries]
        categories = [entry["category_id"] for entry in entries]
        boxes = [entry["bbox"] for entry in entries]
        scores = [entry["score"] for entry in entries]
        kinds = set(map(type, images)) | set(map(type, categories))
        numbers = set(map(type, chain.from_iterable(boxes))) | set(map(type, scores))
        if not (kinds <= {int} and numbers <= {int, float} and set(map(type, boxes)) <= {list}):
            return None
        xywh = np.array(boxes, np.float64)
        score = np.array(scores, np.float64)
        columns = (np.array(images, np.int64), np.array(categories, np.int64), xywh, score)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    right = xywh.shape == (len(entries), 4) and (xywh[:, 2:] >= 0).all()
    right = right and np.isfinite(xywh).all() and np.isfinite(score).all()
    return columns if right else None


def _refuse_ids(where: str, entry: Any, ids: Ids, wrong_image: bool) -> NoReturn:
    if wrong_image:
        raise DataError(
            f"image_id must be one of the split's images; {where} has {entry['image_id']!r}: were "
            "the results made on another split?"
        )
    raise DataError(
        f"category_id must be one of {ids.categories.tolist()}; {where} has "
        f"{entry['category_id']!r}: results use the annotation file's ids, not positions"
    )


def _fields(entry: Any, where: str) -> tuple[int, int, list[float], float]:
    if not isinstance(entry, dict):
        raise DataError(f"a detection must be an object, not {type(entry).__name__}: {where}")
    missing = [key for key in _KEYS if key not in entry]
    if missing:
        raise DataError(f"a detection must have {', '.join(missing)}; {where} does not")
    bbox, score = entry["bbox"], entry["score"]
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_finite, bbox))):
        raise DataError(
            f"bbox must be four finite numbers (left, top, width, height); {where} has {bbox!r}"
        )
    if bbox[2] < 0 or bbox[3] < 0:
        raise DataError(f"width and height must not be negative; {where} has {bbox!r}")
    if not _finite(score):
        raise DataError(f"score must be a finite number; {where} has {score!r}")
    return (
        _whole(entry["image_id"], "image_id", where),
        _whole(entry["category_id"], "category_id", where),
        [float(value) for value in bbox],
        float(score),
    )


def _whole(value: Any, key: str, where: str) -> int:
    # Data frames make 7.0 of 7 as soon as a column lacks a value; pycocotools reads it too.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(
            f"{key} must be a whole number; {where} has {value!r}: results use the annotation "
            "file's ids, not names"
        )
    if not -(2**63) <= value < 2**63:
        raise DataError(f"{key} must be one of the data's ids; {where} has {value!r}")
    return value


def _finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
