"""Bringing a model's classes and a data set's classes together by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rstinynet.detections import Detections, Int64Array
from rstinynet.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMatch:
    """Which class of a data set each class of a model is."""

    label_of: Int64Array
    """(classes of the model,) label in the data set; -1 where the data set lacks the class."""
    only_model: tuple[str, ...]
    """Classes of the model that the data set lacks: what is found of them is dropped."""
    only_data: tuple[str, ...]
    """Classes of the data set that the model lacks: never found, they count AP 0."""

    def translate(self, detections: Detections) -> Detections:
        """The detections with the data set's labels, without those of classes it lacks."""
        labels = self.label_of[detections.labels]
        there = labels >= 0
        return Detections(detections.boxes[there], detections.scores[there], labels[there])


def match_classes(model_names: Sequence[str], *, data_names: Sequence[str]) -> ClassMatch:
    """Match classes by name, without regard to case, spaces, hyphens and underscores.

    Raises DataError where no class matches, or where two of either side have one name.
    """
    theirs = _by_key(data_names, "data set")
    ours = _by_key(model_names, "model")
    if not theirs.keys() & ours.keys():
        raise DataError(
            "model and data set must share classes by name; the model has "
            f"{', '.join(model_names) or 'none'}, the data set {', '.join(data_names) or 'none'}: "
            "rename the classes in the annotations, or use a model trained on such classes"
        )
    return ClassMatch(
        label_of=np.array([theirs.get(key, -1) for key in ours], np.int64),
        only_model=tuple(model_names[at] for key, at in ours.items() if key not in theirs),
        only_data=tuple(data_names[at] for key, at in theirs.items() if key not in ours),
    )


def _by_key(names: Sequence[str], whose: str) -> dict[str, int]:
    keys: dict[str, int] = {}
    for at, name in enumerate(names):
        key = re.sub(r"[\s_\-]+", "", name).casefold() or name
        if key in keys:
            raise DataError(
                f"class names must differ by more than case and separators; the {whose} has "
                f"{names[keys[key]]!r} and {name!r}: rename one of them"
            )
        keys[key] = at
    return keys
