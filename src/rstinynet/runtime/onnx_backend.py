"""Exported models run by ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from rstinynet.detections import Detections, Float32Array
from rstinynet.errors import ExportError, UsageError
from rstinynet.model.metadata import METADATA_KEY, WeightsMetadata
from rstinynet.runtime.backend import (
    Images,
    RuntimeOptions,
    candidates,
    checked_sides,
    digest_of,
    to_input,
)

if TYPE_CHECKING:
    import onnxruntime

GPU_BATCH = 8
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "dml": "DmlExecutionProvider",
}
"""What `device` may say, and the provider it means. Without one: CUDA's where it is, else CPU's."""


class OnnxBackend:
    """An ONNX file that `rstinynet export` wrote."""

    multiple = 32

    def __init__(
        self,
        path: Path | str,
        *,
        device: str | None = None,
        options: RuntimeOptions | None = None,
    ) -> None:
        """Raises ExportError where ONNX Runtime is not installed or the file is not such a one."""
        self._given = (device, options)
        options = options or RuntimeOptions()
        self._origin = str(path)
        if options.precision != "float32":
            raise UsageError(
                "ONNX Runtime computes in what the file holds: leave out the precision, and export "
                "with --half for float16"
            )
        runtime = _runtime(self._origin)
        providers = _providers(runtime, device, options)
        settings = runtime.SessionOptions()
        settings.log_severity_level = 3
        # Threads that spin while they wait take the cores from whoever shares them.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        try:
            self.session = runtime.InferenceSession(str(path), settings, providers=providers)
        except Exception as error:
            raise ExportError(
                f"{path}: ONNX Runtime {runtime.__version__} cannot load this file: "
                f"{str(error).splitlines()[0]}. Export it again with `rstinynet export`"
            ) from error
        self.properties: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        self.metadata = parse_metadata(self.properties.get(METADATA_KEY), origin=self._origin)
        inputs = self.session.get_inputs()
        self._input = inputs[0].name
        shape = [d if isinstance(d, int) else None for d in inputs[0].shape]
        self.side = checked_sides(shape, origin=self._origin)
        self.device = _short(self.session.get_providers()[0])
        self.batch = options.batch or (1 if self.device == "cpu" else GPU_BATCH)

    def __reduce__(self) -> tuple[Any, ...]:
        # What a runtime has loaded cannot be sent to another process, but the path can.
        return _reopen, (self._origin, self._given)

    def digest(self) -> str:
        """See `Backend.digest`."""
        return digest_of(Path(self._origin))

    def output(self, x_BCHW: Float32Array) -> Float32Array:
        """What the file itself gives for inputs in [0, 1]; see `backend.candidates`."""
        return np.asarray(self.session.run(None, {self._input: x_BCHW})[0], np.float32)

    def find(self, images_BHWC: Images, *, conf: float) -> list[Detections]:
        """See `Backend.find`."""
        output = self.output(to_input(images_BHWC))
        return candidates(output, count=len(images_BHWC), conf=conf, origin=self._origin)


def _reopen(path: str, given: tuple[str | None, RuntimeOptions | None]) -> OnnxBackend:
    return OnnxBackend(path, device=given[0], options=given[1])


def parse_metadata(text: str | None, *, origin: str) -> WeightsMetadata:
    """The metadata that an exported file carries; ExportError for a foreign file."""
    if text is None:
        raise ExportError(
            f"{origin}: not exported by rstinynet (its metadata has no {METADATA_KEY!r}), so its "
            "classes and scaling are unknown: export the weights with `rstinynet export`"
        )
    try:
        return WeightsMetadata.model_validate(json.loads(text))
    except (ValueError, ValidationError) as error:
        raise ExportError(f"{origin}: its metadata cannot be read: {error}") from error


def _runtime(origin: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            f"{origin}: ONNX Runtime runs this file, and it is not installed: "
            "pip install 'rs-tinynet[runtime]'"
        ) from error
    return onnxruntime


def _providers(
    runtime: onnxruntime, device: str | None, options: RuntimeOptions
) -> list[str | tuple[str, dict[str, str]]]:
    there = runtime.get_available_providers()
    if options.providers is not None:
        wanted = [_PROVIDERS.get(one.lower(), one) for one in options.providers]
    elif device is None:
        wanted = [p for p in (_PROVIDERS["cuda"], _PROVIDERS["cpu"]) if p in there]
    else:
        wanted = [_PROVIDERS.get(device.split(":")[0].lower(), device)]
    missing = [one for one in wanted if one not in there]
    if missing:
        raise UsageError(
            f"ONNX Runtime has no {missing[0]} here; it has {', '.join(map(_short, there))}"
        )
    number = device.partition(":")[2] if device else ""
    return [(one, {"device_id": number}) if number else one for one in wanted]


def _short(provider: str) -> str:
    return next((short for short, name in _PROVIDERS.items() if name == provider), provider)
