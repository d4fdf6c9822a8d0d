"""DIOR: 23,463 images of 800 x 800 and 20 classes, from its published folders.

    JPEGImages-trainval/  JPEGImages-test/
    Annotations/Horizontal Bounding Boxes/*.xml
    ImageSets/Main/{train,val,test}.txt

Corners are taken as they are written. `difficult` objects become regions to ignore.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rstinynet.boxes import to_xywh
from rstinynet.data.annotations import LabelledSet
from rstinynet.data.catalog.prepared import (
    Counts,
    Prepared,
    Progress,
    check_counts,
    is_whole,
    publish,
    refuse_missing,
    require_same_version,
    silent,
)
from rstinynet.data.formats.common import place_file
from rstinynet.data.formats.voc import read_list, read_voc
from rstinynet.errors import UsageError

CLASSES = (
    "airplane",
    "airport",
    "baseballfield",
    "basketballcourt",
    "bridge",
    "chimney",
    "dam",
    "Expressway-Service-area",
    "Expressway-toll-station",
    "golffield",
    "groundtrackfield",
    "harbor",
    "overpass",
    "ship",
    "stadium",
    "storagetank",
    "tenniscourt",
    "trainstation",
    "vehicle",
    "windmill",
)
"""In the paper's order; their ids are 1 to 20."""

SIZE_PX = (800, 800)
SPLITS = ("train", "val", "test")
EXPECTED = {
    "train": Counts(5_862),
    "val": Counts(5_863),
    "test": Counts(11_738),
    "all": Counts(23_463, 192_472),
}
"""Published counts; boxes are known for all splits together."""

WHERE = """Where it is to be had: https://gcheng-nwpu.github.io (its entry DIOR) and mirrors of it:
JPEGImages-trainval.zip, JPEGImages-test.zip, Annotations.zip and ImageSets.zip (or Main.zip).
Unpack them into the one folder and run the same command again; what is done is kept.
With --allow-missing a smaller set is made, whose numbers cannot be compared."""


def prepare_dior(
    root: Path | str,
    out: Path | str,
    *,
    allow_missing: bool = False,
    expected: Mapping[str, Counts] | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Make a COCO folder of DIOR out of its unpacked archives, or say what they lack.

    Args:
        root: folder with DIOR's own folders.
        out: folder to make: `{train,val,trainval,test}.json` and `images/`, hard-linked where the
            disk allows it.
        allow_missing: leave out images that are not there whole and accept other counts.
        expected: counts to insist on in place of the published ones, by split and "all".

    Raises:
        UsageError: `root` is not there, or `out` holds another data set.
        DataError: something is missing, damaged, or differs from the published counts.
    """
    root, out = Path(root), Path(out)
    wanted = EXPECTED if expected is None else expected
    if not root.is_dir():
        raise UsageError(f"folder not found: {root}; give the folder with DIOR's unpacked archives")
    require_same_version(out, "DIOR")
    folder = _first(root, "Annotations/Horizontal Bounding Boxes", "Annotations")
    lists = {split: _list_of(root, split) for split in SPLITS}
    missing = {
        "folders": [] if folder else ["Annotations/Horizontal Bounding Boxes"],
        "lists": [f"ImageSets/Main/{name}.txt" for name, path in lists.items() if path is None],
    }
    refuse_missing("DIOR", missing, WHERE)
    assert folder is not None

    names = {split: read_list(path) for split, path in lists.items() if path is not None}
    every = [name for split in SPLITS for name in names[split]]
    if not allow_missing:
        for split, listed in names.items():
            check_counts(split, Counts(len(listed)), wanted, str(root))
    images = {name: _image_of(root, name) for name in every}
    lacking = {
        "images": [f"{name}.jpg" for name, path in images.items() if path is None],
        "images damaged or not 800 x 800": [
            path.name for path in images.values() if path and not is_whole(path, SIZE_PX)
        ],
        "annotations": [f"{name}.xml" for name in every if not (folder / f"{name}.xml").is_file()],
    }
    if not allow_missing:
        refuse_missing("DIOR", lacking, WHERE)
    gone = {Path(name).stem for kind in lacking.values() for name in kind}
    every = [name for name in every if name not in gone]

    sources = {name: path for name, path in images.items() if path is not None}
    for done, name in enumerate(every):
        progress("images", done, len(every))
        place_file(sources[name], out / "images" / sources[name].name, link=True)
    labelled = read_voc(
        [folder / f"{name}.xml" for name in every],
        [out / "images" / sources[name].name for name in every],
        names=CLASSES,
        first_pixel=0,
    )
    if not allow_missing:
        boxes = sum(len(image.boxes) for image in labelled.images)
        check_counts("all", Counts(len(every), boxes), wanted, str(root))
    part_of = {name: split for split in SPLITS for name in names[split]}
    contents = {split: _content(labelled, part_of, (split,)) for split in SPLITS}
    contents["trainval"] = _content(labelled, part_of, ("train", "val"))
    record = {"version": "DIOR", "licence": "see the authors' terms", "missing_images": len(gone)}
    splits = publish(out, contents, record)
    return Prepared(folder=out, version="DIOR", splits=splits, missing=len(gone))


def _first(root: Path, *names: str) -> Path | None:
    found = (root / name for name in names)
    return next((path for path in found if path.is_dir() and any(path.glob("*.xml"))), None)


def _list_of(root: Path, split: str) -> Path | None:
    names = (f"ImageSets/Main/{split}.txt", f"Main/{split}.txt")
    return next((root / name for name in names if (root / name).is_file()), None)


def _image_of(root: Path, name: str) -> Path | None:
    folders = ("JPEGImages-trainval", "JPEGImages-test", "JPEGImages")
    found = (root / folder / f"{name}.jpg" for folder in folders)
    return next((path for path in found if path.is_file()), None)


def _content(
    labelled: LabelledSet, part_of: Mapping[str, str], splits: tuple[str, ...]
) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in labelled.images:
        if part_of[image.path.stem] not in splits:
            continue
        size = {"width": image.width, "height": image.height}
        images.append({"id": image.id, "file_name": image.path.name, **size})
        boxes = np.round(to_xywh(image.boxes), 3).tolist()
        rows = zip(image.labels.tolist(), boxes, image.crowd.tolist(), strict=True)
        for label, box, crowd in rows:
            record = {"id": len(annotations) + 1, "image_id": image.id}
            record |= {"category_id": labelled.categories[label].id, "iscrowd": int(crowd)}
            annotations.append({**record, "bbox": box, "area": box[2] * box[3]})
    categories = [{"id": each.id, "name": each.name} for each in labelled.categories]
    return {"images": images, "annotations": annotations, "categories": categories}
