"""Exporting from start to end: make, check against torch, write, and report."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.folder import open_split
from rstinynet.data.formats.coco import require_annotations
from rstinynet.data.image import read_rgb
from rstinynet.detections import Float32Array
from rstinynet.errors import UsageError
from rstinynet.evaluate.classes import match_classes
from rstinynet.export import check, int8, onnx_file, openvino_file, tensorrt_file, torch_file
from rstinynet.files import check_file_place, write_json
from rstinynet.model.detector import DetectorModel
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.model.weights import load_weights
from rstinynet.runtime.torch_backend import TorchBackend
from rstinynet.scenes.detector import Detector

Format = Literal["onnx", "openvino", "torch-export", "tensorrt"]
SUFFIX: dict[Format, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch-export": ".pt2",
    "tensorrt": ".trt.onnx",
}
"""An engine's own, so that by default it never replaces the ONNX file that runs everywhere."""
NOISE = "random values"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """What to export, and how."""

    format: Format = "onnx"
    imgsz: int | None = None
    """Side of the input; None: of the weights' tiles as the model sees them."""
    dynamic: bool = False
    """Any height and width; `imgsz` is then what scenes are cut to."""
    opset: int | None = None
    """ONNX operator set; None: `onnx_file.DEFAULT_OPSET`."""
    half: bool = False
    calibrate: Path | None = None
    """A folder of images, or labelled data (its train split); INT8 where it is given."""
    accurate: bool = False
    """INT8 leaves depthwise convolutions, and what lies between convolutions, in float."""
    keep_float: tuple[str, ...] = ()
    """Parts of the model, such as backbone, that INT8 leaves in float."""
    nms: bool = False

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise UsageError(
                f"the format must be {' or '.join(get_args(Format))}, not {self.format!r}"
            )
        if self.format == "torch-export" and (self.half or self.nms or self.calibrate is not None):
            raise UsageError(
                "the format torch-export is float32 without NMS: leave out --half, --int8 and "
                "--nms, or give --format onnx"
            )
        if self.format == "torch-export" and self.opset is not None:
            raise UsageError(
                "the format torch-export has no ONNX operators: leave out --opset, or give "
                "--format onnx"
            )
        if self.format == "torch-export" and self.dynamic:
            raise UsageError(
                "the format torch-export has one size: leave out --dynamic, or give --format onnx "
                "or openvino"
            )
        if self.format == "tensorrt" and (self.dynamic or self.nms or self.calibrate is not None):
            raise UsageError(
                "the format tensorrt is one engine, of one size, in float32 or float16 (--half); "
                "NMS has no output of a fixed size, and INT8 is calibrated for other runtimes: "
                "leave out --dynamic, --int8 and --nms, or give --format onnx"
            )
        if self.imgsz is not None:
            onnx_file.checked_size(self.imgsz)
        if self.calibrate is not None and self.half:
            raise UsageError("a model is either half precision or INT8: leave out one of the two")
        if (self.keep_float or self.accurate) and self.calibrate is None:
            raise UsageError(
                "--accurate and --keep-float say what INT8 leaves in float: give --int8 and "
                "--calibrate too"
            )
        if self.nms and self.calibrate is not None:
            raise UsageError("NMS inside the graph is for float models: leave out one of the two")

    @property
    def operators(self) -> int:
        """The ONNX operator set to build with."""
        return onnx_file.DEFAULT_OPSET if self.opset is None else self.opset

    @property
    def precision(self) -> check.Precision:
        """Of the weights in the file."""
        if self.calibrate is not None:
            return "int8"
        return "float16" if self.half else "float32"


def report_path(path: Path) -> Path:
    """Where the report of the exported file `path` stands: beside it, one for each file."""
    return path.with_name(f"{path.name}.export.json")


