"""Exported models run by torch from torch.export's file (.pt2)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rstinynet.detections import Float32Array
from rstinynet.errors import ExportError, UsageError
from rstinynet.model.metadata import METADATA_KEY
from rstinynet.runtime.backend import RuntimeOptions
from rstinynet.runtime.exported import ExportedBackend, without_providers
from rstinynet.runtime.torch_backend import GPU_BATCH, torch_device


class TorchExportBackend(ExportedBackend):
    """A .pt2 file that `rstinynet export` wrote."""

    precision = "float32"

    def _open(self, path: Path, device: str | None, options: RuntimeOptions) -> None:
        without_providers(options, runtime="torch")
        if options.precision != "float32":
            raise UsageError(
                f"{path}: a .pt2 file is float32: leave out the precision, or run the weights"
            )
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._device = torch_device(device)
        extra: dict[str, Any] = {METADATA_KEY: ""}
        try:
            with warnings.catch_warnings(), _without_log():
                warnings.simplefilter("ignore")
                program = torch.export.load(path, extra_files=extra)
                program = _moved(program, self._device)
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            line = line.partition(". Please check the warnings")[0]
            raise ExportError(
                f"{path}: torch {torch.__version__} cannot load this file: {line}. Export it again "
                "with `rstinynet export`"
            ) from error
        text = extra[METADATA_KEY]
        text = text.decode() if isinstance(text, bytes) else text
        # Torch says which inputs a graph was made for by the shape of an example.
        entries = [
            node.meta["val"]
            for node in program.graph.nodes
            if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
        ]
        described = [
            (str(one.dtype), [d if isinstance(d, int) else None for d in one.shape])
            for one in entries
        ]
        self._describe(text, described, float32="torch.float32")
        self._run: Any = program.module()
        self.device = str(self._device)
        self.batch = options.batch or (GPU_BATCH if self._device.type == "cuda" else 1)

    @torch.inference_mode()
    def output(self, x_BCHW: Float32Array) -> Float32Array:
        """What the file itself gives for inputs in [0, 1]; see `backend.candidates`."""
        found = self._run(torch.from_numpy(x_BCHW).to(self._device))
        return np.asarray(found.cpu().numpy(), np.float32)


@contextmanager
def _without_log() -> Iterator[None]:
    """Torch logs where it failed to read a file, with a traceback, besides raising."""
    log = logging.getLogger("torch.export")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _moved(program: Any, device: torch.device) -> Any:
    if device.type == "cpu":
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)
