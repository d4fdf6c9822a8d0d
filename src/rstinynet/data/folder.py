"""Finding a split's annotation file and images from one path.

A data set is either a folder,

    DATA/train.json  (or DATA/annotations/train.json)
    DATA/images/     (or DATA/images/train/)

or a `data.yaml` with `path` (relative to the file, default its folder), `train`, `val`, `test`
(COCO JSON files relative to `path`) and, to be checked, `names`. Where a split is a folder of
images, a text file that lists them, or a list of these, it is read as YOLO's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.formats.coco import read_coco
from rstinynet.data.formats.yolo import read_yolo
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
        raise DataError(
            f"{data}: no split '{split}': looked for {split}.json, annotations/{split}.json and "
            f"data.yaml; found {_there(data)}"
        )
    if not data.exists():
        raise DataError(f"data not found: {data}; give a folder with {split}.json, or a data.yaml")
    if data.suffix.lower() in (".yaml", ".yml"):
        return _from_yaml(data, split)
    raise DataError(
        f"{data}: neither a data folder nor a data.yaml; give the folder that holds {split}.json"
    )


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
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be a mapping with path, train, val, test and names")
    root = path.parent / _text(path, content, "path", default=".")
    if split not in content:
        given = sorted(set(content) & {"train", "val", "test"})
        raise DataError(f"{path}: has no entry '{split}'; it has {given or 'no split at all'}")
    if isinstance(content[split], list) or _is_yolo(root / _text(path, content, split)):
        return read_yolo(path, split)
    annotations = root / _text(path, content, split)
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


def _there(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
