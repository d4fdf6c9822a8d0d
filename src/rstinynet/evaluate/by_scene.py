"""The same numbers of each scene: where a detector works, and where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rstinynet.evaluate.records import Records
from rstinynet.evaluate.scores import Scores, class_arrays, recalls_of, values_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneScores(Scores):
    """Means over the classes that have objects in one scene."""

    images: int
    objects: int

    def as_dict(self) -> dict[str, Any]:
        """JSON's types; None where there is no ground truth."""
        return Scores.as_dict(self) | {"images": self.images, "objects": self.objects}


def scene_scores(records: Records, scenes: Sequence[str]) -> dict[str, SceneScores]:
    """Scores of each scene, by name; `scenes` names that of each image, images sorted by id.

    Raises ValueError where there are not as many names as images.
    """
    if len(scenes) != records.images:
        raise ValueError(f"{records.images} images need as many scenes, not {len(scenes)}")
    names = sorted(set(scenes))
    number_of = {name: at for at, name in enumerate(names)}
    scene = np.array([number_of[name] for name in scenes], np.int64)
    arrays = [[] for _ in names]  # type: ignore[var-annotated]
    for label in range(records.classes):
        for at, mine in enumerate(records.of(label).parted(scene, count=len(names))):
            arrays[at].append(class_arrays(mine, records.protocol))
    return {
        name: SceneScores(
            protocol=records.protocol,
            values=values_of(arrays[at], records.protocol),
            ar_by_max_det=recalls_of(arrays[at], records.protocol),
            images=int((scene == at).sum()),
            objects=sum(each.objects for each in arrays[at]),
        )
        for at, name in enumerate(names)
    }
