"""Exported models run by OpenVINO."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from rstinynet.detections import Detections, Float32Array
from rstinynet.errors import ExportError, UsageError
from rstinynet.model.metadata import METADATA_KEY
from rstinynet.runtime.backend import (
    Images,
    RuntimeOptions,
    candidates,
    checked_sides,
    digest_of,
    to_input,
)
from rstinynet.runtime.onnx_backend import parse_metadata


class OpenvinoBackend:
    """An OpenVINO model (.xml with its .bin) that `rstinynet export` wrote."""

    multiple = 32

    def __init__(
        self,
        path: Path | str,
        *,
        device: str | None = None,
        options: RuntimeOptions | None = None,
    ) -> None:
        """`device` is OpenVINO's: "CPU" (default), "GPU", "AUTO", ...

        Raises ExportError where OpenVINO is not installed or the file is not such a one.
        """
        self._given = (device, options)
        options = options or RuntimeOptions()
        if options.providers is not None:
            raise UsageError("providers are ONNX Runtime's; for OpenVINO give the device")
        self._origin = str(path)
        core = _core(self._origin)
        self.device = (device or "cpu").lower()
        name = self.device.upper().replace(":", ".")
        if name != "AUTO" and name.split(".")[0] not in core.available_devices:
            there = ", ".join(core.available_devices).lower()
            raise UsageError(f"OpenVINO has no device {device!r} here; it has {there}")
        # On processors with bfloat16 OpenVINO would compute in it, and boxes move by many pixels.
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        if not Path(path).with_suffix(".bin").is_file():
            weights = Path(path).with_suffix(".bin").name
            raise ExportError(f"{path}: its weights, {weights}, must lie beside it")
        try:
            model = core.read_model(str(path))
            text = (
                model.get_rt_info(METADATA_KEY).astype(str)
                if model.has_rt_info(METADATA_KEY)
                else None
            )
            self.metadata = parse_metadata(text, origin=self._origin)
            shape = [d.get_length() if d.is_static else None for d in model.inputs[0].partial_shape]
            self.side = checked_sides(shape, origin=self._origin)
            self.compiled = core.compile_model(model, name, settings)
        except RuntimeError as error:
            raise ExportError(
                f"{path}: OpenVINO cannot load this file: {str(error).strip().splitlines()[-1]}. "
                "Export it again with `rstinynet export`"
            ) from error
        self.batch = options.batch or 1

    def __reduce__(self) -> tuple[Any, ...]:
        # What a runtime has loaded cannot be sent to another process, but the path can.
        return _reopen, (self._origin, self._given)

    def digest(self) -> str:
        """See `Backend.digest`."""
        path = Path(self._origin)
        return digest_of(path, path.with_suffix(".bin"))

    def output(self, x_BCHW: Float32Array) -> Float32Array:
        """What the file itself gives for inputs in [0, 1]; see `backend.candidates`."""
        return np.asarray(self.compiled([x_BCHW])[0], np.float32)

    def find(self, images_BHWC: Images, *, conf: float) -> list[Detections]:
        """See `Backend.find`."""
        output = self.output(to_input(images_BHWC))
        return candidates(output, count=len(images_BHWC), conf=conf, origin=self._origin)


def _reopen(path: str, given: tuple[str | None, RuntimeOptions | None]) -> OpenvinoBackend:
    return OpenvinoBackend(path, device=given[0], options=given[1])


def _core(origin: str) -> Any:
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    try:
        import openvino
    except ImportError as error:
        raise ExportError(
            f"{origin}: OpenVINO runs this file, and it is not installed: "
            "pip install 'rs-tinynet[openvino]'"
        ) from error
    return openvino.Core()
