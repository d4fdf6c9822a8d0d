"""Finding a split's annotation file and images from one path.

A data set is either a folder,

    DATA/train.json  (or DATA/annotations/train.json)
    DATA/images/     (or DATA/images/train/)

where `train.csv`, `train.gpkg` or `train.geojson` may stand in place of the COCO JSON; or a
`data.yaml` with `path` (relative to the file, default its folder), `train`, `val`, `test` (COCO
JSON files relative to `path`) and, to be checked, `names`. Where a split is a folder of images, a
text file that lists them, or a list of these, it is read as YOLO's.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.formats import table, vector
from rstinynet.data.formats.coco import read_coco
from rstinynet.data.formats.table import read_table
from rstinynet.data.formats.vector import read_vector
from rstinynet.data.formats.yolo import read_data_yaml, read_yolo
from rstinynet.errors import DataError


def open_split(data: Path | str, split: str) -> LabelledSet:
    """The labelled set of one split ("train", "val", "test").

    Raises:
        DataError: neither a data folder nor a data.yaml, the split is not there, or its
            annotations cannot be used.
    """
    data = Path(data)
    if data.is_dir():
        alone = data / "data.yaml"
        annotations = _in_folder(data, split)
        if annotations is not None:
            return read_coco(annotations, _images(data, annotations, split))
        if alone.is_file():
            return _from_yaml(alone, split)
        others = other_labels(data, split)
        if others is not None:
            return _from_others(others, data, split)
        if (data / "Annotations").is_dir() or any(
            (each / "labelTxt").is_dir() for each in (data, data / split)
        ):
            raise DataError(
                f"{data}: is in the layout of VOC or DOTA, which is converted first: "
                f"`rstinynet data convert {data} --to coco --out NEW`"
            )
        raise DataError(
            f"{data}: no split '{split}': looked for {split}.json, annotations/{split}.json, "
            f"the same with .csv, .gpkg and .geojson, and data.yaml; found {content_of(data)}"
        )
    if not data.exists():
        raise DataError(f"data not found: {data}; give a folder with {split}.json, or a data.yaml")
    if data.suffix.lower() in (".yaml", ".yml"):
        return _from_yaml(data, split)
    raise DataError(
        f"{data}: neither a data folder nor a data.yaml; give the folder that holds {split}.json"
    )


def name_of(data: Path | str) -> str:
    """What to call a data set: its folder's name."""
    path = Path(data).resolve()
    return path.parent.name if path.is_file() else path.name


def splits_of(data: Path | str) -> list[str]:
    """Those of "train", "val" and "test" that a data folder or data.yaml has."""
    data = Path(data)
    named = data / "data.yaml" if data.is_dir() else data
    listed = read_data_yaml(named) if named.is_file() and named.suffix in (".yaml", ".yml") else {}
    return [
        split
        for split in ("train", "val", "test")
        if listed.get(split)
        or (data.is_dir() and (_in_folder(data, split) or other_labels(data, split)))
    ]


OTHER_SUFFIXES = (".csv", ".gpkg", ".geojson")


def other_labels(data: Path, split: str) -> Path | None:
    """A split's table of boxes or map features, where its folder has one."""
    candidates = [
        folder / f"{split}{suffix}"
        for suffix in OTHER_SUFFIXES
        for folder in (data, data / "annotations")
    ]
    return next((path for path in candidates if path.is_file()), None)


def _from_others(labels: Path, data: Path, split: str) -> LabelledSet:
    folders = _images(data, labels, split)
    also = _classes_beside(labels, data, split)
    if labels.suffix == ".csv":
        return read_table(labels, folders, also=also)
    own = data / "images" / split
    return read_vector(labels, own if own.is_dir() else folders[0], also=also)


