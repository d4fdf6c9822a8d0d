"""Average precision in COCO's, AI-TOD's, Pascal VOC's and DIOR's protocol.

Sets that are labelled in part are scored as LVIS does (Gupta et al., CVPR 2019, section 3.2):
detections of a class that is not known on an image are dropped, and where a class is not
exhaustively labelled an unmatched detection is ignored instead of counted as false.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol as Typed

from rstinynet.data.annotations import LabelledSet
from rstinynet.evaluate.columns import Chunk, Found, chunks
from rstinynet.evaluate.match import Matches, match
from rstinynet.evaluate.protocols import AITOD, Protocol
from rstinynet.evaluate.records import Records
from rstinynet.evaluate.scores import (
    ClassArrays,
    ClassScores,
    Evaluation,
    Scores,
    class_arrays,
    recalls_of,
    values_of,
)

PROTOCOL = AITOD.title
MAX_DET = 1500
"""Most detections of one class on one image in AI-TOD's protocol."""
FIGURES = AITOD.figures
"""The seven numbers of AI-TOD's tables."""

__all__ = [
    "FIGURES",
    "MAX_DET",
    "PROTOCOL",
    "ClassScores",
    "Evaluation",
    "Scores",
    "Watcher",
    "evaluate",
    "evaluation_of",
    "match_all",
]


def evaluate(
    labelled: LabelledSet,
    found: Found,
    *,
    protocol: Protocol = AITOD,
    max_det: int | None = None,
) -> Evaluation:
    """Score the objects `found`, by image id, against all images of `labelled`.

    An image that `found` lacks has no detections. `max_det` replaces the protocol's limit on the
    detections of each class on an image, best first. Raises DataError for an image id or label
    that `labelled` lacks and for values that are not finite, UsageError for a `max_det` below 1.
    """
    return evaluation_of(match_all(labelled, found, protocol.with_max_det(max_det)), labelled)


class Watcher(Typed):
    """Something that counts while everything is matched."""

    def add(self, chunk: Chunk, matches: Matches) -> None:
        """Take in one chunk; chunks come in the order of their images."""


def match_all(
    labelled: LabelledSet, found: Found, protocol: Protocol, *, watchers: Sequence[Watcher] = ()
) -> Records:
    """Match everything `found`, part by part, and keep what scores need.

    Raises DataError as `evaluate` does.
    """
    records = Records(protocol, classes=len(labelled.categories), images=len(labelled))
    for chunk in chunks(labelled, found):
        matches = match(chunk, protocol)
        for each in (records, *watchers):
            each.add(chunk, matches)
    return records


def evaluation_of(records: Records, labelled: LabelledSet) -> Evaluation:
    """The numbers of everything that was matched."""
    protocol = records.protocol
    arrays: list[ClassArrays] = []
    per_class: dict[str, ClassScores] = {}
    for label, name in enumerate(labelled.names):
        mine = records.of(label)
        arrays.append(class_arrays(mine, protocol))
        per_class[name] = ClassScores(
            protocol=protocol,
            values=values_of(arrays[-1:], protocol),
            ar_by_max_det=recalls_of(arrays[-1:], protocol),
            objects=len(mine.objects),
            detections=int(records.detections[label]),
            conf=arrays[-1].lrp.conf,
        )
    return Evaluation(
        protocol=protocol,
        values=values_of(arrays, protocol),
        ar_by_max_det=recalls_of(arrays, protocol),
        per_class=per_class,
        images=len(labelled),
        dropped_unknown=records.dropped,
        settings=protocol.as_dict(),
    )
