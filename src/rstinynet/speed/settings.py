"""What is timed, and in which runtimes. Needs no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rstinynet.errors import UsageError
from rstinynet.model.metadata import MOST_SIDE
from rstinynet.runtime.backend import Precision, check_threads


class Runtime(NamedTuple):
    """One way to run a model."""

    words: str
    module: str
    """The package that it needs."""
    precision: Precision = "float32"
    compiled: bool = False
    """By torch.compile."""
    int8: bool = False


RUNTIMES = {
    "torch": Runtime("torch", "torch"),
    "compiled": Runtime("torch, compiled", "torch", compiled=True),
    "onnx": Runtime("ONNX Runtime", "onnxruntime"),
    "openvino": Runtime("OpenVINO", "openvino"),
    "int8": Runtime("OpenVINO, INT8", "openvino", int8=True),
    "torch-bf16": Runtime("torch, bfloat16", "torch", "bfloat16"),
    "compiled-bf16": Runtime("torch, compiled, bfloat16", "torch", "bfloat16", compiled=True),
    "openvino-bf16": Runtime("OpenVINO, bfloat16", "openvino", "bfloat16"),
    "int8-bf16": Runtime("OpenVINO, INT8, rest bfloat16", "openvino", "bfloat16", int8=True),
    "torch-half": Runtime("torch, half", "torch", "float16"),
    "compiled-half": Runtime("torch, compiled, half", "torch", "float16", compiled=True),
}
"""By the name that `--runtimes` takes."""
ON_CPU = ("torch", "compiled", "onnx", "openvino")
ON_GPU = ("torch", "torch-half", "compiled-half")
EXPORTED = {".onnx": ("onnx",), ".xml": ("openvino", "openvino-bf16")}
"""What can run a file that is exported already."""


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSettings:
    """How models are timed; each combination of size, batch and threads is a table."""

    imgsz: tuple[int, ...] = ()
    """Sides of the model's square input; none: the weights' own."""
    batch: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = ()
    """Of the processor, for every runtime; none: as many as there are processors."""
    runtimes: tuple[str, ...] = ()
    """Names out of `RUNTIMES`; none: `ON_CPU` or `ON_GPU`."""
    seconds: float = 10.0
    """Budget of one row, after it has been opened and warmed."""
    image: Path | None = None
    """The file that is read; None: a square of the sample scene."""
    calibrate: Path | None = None
    """Folder of images for INT8; None: the image that is timed, enough for speed alone."""
    device: str | None = None
    """torch's; None: a GPU where there is one."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.runtimes if name not in RUNTIMES]
        if unknown:
            raise UsageError(f"there is no runtime {unknown[0]!r}; there are {', '.join(RUNTIMES)}")
        if any(value < 1 for value in self.batch):
            raise UsageError(f"--batch must be 1 or more, not {min(self.batch)}")
        for threads in self.threads:
            check_threads(threads, name="--threads")
        for side in self.imgsz:
            if side % 32 or not 32 <= side <= MOST_SIDE:
                raise UsageError(
                    f"--imgsz must be a multiple of 32 up to {MOST_SIDE} pixels, not {side}"
                )
        if not self.seconds > 0:
            raise UsageError(f"--seconds must be over 0, not {self.seconds}")