def _classes_beside(labels: Path, data: Path, split: str) -> dict[str, int | None]:
    """The classes of the other splits, which this one need not show: a set has one list of them.

    What cannot be read says so when its own turn comes.
    """
    also: dict[str, int | None] = {}
    for other in ("train", "val", "test"):
        beside = other_labels(data, other)
        if other == split or beside is None:
            continue
        classes_in = table.classes_in if beside.suffix == ".csv" else vector.classes_in
        with suppress(DataError):
            for name, number in classes_in(beside).items():
                if number is not None or name not in also:
                    also[name] = number
    return also


def different_classes(
    data: Path, train: LabelledSet, other: LabelledSet, *, split: str = "val"
) -> DataError:
    """What to raise where a split does not have the classes of train with the same ids."""
    lists = {"train": train.categories, split: other.categories}
    said = "; ".join(
        f"{split} has {', '.join(f'{each.name} ({each.id})' for each in categories)}"
        for split, categories in lists.items()
    )
    return DataError(
        f"{data}: the train and {split} splits have different categories: {said}; give both the "
        "same names and ids, in COCO's list of categories also of classes without a box"
    )


def annotation_file(data: Path | str, split: str) -> Path | None:
    """The COCO file of a split; None where its labels lie in other files."""
    data = Path(data)
    if data.is_dir():
        found = _in_folder(data, split)
        if found is not None:
            return found
        data = data / "data.yaml"
    if not data.is_file() or data.suffix.lower() not in (".yaml", ".yml"):
        return None
    content = read_data_yaml(data)
    path = data.parent / str(content.get("path", ".")) / str(content.get(split))
    return path if path.suffix.lower() == ".json" and path.is_file() else None


def _in_folder(data: Path, split: str) -> Path | None:
    candidates = (data / f"{split}.json", data / "annotations" / f"{split}.json")
    return next((path for path in candidates if path.is_file()), None)


def _images(root: Path, annotations: Path, split: str) -> list[Path]:
    """The folders that may hold the images, those that are there; else the one expected."""
    candidates = [root / "images", root / "images" / split, root / split, root]
    candidates += [annotations.parent / "images", annotations.parent]
    there = [folder for folder in dict.fromkeys(candidates) if folder.is_dir()]
    return there or [root / "images"]


def _from_yaml(path: Path, split: str) -> LabelledSet:
    content = read_data_yaml(path)
    root = path.parent / _text(path, content, "path", default=".")
    if split not in content:
        given = sorted(set(content) & {"train", "val", "test"})
        raise DataError(f"{path}: has no entry '{split}'; it has {given or 'no split at all'}")
    if not root.is_dir():
        raise DataError(f"{path}: 'path' leads to {root}, where there is no folder; correct it")
    if isinstance(content[split], list) or _is_yolo(root / _text(path, content, split)):
        return read_yolo(path, split)
    annotations = root / _text(path, content, split)
    if not annotations.exists():
        raise DataError(
            f"{path}: '{split}' leads to {annotations}, where there is nothing; correct it or "
            "'path'"
        )
    if annotations.suffix.lower() != ".json":
        raise DataError(
            f"{path}: '{split}' must be a COCO JSON file, or a folder or .txt list of images with "
            f"YOLO labels, not {annotations}"
        )
    labelled = read_coco(annotations, _images(root, annotations, split))
    _check_names(path, content.get("names"), labelled.names)
    return labelled


def _is_yolo(entry: Path) -> bool:
    return entry.is_dir() or entry.suffix.lower() == ".txt"


def _text(path: Path, content: dict[Any, Any], key: str, *, default: str | None = None) -> str:
    value = content.get(key, default)
    if not isinstance(value, str):
        raise DataError(f"{path}: '{key}' must be a path, not {value!r}")
    return value


def _check_names(path: Path, names: object, found: tuple[str, ...]) -> None:
    if names is None:
        return
    listed = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(listed, list) or sorted(map(str, listed)) != sorted(found):
        raise DataError(
            f"{path}: 'names' {names!r} differ from the annotation file's {list(found)}; "
            "correct one of them, or leave 'names' out"
        )


def content_of(folder: Path) -> str:
    """What lies in a folder, for a message."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
