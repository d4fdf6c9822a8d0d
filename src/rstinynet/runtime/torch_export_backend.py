"""Exported models run by torch from torch.export's file (.pt2)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from rstinynet.runtime.torch_backend import GPU_BATCH, torch_device


class TorchExportBackend:
    """A .pt2 file that `rstinynet export` wrote."""

    multiple = 32

    def __init__(
        self,
        path: Path | str,
        *,
        device: str | None = None,
        options: RuntimeOptions | None = None,
    ) -> None:
        """Raises ExportError for another file, UsageError for a device that torch does not have."""
        self._given = (device, options)
        options = options or RuntimeOptions()
        if options.providers is not None:
            raise UsageError("providers are ONNX Runtime's; for torch give the device")
        if options.precision != "float32":
            raise UsageError(
                f"{path}: a .pt2 file is float32: leave out the precision, or run the weights"
            )
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._origin = str(path)
        self._device = torch_device(device)
        extra: dict[str, Any] = {METADATA_KEY: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.load(path, extra_files=extra)
                program = _moved(program, self._device)
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ExportError(
                f"{path}: torch {torch.__version__} cannot load this file: {line}. Export it again "
                "with `rstinynet export`"
            ) from error
        text = extra[METADATA_KEY]
        text = text.decode() if isinstance(text, bytes) else text
        self.metadata = parse_metadata(text or None, origin=self._origin)
        # Torch says which inputs a graph was made for by the shape of an example.
        (entry,) = [
            node.meta["val"]
            for node in program.graph.nodes
            if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
        ]
        shape = [d if isinstance(d, int) else None for d in entry.shape]
        self.side = checked_sides(shape, origin=self._origin)
        self._run: Any = program.module()
        self.device = str(self._device)
        self.batch = options.batch or (GPU_BATCH if self._device.type == "cuda" else 1)

    def __reduce__(self) -> tuple[Any, ...]:
        # What is loaded cannot be sent to another process, but the path can.
        return _reopen, (self._origin, self._given)

    def digest(self) -> str:
        """See `Backend.digest`."""
        return digest_of(Path(self._origin))

    @torch.inference_mode()
    def output(self, x_BCHW: Float32Array) -> Float32Array:
        """What the file itself gives for inputs in [0, 1]; see `backend.candidates`."""
        found = self._run(torch.from_numpy(x_BCHW).to(self._device))
        return np.asarray(found.cpu().numpy(), np.float32)

    def find(self, images_BHWC: Images, *, conf: float) -> list[Detections]:
        """See `Backend.find`."""
        output = self.output(to_input(images_BHWC))
        return candidates(output, count=len(images_BHWC), conf=conf, origin=self._origin)


def _moved(program: Any, device: torch.device) -> Any:
    if device.type == "cpu":
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)


def _reopen(path: str, given: tuple[str | None, RuntimeOptions | None]) -> TorchExportBackend:
    return TorchExportBackend(path, device=given[0], options=given[1])