def export_model(
    weights: Path | str,
    out: Path | None = None,
    *,
    settings: ExportSettings,
    data: Path | None = None,
    split: str = "val",
) -> dict[str, Any]:
    """Write the exported model and, beside it, the report that is returned.

    `out` defaults to the name of the weights in the working folder. The file is checked before it
    gets its name, against torch on a real and a random image, and by AP on `data`. Raises
    ExportError beyond the tolerances of `check`, or where TensorRT is asked for and not present;
    WeightsError for weights that cannot be used, DataError for images to calibrate or measure on,
    UsageError for a place that cannot be written.
    """
    if settings.format == "tensorrt":
        tensorrt_file.check_present()
    suffix = SUFFIX[settings.format]
    path = out or Path(f"{_stem(weights)}{suffix}")
    if not path.name.lower().endswith(suffix) or path.name.lower() == suffix:
        raise UsageError(f"a file of the format {settings.format} ends in {suffix}, not {path}")
    check_file_place(path, option="--out")
    model, metadata = load_weights(weights)
    side = settings.imgsz or -(-round(metadata.imgsz * metadata.scale) // 32) * 32
    beside = path.with_name(f".{path.stem}.part{suffix}")
    labelled = None if data is None else split_for(metadata, data, split)
    try:
        _write(beside, (model, metadata), settings, side)
        report = _checked(beside, path, (model, metadata), settings, side)
        if labelled is not None:
            report |= _ap(beside, (model, metadata), settings, side, labelled)
        if settings.format == "openvino":
            # Whatever interrupts this, no model stands beside weights that are not its own.
            path.unlink(missing_ok=True)
            beside.with_suffix(".bin").replace(path.with_suffix(".bin"))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
        beside.with_suffix(".bin").unlink(missing_ok=True)
    write_json(report_path(path), report)
    return report


def split_for(metadata: WeightsMetadata, data: Path, split: str) -> LabelledSet:
    """The split to measure AP on, before anything long begins.

    Raises DataError where it is not there, has no box, or shares no class with the weights.
    """
    labelled = require_annotations(open_split(data, split), source=data)
    match_classes(metadata.names, data_names=labelled.names)
    return labelled


def _write(
    path: Path,
    source: tuple[DetectorModel, WeightsMetadata],
    settings: ExportSettings,
    side: int,
) -> None:
    model, metadata = source
    images: Any = None
    keep: list[str] = []
    if settings.calibrate is not None:
        keep = int8.kept_in_float(model.deployed(), settings.keep_float)
        images = check.inputs(int8.calibration_images(settings.calibrate), imgsz=side)
    if settings.format == "torch-export":
        torch_file.write_torch_export(path, model, metadata, imgsz=side)
        return
    made = onnx_file.build_onnx(
        model,
        metadata,
        imgsz=side,
        opset=settings.operators,
        half=settings.half and settings.format != "openvino",
        nms=settings.nms,
        dynamic=settings.dynamic,
    )
    if settings.format == "tensorrt":
        tensorrt_file.write_tensorrt(path, made, imgsz=side)
        return
    whole: Any = made if settings.format == "onnx" else openvino_file.to_openvino(made)
    if images is not None:
        whole = int8.quantise(whole, list(images[:, None]), keep=keep, accurate=settings.accurate)
    if settings.format == "onnx":
        onnx_file.write_onnx(path, whole)
    else:
        openvino_file.write_openvino(path, whole, half=settings.half)


def _checked(
    beside: Path,
    path: Path,
    source: tuple[DetectorModel, WeightsMetadata],
    settings: ExportSettings,
    side: int,
) -> dict[str, Any]:
    """The report of a file just written, compared with torch."""
    model, metadata = source
    report: dict[str, Any] = {
        "file": path.name,
        "format": settings.format,
        "model": metadata.model,
        "imgsz": side,
        "opset": None if settings.format == "torch-export" else settings.operators,
        "precision": settings.precision,
        "nms": settings.nms,
        "dynamic": settings.dynamic,
        "accurate": settings.accurate,
        "kept_in_float": list(settings.keep_float),
        "bytes": beside.stat().st_size
        + (beside.with_suffix(".bin").stat().st_size if settings.format == "openvino" else 0),
    }
    detector = _opened(beside, settings)
    if settings.nms:
        trials = [_trials(side)["a real image"]]
        if settings.dynamic:
            trials.append(trials[0][:, :, : _other_side(side)])
        found = [_compare_objects(detector, source, x, settings.precision) for x in trials]
        if not any(one["objects_before"] for one in found):
            warnings.warn(
                f"{path.name}: the weights find nothing on the picture of the check, so what NMS "
                "inside leaves was not compared: measure the file with --data",
                stacklevel=2,
            )
        return report | {
            "compared": {name: sum(one[name] for one in found) for name in found[0]},
        }
    fused = model.deployed()
    return report | {
        "compared": {
            name: check.compare(
                check.torch_output(fused, x),
                detector.backend.output(x),  # type: ignore[attr-defined]
                precision=settings.precision,
                where=f"{path} on {name}",
                noise=name.startswith(NOISE),
            )
            for name, x in _trials(side, dynamic=settings.dynamic).items()
        },
    }


def _opened(beside: Path, settings: ExportSettings) -> Detector:
    """A file just written, in the runtime that it is for."""
    return Detector.load(beside, device="tensorrt" if settings.format == "tensorrt" else "cpu")


def _trials(side: int, *, dynamic: bool = False) -> dict[str, Float32Array]:
    """A piece of the scene that ships with the package, and noise, two images each.

    For a model of any size also a part of the piece, wider than high, and noise that is higher.
    """
    with resources.as_file(resources.files("rstinynet") / "samples" / "vegas_pan.tif") as scene:
        image = read_rgb(scene)
    real = check.inputs([image, image[::-1, ::-1]], imgsz=side)
    rng = np.random.default_rng(0)
    trials = {"a real image": real, NOISE: rng.random((2, 3, side, side), np.float32)}
    if dynamic:
        other = _other_side(side)
        trials[f"{side} x {other} px"] = np.ascontiguousarray(real[:, :, :other])
        uneven = rng.random((1, 3, side + 32, other), np.float32)
        trials[f"{NOISE}, {other} x {side + 32} px"] = uneven
    return trials


def _other_side(side: int) -> int:
    return max(1, side // 64) * 32


def _compare_objects(
    detector: Detector,
    source: tuple[DetectorModel, WeightsMetadata],
    x: Float32Array,
    precision: check.Precision,
) -> dict[str, int]:
    """With NMS inside: the objects found in the first of the images, by both."""
    image = np.ascontiguousarray((x[0] * 255).round().astype(np.uint8).transpose(1, 2, 0))
    conf, iou = 0.05, onnx_file.NMS_IOU
    rows = detector.backend.output(x[:1])  # type: ignore[attr-defined]
    check.check_suppressed(rows, iou=iou, where="the exported model")
    # The image is the model's square already, whatever the weights resize theirs by.
    wanted = Detector(source[0], source[1], device="cpu").detect(image, conf=conf, iou=iou, scale=1)
    got = detector.detect(image, conf=conf, iou=iou, scale=1)
    return check.compare_objects(wanted, got, conf=conf, iou=iou, precision=precision)


def _ap(
    beside: Path,
    source: tuple[DetectorModel, WeightsMetadata],
    settings: ExportSettings,
    side: int,
    labelled: Any,
) -> dict[str, float]:
    squared = TorchBackend(source[0], device="cpu")
    # The same square for both, so that only the runtime differs.
    squared.side = None if settings.dynamic else side
    exported = _opened(beside, settings)
    before = check.average_precision(Detector(squared, exported.metadata), labelled)
    after = check.average_precision(exported, labelled)
    return check.compare_ap(before, after, precision=settings.precision, where=beside)


def _stem(weights: Path | str) -> str:
    """What a file of these weights is called: as they are, but for the suffix of a weights file."""
    path = Path(str(weights))
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.suffix.lower() == ".safetensors" else path.name
