"""Exported models run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rstinynet.detections import Float32Array
from rstinynet.errors import ExportError, UsageError
from rstinynet.model.metadata import METADATA_KEY
from rstinynet.runtime.backend import RuntimeOptions
from rstinynet.runtime.exported import ExportedBackend

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

_AGAIN = "Export it again with `rstinynet export`"
_ENGINE = (
    "It holds a TensorRT engine, which runs on the GPU and with the versions that built it: give "
    "the device tensorrt there, or export to onnx"
)


class OnnxBackend(ExportedBackend):
    """An ONNX file that `rstinynet export` wrote."""

    def _open(self, path: Path, device: str | None, options: RuntimeOptions) -> None:
        if options.precision != "float32":
            raise UsageError(
                "ONNX Runtime computes in what the file holds: leave out the precision, and export "
                "with --half for float16"
            )
        runtime = _runtime(self._origin)
        providers = _providers(runtime, device, options)
        settings = runtime.SessionOptions()
        settings.log_severity_level = 3
        # Threads spin between the layers of a pass, or each wake costs a third of a small model's
        # time; between passes they would take the cores from whoever shares them.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        try:
            # Its own fallback goes to the CPU in the middle of a run, and prints so on stdout.
            self.session = runtime.InferenceSession(
                str(path), settings, providers=providers, enable_fallback=0
            )
        except Exception as error:
            # As ONNX Runtime calls the node that holds a provider's compiled model.
            engine = "EPContext" in str(error)
            raise ExportError(
                f"{path}: ONNX Runtime {runtime.__version__} cannot load this file: "
                f"{str(error).splitlines()[0]}. {_ENGINE if engine else _AGAIN}"
            ) from error
        self.properties: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        inputs = self.session.get_inputs()
        described = [
            (one.type, [d if isinstance(d, int) else None for d in one.shape]) for one in inputs
        ]
        self._describe(self.properties.get(METADATA_KEY), described, float32="tensor(float)")
        self._input = inputs[0].name
        self.device = _short(self.session.get_providers()[0])
        if (device or options.providers) and self.session.get_providers()[0] not in _names(
            providers
        ):
            asked = ",".join(map(_short, _names(providers)))
            raise ExportError(
                f"{path}: ONNX Runtime does not run on {asked} here and fell back to "
                f"{self.device}: its driver or libraries are missing. Give --device {self.device}, "
                f"or --providers {asked},{self.device} to take what there is"
            )
        self.batch = options.batch or (1 if self.device == "cpu" else GPU_BATCH)

    def output(self, x_BCHW: Float32Array) -> Float32Array:
        """What the file itself gives for inputs in [0, 1]; see `backend.candidates`."""
        try:
            outputs = self.session.run(None, {self._input: x_BCHW})
        except Exception as error:
            raise ExportError(
                f"{self._origin}: ONNX Runtime cannot run this file on images {x_BCHW.shape}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        return np.asarray(outputs[0], np.float32)


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


def _names(providers: list[str | tuple[str, dict[str, str]]]) -> list[str]:
    return [one if isinstance(one, str) else one[0] for one in providers]


def _short(provider: str) -> str:
    return next((short for short, name in _PROVIDERS.items() if name == provider), provider)
