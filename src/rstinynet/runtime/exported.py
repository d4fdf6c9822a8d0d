"""What the runtimes of exported files share: how they are opened, named, sent on and asked."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rstinynet.detections import Detections, Float32Array
from rstinynet.errors import ExportError, UsageError
from rstinynet.model.metadata import METADATA_KEY, WeightsMetadata, faults_of
from rstinynet.runtime.backend import (
    NMS_CONF,
    Images,
    Precision,
    RuntimeOptions,
    candidates,
    checked_sides,
    digest_of,
    to_input,
)


class ExportedBackend(ABC):
    """A file that `rstinynet export` wrote; a runtime adds how it is loaded and run."""

    multiple = 32
    side: int | None = None
    precision: Precision | None = None
    metadata: WeightsMetadata
    _said_threshold = False

    def __init__(
        self,
        path: Path | str,
        *,
        device: str | None = None,
        options: RuntimeOptions | None = None,
    ) -> None:
        """Raises ExportError where the runtime is not installed or the file is not such a one.

        UsageError for a device, or an option, that the runtime does not have.
        """
        self._given = (device, options)
        self._origin = str(path)
        self.device = "cpu"
        self.batch = 1
        self._open(Path(path), device, options or RuntimeOptions())

    @abstractmethod
    def _open(self, path: Path, device: str | None, options: RuntimeOptions) -> None:
        """Load the file, and `_describe` it."""

    @abstractmethod
    def output(self, x_BCHW: Float32Array) -> Float32Array:
        """What the file itself gives for inputs in [0, 1]; see `backend.candidates`."""

    def __reduce__(self) -> tuple[Any, ...]:
        # What a runtime has loaded cannot be sent to another process, but the path can; relative
        # ones mean another file in another folder.
        return _reopen, (type(self), str(Path(self._origin).absolute()), *self._given)

    @property
    def files(self) -> tuple[Path, ...]:
        """All that the model is read from."""
        return (Path(self._origin),)

    def digest(self) -> str:
        """See `Backend.digest`."""
        return digest_of(*self.files)

    def find(self, images_BHWC: Images, *, conf: float) -> list[Detections]:
        """See `Backend.find`. A warning, once, where NMS inside leaves out what is asked for."""
        count, classes = len(images_BHWC), len(self.metadata.names)
        output = self.output(to_input(images_BHWC))
        if output.ndim == 2 and conf < NMS_CONF and not self._said_threshold:
            self._said_threshold = True
            warnings.warn(
                f"{self._origin}: exported with NMS inside, which leaves out what scores "
                f"{NMS_CONF:g} or less, and here all over {conf:.2g} is asked for (of several "
                "models or views each, and before a temperature, this may be less than the "
                "confidence given): export it without --nms, or ask for a higher confidence",
                stacklevel=2,
            )
        return candidates(output, count=count, classes=classes, conf=conf, origin=self._origin)

    def _describe(
        self, metadata: str | None, inputs: Sequence[tuple[str, list[int | None]]], *, float32: str
    ) -> None:
        """Take the file's metadata and its inputs, each of a type and a shape.

        ExportError for a foreign file, and for other inputs than one of `float32`, which is what
        the runtime calls it.
        """
        self.metadata = parse_metadata(metadata, origin=self._origin)
        self.side = checked_sides(inputs[0][1] if inputs else [], origin=self._origin)
        if [kind for kind, _ in inputs] != [float32]:
            raise ExportError(
                f"{self._origin}: the model must have one input of float32, not "
                f"{', '.join(kind for kind, _ in inputs)}: export it with `rstinynet export`"
            )


def _reopen(
    kind: type[ExportedBackend], path: str, device: str | None, options: RuntimeOptions | None
) -> ExportedBackend:
    return kind(path, device=device, options=options)


def without_providers(options: RuntimeOptions | None, *, runtime: str) -> None:
    """UsageError where execution providers are asked of a runtime that has none."""
    if options is not None and options.providers is not None:
        raise UsageError(f"providers are ONNX Runtime's; for {runtime} give the device")


def parse_metadata(text: str | None, *, origin: str) -> WeightsMetadata:
    """The metadata that an exported file carries; ExportError for a foreign file."""
    if not text:
        raise ExportError(
            f"{origin}: not exported by rstinynet (its metadata has no {METADATA_KEY!r}), so its "
            "classes and scaling are unknown: export the weights with `rstinynet export`"
        )
    try:
        return WeightsMetadata.model_validate_json(text)
    except ValueError as error:
        raise ExportError(f"{origin}: its metadata cannot be read: {faults_of(error)}") from error
