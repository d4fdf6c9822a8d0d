"""A folder with all that weights need to be passed on, which uploads to a model hub as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstinynet.data.folder import name_of
from rstinynet.errors import UsageError
from rstinynet.export.card import Facts, model_card
from rstinynet.export.check import evaluation
from rstinynet.export.licence import licence_file, licence_of, shipped_notice
from rstinynet.export.mlm import mlm_item
from rstinynet.export.onnx_file import checked_size
from rstinynet.export.run import ExportSettings, export_model, report_path, split_for
from rstinynet.files import check_folder_place, replacing_folder, write_bytes, write_json
from rstinynet.model.cost import count_parameters
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.model.weights import find_weights, load_weights, relabelled, shipped_path
from rstinynet.runtime.onnx_backend import OnnxBackend
from rstinynet.scenes.detector import Detector

WEIGHTS, ONNX, REPORT = "model.safetensors", "model.onnx", "model.export.json"
CARD, ITEM, LICENSE, EXAMPLE = "README.md", "mlm-item.json", "LICENSE", "example.py"
FILES = frozenset({WEIGHTS, ONNX, REPORT, CARD, ITEM, LICENSE, EXAMPLE})
"""All that a package holds."""
_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

_EXAMPLE = '''\
"""Finds the objects of an image with the model in this folder.

    python example.py [IMAGE]

IMAGE is a picture or a GeoTIFF of any size; without it the sample scene of rs-tinynet is searched.
Needs `pip install 'rs-tinynet[torch]'`, or 'rs-tinynet[runtime]', which runs model.onnx.
"""

import sys
from importlib import resources
from pathlib import Path

import rstinynet


def main() -> None:
    sample = resources.files("rstinynet") / "samples" / "vegas_pan.tif"
    image = sys.argv[1] if len(sys.argv) > 1 else str(sample)
    detector = rstinynet.load(Path(__file__).resolve().parent)
    result = detector.predict(image)
    boxes, names = result.boxes, result.names
    print(f"{len(result)} objects in {Path(image).name}: {result.counts()}")
    for box, score, label in list(zip(boxes.xyxy, boxes.conf, boxes.cls))[:10]:
        left, top, right, bottom = (round(float(side), 1) for side in box)
        print(f"{names[int(label)]} {score:.2f} at {left}, {top}, {right}, {bottom}")


if __name__ == "__main__":
    main()
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSettings:
    """What a package says beyond what the weights say of themselves."""

    licence: str | None = None
    """Licence of the weights, in place of the one in their metadata."""
    notice: Path | None = None
    """Text added to LICENSE: attribution of the training data."""
    notes: Path | None = None
    """Markdown added to the card."""
    repo: str | None = None
    """`owner/name` on the hub, for the card; the name is the card's title."""
    imgsz: int | None = None
    """Side of the ONNX file's input; None: of the weights' tiles."""
    overwrite: bool = False
    """Replace a folder that holds a package."""

    def __post_init__(self) -> None:
        if self.repo is not None and not _REPO.fullmatch(self.repo):
            raise UsageError(f"the hub's name of a model is owner/name, not {self.repo!r}")
        if self.licence is not None and not licence_of(self.licence).stated:
            raise UsageError("name a licence, such as 'Apache-2.0', or leave it out")
        if self.imgsz is not None:
            checked_size(self.imgsz)


def package_model(
    weights: Path | str,
    out: Path,
    *,
    settings: PackageSettings,
    data: Path | None = None,
    split: str = "val",
) -> dict[str, Any]:
    """Write the folder `out`, whole or not at all; what was written and found, as a dict.

    The ONNX file is checked against the weights, by AP too where `data` is given, whose numbers by
    class then stand in the card. Raises UsageError for a folder that holds other things, and
    WeightsError, ExportError and DataError as loading, exporting and measuring do.
    """
    check_folder_place(out, option="--out")
    if out.resolve() == Path.cwd():
        raise UsageError(
            f"--out {out} is the working folder, in whose place a new one is put: name a folder in "
            "it, or go to another first"
        )
    if not settings.overwrite and out.is_dir():
        _refuse_package(out)
    notice, notes = _text(settings.notice), _text(settings.notes)
    path = find_weights(weights)
    model, metadata = load_weights(path)
    if settings.notice is None and _is_shipped(path, metadata):
        notice = shipped_notice()
    if settings.licence is not None:
        metadata = metadata.model_copy(update={"licence": settings.licence})
    licence = licence_of(metadata.licence)
    labelled = None if data is None else split_for(metadata, data, split)
    title = settings.repo.split("/")[1] if settings.repo else metadata.model
    with replacing_folder(out, may_hold=FILES if settings.overwrite else ()) as folder:
        content = path.read_bytes() if settings.licence is None else relabelled(path, metadata)
        write_bytes(folder / WEIGHTS, content)
        export = export_model(
            folder / WEIGHTS,
            folder / ONNX,
            settings=ExportSettings(imgsz=settings.imgsz),
            data=data,
            split=split,
        )
        report_path(folder / ONNX).replace(folder / REPORT)
        measured = None
        if labelled is not None:
            measured = evaluation(Detector(model, metadata), labelled).as_dict()
        facts = Facts(
            title=title,
            metadata=metadata,
            licence=licence,
            repo=settings.repo,
            export=export,
            measured=measured,
            measured_on="" if data is None else _words_of(data, split, len(labelled or ())),
            notes=notes,
        )
        _write(folder / CARD, model_card(facts))
        _write(folder / LICENSE, licence_file(licence, model=title, notice=notice))
        _write(folder / EXAMPLE, _EXAMPLE)
        item = mlm_item(
            folder,
            metadata,
            title=title,
            licence=licence,
            shape=_shape(folder / ONNX),
            parameters=count_parameters(model),
        )
        write_json(folder / ITEM, item)
        load_weights(folder)
    return {
        "folder": str(out),
        "model": metadata.model,
        "licence": licence.text,
        "licence_stated": licence.stated,
        "metrics": facts.numbers,
        "compared": export["compared"],
        "files": {name: (out / name).stat().st_size for name in sorted(FILES)},
    }


def _refuse_package(out: Path) -> None:
    names = {one.name for one in out.iterdir()}
    if names and names <= FILES:
        raise UsageError(f"{out} holds a package already: give --overwrite to replace it")


def _is_shipped(path: Path, metadata: WeightsMetadata) -> bool:
    shipped = shipped_path(metadata.model)
    return shipped is not None and shipped.read_bytes() == path.read_bytes()


def _text(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a text file that can be read: {error}") from error


def _words_of(data: Path, split: str, images: int) -> str:
    return (
        f"the split {split} of {name_of(data)} ({images} images), measured when this was packaged"
    )


def _write(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def _shape(path: Path) -> tuple[int, int]:
    """Side of the input and count of anchors of the ONNX file."""
    backend = OnnxBackend(path, device="cpu")
    assert backend.side is not None
    return backend.side, int(backend.session.get_outputs()[0].shape[2])
