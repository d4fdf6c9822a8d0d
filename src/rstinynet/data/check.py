"""Looking through a data set for what would spoil a training run, before it costs one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.check_records import boxes_in_set, images_twice, records_in_file
from rstinynet.data.convert import open_any, splits_needed
from rstinynet.data.findings import Example, Finding, Report, finding
from rstinynet.data.folder import annotation_file, different_classes
from rstinynet.data.image import read_rgb
from rstinynet.data.overlap import HashArray, footprint, near_pairs, overlapping, picture_hash
from rstinynet.data.stats import LEVELS, Stats, count
from rstinynet.errors import DataError

IMBALANCE = 100
"""Times that the most frequent class may outnumber the rarest."""
ANCHORLESS = 0.05
"""Share of boxes without an anchor from which on a set of levels is warned of."""

Progress = Callable[[str, int, int], None]


def check(
    data: Path | str,
    *,
    splits: Sequence[str] | None = None,
    images: bool = True,
    scale: float = 1.0,
    levels: Mapping[str, Sequence[int]] = LEVELS,
    progress: Progress = lambda split, done, total: None,
) -> Report:
    """Everything that is wrong with the splits of a data set in any of the formats.

    Args:
        data: as for `open_any`.
        splits: default those of train, val and test that are there.
        images: decode every image; without, only the annotations are looked at.
        scale: resize factor of training, for the anchors.
        levels: strides by a name, such as a model's.
        progress: called with the split, the images read and all of them.

    Raises:
        DataError: there is no split at all.
    """
    chosen = list(splits) if splits is not None else splits_needed(data)
    findings: list[Finding] = []
    stats: dict[str, Stats] = {}
    seen: dict[str, _Seen] = {}
    for split in chosen:
        source = annotation_file(data, split)
        try:
            labelled = open_any(data, split)
        except DataError as error:
            findings.append(finding("unusable annotations", "error", split, [], str(error), one=1))
            findings += records_in_file(source, split) if source is not None else []
            continue
        in_file = records_in_file(source, split) if source is not None else None
        findings += boxes_in_set(labelled, split) if in_file is None else in_file
        findings += images_twice(labelled, split)
        stats[split] = count(labelled, scale=scale, levels=levels)
        findings += _balance(stats[split], split)
        seen[split] = _Seen(labelled)
        if images:
            findings += _look_at(seen[split], split, progress)
    findings += _missing_classes(stats)
    findings += _different_classes(seen)
    findings += _shared_ground(seen)
    return Report(data=str(data), findings=tuple(findings), stats=stats)


@dataclass(slots=True)
class _Seen:
    labelled: LabelledSet
    hashes: list[HashArray | None] = field(default_factory=list)

    def name(self, at: int) -> str:
        return str(self.labelled.images[at].path)


def _balance(stats: Stats, split: str) -> list[Finding]:
    if not stats.boxes:
        says = f"not one box on {stats.images} images"
        return [finding("no objects", "error", split, [], says, one=stats.images)]
    found = []
    present = {name: number for name, number in stats.classes.items() if number}
    most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
    if present[most] > IMBALANCE * present[least]:
        says = f"{present[most]} boxes of {most}, {present[least]} of {least}"
        found.append(finding("class imbalance", "warning", split, [], says, one=1))
    for levels, share in stats.no_anchor.items():
        if share > ANCHORLESS:
            says = f"with {levels} no anchor lies in {share:.1%} of the boxes"
            boxes = round(share * stats.boxes)
            found.append(finding("no anchor", "warning", split, [], says, one=boxes))
    return found


def _missing_classes(stats: dict[str, Stats]) -> list[Finding]:
    if "train" not in stats:
        return []
    found = []
    for split, each in stats.items():
        absent = [
            name
            for name, number in each.classes.items()
            if number and not stats["train"].classes.get(name)
        ]
        if absent and split != "train":
            says = f"classes that train has no box of: {', '.join(absent)}"
            found.append(finding("untaught classes", "error", split, [], says, one=len(absent)))
    return found


def _different_classes(seen: dict[str, _Seen]) -> list[Finding]:
    """Splits whose list of classes is not that of train, which training refuses."""
    if "train" not in seen:
        return []
    train = seen["train"].labelled
    found = []
    for split, each in seen.items():
        if each.labelled.categories != train.categories:
            says = str(different_classes(Path(split), train, each.labelled, split=split))
            found.append(finding("different classes", "error", split, [], says, one=1))
    return found


def _look_at(seen: _Seen, split: str, progress: Progress) -> list[Finding]:
    """Decode every image; keeps the hash of each."""
    damaged: list[Example] = []
    wrong: list[Example] = []
    images = seen.labelled.images
    for done, image in enumerate(images):
        progress(split, done, len(images))
        try:
            pixels = read_rgb(image.path)
        except DataError as error:
            damaged.append(Example(split=split, image=str(image.path), note=str(error)))
            seen.hashes.append(None)
            continue
        height, width = pixels.shape[:2]
        if (width, height) != (image.width, image.height):
            note = f"{width} x {height}, labelled as {image.width} x {image.height}"
            wrong.append(Example(split=split, image=str(image.path), note=note))
        seen.hashes.append(picture_hash(pixels))
    progress(split, len(images), len(images))
    found = []
    if damaged:
        says = f"{len(damaged)} images cannot be read or are cut short"
        found.append(finding("damaged images", "error", split, damaged, says))
    if wrong:
        says = f"{len(wrong)} images are of another size than their labels say"
        found.append(finding("mis-sized images", "error", split, wrong, says))
    return found


def _shared_ground(seen: dict[str, _Seen]) -> list[Finding]:
    found = []
    names = list(seen)
    grounds = {
        name: [footprint(image.path) for image in each.labelled.images]
        for name, each in seen.items()
    }
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            both = f"{first} and {second}"
            pairs = [
                _pair(seen, first, second, a, b, note=f"{bits} of 512 bits differ")
                for a, b, bits in near_pairs(seen[first].hashes, seen[second].hashes)
            ]
            if pairs:
                says = f"{len(pairs)} pairs of images look the same: scores on {second} flatter"
                found.append(finding("near-duplicates", "error", both, pairs, says))
            shared = [
                _pair(seen, first, second, a, b, note="their ground overlaps")
                for a, b in overlapping(grounds[first], grounds[second])
            ]
            if shared:
                says = f"{len(shared)} pairs of images show the same ground by their georeference"
                found.append(finding("overlapping ground", "error", both, shared, says))
    return found


def _pair(seen: dict[str, _Seen], first: str, second: str, a: int, b: int, *, note: str) -> Example:
    return Example(split=first, image=seen[first].name(a), other=seen[second].name(b), note=note)
