"""Exported models run by OpenVINO."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rstinynet.detections import Float32Array
from rstinynet.errors import ExportError, UsageError
from rstinynet.model.metadata import METADATA_KEY
from rstinynet.runtime.backend import RuntimeOptions
from rstinynet.runtime.exported import ExportedBackend, without_providers

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CAPABILITIES = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16"}
_ENTRY = re.compile(r"decode/(bounded|flat_bins|flat_classes|flat)(_\d+)?")
"""Where the network's maps enter the decoding; `flat` alone in files of earlier versions."""

_UNDIVIDED = (
    "this file's decoding cannot be told from its network, so it runs in float32 only: export it "
    "again with `rstinynet export`"
)


def _device_of(name: str, there: Sequence[str]) -> str:
    """OpenVINO's own name of a device, which lists several GPUs as GPU.0, GPU.1 and one as GPU.

    Empty where there is no such device.
    """
    kinds = {one.split(".")[0] for one in there}
    if name == "AUTO" or name in there or name in kinds:
        return name
    kind, _, number = name.partition(".")
    return kind if number == "0" and kind in there else ""


class OpenvinoBackend(ExportedBackend):
    """An OpenVINO model (.xml with its .bin) that `rstinynet export` wrote.

    `device` is OpenVINO's: "CPU" (default), "GPU", "AUTO", ...
    """

    def _open(self, path: Path, device: str | None, options: RuntimeOptions) -> None:
        without_providers(options, runtime="OpenVINO")
        self.precision = options.precision
        core = _core(self._origin)
        self.device = (device or "cpu").lower()
        name = self.device.upper().replace(":", ".")
        name = _device_of(name, core.available_devices)
        if not name:
            there = ", ".join(core.available_devices).lower()
            raise UsageError(f"OpenVINO has no device {device!r} here; it has {there}")
        _check_precision(core, name, options.precision)
        # On processors with bfloat16 OpenVINO would compute in it, and boxes move by many pixels.
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        network = settings | {"INFERENCE_PRECISION_HINT": _HINTS[options.precision]}
        if not path.with_suffix(".bin").is_file():
            weights = path.with_suffix(".bin").name
            raise ExportError(f"{path}: its weights, {weights}, must lie beside it")
        try:
            model = core.read_model(str(path))
            text = (
                model.get_rt_info(METADATA_KEY).astype(str)
                if model.has_rt_info(METADATA_KEY)
                else None
            )
            described = [
                (
                    one.get_element_type().get_type_name(),
                    [d.get_length() if d.is_static else None for d in one.partial_shape],
                )
                for one in model.inputs
            ]
            self._describe(text, described, float32="f32")
            self._decode: Any = None
            if options.precision != "float32":
                model, decoding = _divided(model, origin=self._origin)
                self._decode = core.compile_model(decoding, name, settings)
            self.compiled = core.compile_model(model, name, network)
        except RuntimeError as error:
            raise ExportError(
                f"{path}: OpenVINO cannot load this file: {str(error).strip().splitlines()[-1]}. "
                "Export it again with `rstinynet export`"
            ) from error
        self.batch = options.batch or 1
        self._one_at_a_time = threading.Lock()

    @property
    def files(self) -> tuple[Path, ...]:
        """Both files."""
        path = Path(self._origin)
        return (path, path.with_suffix(".bin"))

    def digest(self) -> str:
        """See `Backend.digest`."""
        files = super().digest()
        return files if self._decode is None else f"{files} {self.precision}"

    def output(self, x_BCHW: Float32Array) -> Float32Array:
        """What the file itself gives for inputs in [0, 1]; see `backend.candidates`."""
        try:
            # What OpenVINO has compiled refuses a second thread while it computes for one.
            with self._one_at_a_time:
                outputs = self.compiled([x_BCHW])
                if self._decode is not None:
                    levels = [outputs[at] for at in range(len(outputs))]
                    outputs = self._decode([*levels, x_BCHW][: len(self._decode.inputs)])
        except RuntimeError as error:
            raise ExportError(
                f"{self._origin}: OpenVINO cannot run this file on images {x_BCHW.shape}: "
                f"{str(error).strip().splitlines()[-1]}"
            ) from error
        return np.asarray(outputs[0], np.float32)


def _check_precision(core: Any, name: str, precision: str) -> None:
    """UsageError where the device lacks it: OpenVINO would take another without a word.

    AUTO may take any device, so that all must have it.
    """
    if precision == "float32":
        return
    for device in core.available_devices if name == "AUTO" else [name]:
        able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
        if _CAPABILITIES[precision] not in able:
            has = ", ".join(one for one in _CAPABILITIES if _CAPABILITIES[one] in able)
            raise UsageError(
                f"OpenVINO's device {device.lower()!r} here has no {precision}; it has {has}"
            )


def _divided(model: Any, *, origin: str) -> tuple[Any, Any]:
    """The network, which gives the raw maps, and the decoding, which takes them.

    Coordinates of hundreds of pixels do not fit the eight bits of a bfloat16.
    """
    from openvino import Model, opset13

    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    maps = [node.input_value(0) for name, node in nodes.items() if _ENTRY.fullmatch(name)]
    if not maps:
        raise ExportError(f"{origin}: {_UNDIVIDED}")
    entries = []
    for level in maps:
        entry = opset13.parameter(level.get_partial_shape(), level.get_element_type())
        # In a model of any size the decoding reads its shape too.
        for reader in level.get_target_inputs():
            reader.replace_source_output(entry.output(0))
        entries.append(entry)
    images = model.get_parameters()
    try:
        decoding = Model(model.get_results(), entries, "decode")
    except RuntimeError:
        # With NMS inside, boxes are cut to the image, of which then the size is asked.
        decoding = Model(model.get_results(), [*entries, *images], "decode")
        if any(_is_of_network(op) for op in decoding.get_ops()):
            raise ExportError(f"{origin}: {_UNDIVIDED}") from None
    network = Model([opset13.result(level) for level in maps], images, "network")
    return network, decoding


def _is_of_network(node: Any) -> bool:
    """Whether it is a convolution, other than the decoding's own."""
    own = node.get_friendly_name().startswith("decode/")
    return node.get_type_name().endswith("Convolution") and not own


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
