"""Finds tiny objects in remote-sensing images.

    import rstinynet

    detector = rstinynet.load("rs-tinynet-lite")
    result = detector.predict("scene.tif")

Names are imported when they are first used, so that `import rstinynet` is quick and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rstinynet.errors import (
    DataError,
    ExportError,
    RSTinyNetError,
    UsageError,
    WeightsError,
)
from rstinynet.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rstinynet.detections import Detections
    from rstinynet.runtime.backend import RuntimeOptions
    from rstinynet.scenes.detector import Detector
    from rstinynet.scenes.result import Result

__all__ = [
    "DataError",
    "Detections",
    "Detector",
    "ExportError",
    "RSTinyNetError",
    "Result",
    "RuntimeOptions",
    "UsageError",
    "WeightsError",
    "__version__",
    "load",
]

_LAZY = {
    "Detections": "rstinynet.detections",
    "Detector": "rstinynet.scenes.detector",
    "Result": "rstinynet.scenes.result",
    "RuntimeOptions": "rstinynet.runtime.backend",
}


def load(
    name_or_path: str | Path | Sequence[str | Path],
    *,
    device: str | None = None,
    options: RuntimeOptions | None = None,
) -> Detector:
    """The detector of shipped weights by name, of a weights file (.safetensors) by path, of an
    exported model (.onnx, .xml), which is run without torch, of a folder that `rstinynet package`
    wrote, or of such a folder on a hub ("hub:owner/name", "hub:owner/name@revision"). Of several,
    a sequence or names separated by commas, it is what they agree on.

    `device` is the runtime's name of one: torch's ("cpu", "cuda:1"; without it a GPU is used where
    there is one), ONNX Runtime's ("cpu", "cuda", ...) or OpenVINO's. `options` are threads,
    providers and batch. Raises WeightsError where there are no such weights, or they cannot be used
    or not together, ExportError for an exported model that cannot be run, UsageError for a device
    that is not there.
    """
    from rstinynet.scenes.detector import Detector

    return Detector.load(name_or_path, device=device, options=options)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
