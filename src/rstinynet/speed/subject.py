"""One model in one runtime, opened so that a search of a file tells the model's share of it."""

from __future__ import annotations

import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rstinynet.data.image import read_rgb
from rstinynet.errors import RSTinyNetError, UsageError
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.runtime.backend import RuntimeOptions
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.reader import Scene
from rstinynet.speed.settings import RUNTIMES, Runtime


class UnavailableError(RSTinyNetError):
    """A runtime that cannot run this model here; the message is shown in its row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model and how large what it sees is."""

    given: str = ""
    """What the user calls it: a name, or a path."""
    source: Path | None
    """An exported file; None: `model`."""
    model: Any
    """A torch `DetectorModel`, or None."""
    metadata: WeightsMetadata
    side: int
    threads: int
    device: str | None = None
    random: bool = False
    """Whether the weights are."""


@dataclass(slots=True)
class Timed:
    """What one search took, in milliseconds."""

    model: float
    """The network alone, from its input; in exported models with the decoding that is inside."""
    whole: float
    """From file to boxes."""
    objects: int


@dataclass(slots=True)
class Subject:
    """A detector whose forward passes are timed."""

    detector: Detector
    spent: float = field(default=0.0, init=False)
    """Milliseconds in the model since it was last set to 0."""

    def __post_init__(self) -> None:
        backend: Any = self.detector.backend
        name = "network" if hasattr(backend, "network") else "output"
        inner, on_gpu = getattr(backend, name), str(backend.device).startswith("cuda")

        def timed(x: Any) -> Any:
            if on_gpu:
                result, took = _by_events(inner, x)
            else:
                begun = time.perf_counter()
                result = inner(x)
                took = 1000 * (time.perf_counter() - begun)
            self.spent += took
            return result

        setattr(backend, name, timed)

    def search(self, image: Path, *, longest: int, side: int, batch: int) -> Timed:
        """Find the objects of a file whose longer side is `longest` pixels, as the model sees
        `side`; as often as `batch` says in one forward pass."""
        self.spent = 0.0
        begun = time.perf_counter()
        if batch == 1:
            found = self.detector.predict(
                image, tile=longest, overlap=0, scale=side / longest
            ).detections
        else:
            images = [read_rgb(image) for _ in range(batch)]
            found = self.detector.detect_batch(images, scale=side / longest)[0]
        whole = 1000 * (time.perf_counter() - begun)
        return Timed(self.spent, whole, len(found))


def open_subject(name: str, case: Case, *, folder: Path, calibrate: list[Any]) -> Subject:
    """`case` in the runtime `name`; files are made in `folder` where they are not there yet.

    Raises UnavailableError, which says why, where this machine or model does not have the runtime.
    """
    runtime = RUNTIMES[name]
    if find_spec(runtime.module) is None:
        extra = {"torch": "torch", "onnxruntime": "runtime"}.get(runtime.module, runtime.module)
        raise UnavailableError(f"not installed: pip install 'rs-tinynet[{extra}]'")
    options = RuntimeOptions(threads=case.threads, precision=runtime.precision)
    try:
        return Subject(_opened(runtime, case, options, folder=folder, calibrate=calibrate))
    except UsageError as error:
        if options.precision == "float32":
            raise
        raise UnavailableError(str(error)) from error


def _opened(
    runtime: Runtime,
    case: Case,
    options: RuntimeOptions,
    *,
    folder: Path,
    calibrate: list[Any],
) -> Detector:
    if runtime.module == "torch":
        return _in_torch(runtime, case, options)
    path = case.source
    if path is None:
        if find_spec("onnx") is None or (runtime.int8 and find_spec("nncf") is None):
            raise UnavailableError("cannot be exported: pip install 'rs-tinynet[export]'")
        suffix = ".onnx" if runtime.module == "onnxruntime" else ".xml"
        kind = "int8" if runtime.int8 else "float"
        path = folder / f"{case.metadata.model}-{case.side}-{kind}{suffix}"
        if not path.exists():
            _export(path, case, calibrate if runtime.int8 else [])
    return Detector.load(path, options=options)


def _in_torch(runtime: Runtime, case: Case, options: RuntimeOptions) -> Detector:
    import torch

    from rstinynet.runtime.torch_backend import TorchBackend

    if case.model is None:
        raise UnavailableError("runs weights, not exported files")
    backend = TorchBackend(case.model, device=case.device, options=options)
    if runtime.compiled:
        # Graphs of CUDA where there is one: single images are small work for it.
        mode = "reduce-overhead" if backend.device.startswith("cuda") else "default"
        backend.network = torch.compile(backend.model, mode=mode, dynamic=False)
        try:
            size = (1, 3, case.side, case.side)
            x = torch.zeros(size, dtype=getattr(torch, options.precision), device=backend.device)
            with torch.inference_mode():
                backend.network(x.contiguous(memory_format=torch.channels_last))
        except Exception as error:
            line = str(error).strip().splitlines()[0]
            raise UnavailableError(f"torch.compile failed: {line}") from error
    return Detector(backend, case.metadata)


def _export(path: Path, case: Case, images: list[Any]) -> None:
    from rstinynet.export import check, int8, onnx_file, openvino_file

    made = onnx_file.build_onnx(case.model, case.metadata, imgsz=case.side)
    if path.suffix == ".onnx":
        onnx_file.write_onnx(path, made)
        return
    converted = openvino_file.to_openvino(made)
    if images:
        inputs = check.inputs(images, imgsz=case.side)
        keep = int8.kept_in_float(case.model)
        with redirect_stdout(sys.stderr):  # nncf draws its progress
            converted = int8.quantise(converted, list(inputs[:, None]), keep=keep)
    openvino_file.write_openvino(path, converted, half=False)


def _by_events(inner: Any, x: Any) -> tuple[Any, float]:
    """A call on the GPU, timed by the GPU's own clock."""
    import torch

    event: Any = torch.cuda.Event
    begun, ended = (event(enable_timing=True) for _ in range(2))
    begun.record()
    result = inner(x)
    ended.record()
    ended.synchronize()
    return result, float(begun.elapsed_time(ended))


def size_of(image: Path) -> tuple[int, int]:
    """Width and height of a file. DataError for what cannot be read."""
    with Scene(image) as scene:
        return scene.full_size
