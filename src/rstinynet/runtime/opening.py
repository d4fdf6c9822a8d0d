"""From what a user names to a model that runs.

Weights by the name of a shipped model, a weights, ONNX or OpenVINO file, a packaged folder, or a
model on a hub; or several of them, which search together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rstinynet.errors import ExportError, UsageError, WeightsError
from rstinynet.model.located import located, parted, shipped_path
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.runtime.backend import Backend, RuntimeOptions
from rstinynet.runtime.ensemble import Member, together
from rstinynet.runtime.exported import without_providers


def open_model(
    path_or_name: Path | str | Sequence[Path | str],
    *,
    device: str | None = None,
    options: RuntimeOptions | None = None,
) -> tuple[Backend, WeightsMetadata]:
    """The model and its metadata; torch is imported only for weights.

    Of a folder (or `hub:owner/name[@revision]`) the weights are run where torch is installed and
    no `providers` are asked for, else its ONNX file. Several, a sequence or names separated by
    commas, become one (`ensemble`). Raises WeightsError where there are no such weights or they
    cannot be used (or torch is not installed) or not together, ExportError for an exported model
    that cannot be run, UsageError for a device that the runtime does not have, and for what names
    no model (other things than text and paths, or nothing) or one file twice.
    """
    names = _several(path_or_name)
    places = [located(name, suffixes=_preferred(options)) for name in names]
    _check_apart(names, places)
    opened = [_open(place, device=device, options=options) for place in places]
    if len(opened) == 1:
        return opened[0]
    return together([Member(*one, str(name)) for one, name in zip(opened, names, strict=True)])


def _several(given: Any) -> list[Path | str]:
    """What to open; a comma parts names unless it is a file's or folder's own."""
    if isinstance(given, str):
        names: list[Any] = [*parted(given)]
    elif isinstance(given, os.PathLike):
        names = [given]
    elif isinstance(given, Iterable) and not isinstance(given, bytes | bytearray):
        names = list(given)
    else:
        names = []
    wrong = [name for name in names if not _is_name(name)]
    if wrong:
        raise UsageError(
            f"a model is named by text or a path, not {wrong[0]!r}, a {type(wrong[0]).__name__}, "
            f"in {given!r}: give the name of shipped weights, such as 'rs-tinynet-lite', or a file"
        )
    if not names or not all(map(str, names)) or len(set(map(str, names))) < len(names):
        raise UsageError(
            "a model is named by one name or path, or by several that differ, separated by "
            f"commas, not {given!r}"
        )
    return names


def _is_name(one: Any) -> bool:
    return isinstance(one, str) or (
        isinstance(one, os.PathLike) and isinstance(os.fspath(one), str)
    )


def _check_apart(names: Sequence[Path | str], places: Sequence[Path | str]) -> None:
    """UsageError where two names are of one file: a mean with itself is what it says alone."""
    seen: dict[Path, Path | str] = {}
    for name, place in zip(names, places, strict=True):
        path = Path(place) if Path(place).is_file() else shipped_path(str(place))
        if path is None:
            continue  # which opening it says
        file = path.resolve()
        if file in seen:
            raise UsageError(
                f"models that search together must differ: {seen[file]} and {name} are both "
                f"{file}: give it once"
            )
        seen[file] = name


def _open(
    path_or_name: Path | str, *, device: str | None, options: RuntimeOptions | None
) -> tuple[Backend, WeightsMetadata]:
    suffix = Path(path_or_name).suffix.lower()
    if suffix in (".onnx", ".xml", ".pt2"):
        if not Path(path_or_name).is_file():
            raise WeightsError(f"no exported model at {str(path_or_name)!r}")
        return _open_exported(Path(path_or_name), device, options)
    try:
        from rstinynet.model.weights import load_weights
        from rstinynet.runtime.torch_backend import TorchBackend
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise WeightsError(
            f"weights ({str(path_or_name)!r}) are run by torch, which is not installed: pip "
            "install 'rs-tinynet[torch]', or give a model that `rstinynet export` wrote (.onnx, "
            ".xml)"
        ) from error
    without_providers(options, runtime="torch")
    model, metadata = load_weights(path_or_name)
    return TorchBackend(model, device=device, options=options), metadata


def _open_exported(
    path: Path, device: str | None, options: RuntimeOptions | None
) -> tuple[Backend, WeightsMetadata]:
    if path.suffix.lower() == ".onnx":
        from rstinynet.runtime.onnx_backend import OnnxBackend

        exported = OnnxBackend(path, device=device, options=options)
        return exported, exported.metadata
    if path.suffix.lower() == ".pt2":
        return _open_torch_export(path, device, options)
    from rstinynet.runtime.openvino_backend import OpenvinoBackend

    compiled = OpenvinoBackend(path, device=device, options=options)
    return compiled, compiled.metadata


def _open_torch_export(
    path: Path, device: str | None, options: RuntimeOptions | None
) -> tuple[Backend, WeightsMetadata]:
    try:
        from rstinynet.runtime.torch_export_backend import TorchExportBackend
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ExportError(
            f"{path}: torch runs this file, and it is not installed: pip install "
            "'rs-tinynet[torch]', or export to onnx"
        ) from error
    opened = TorchExportBackend(path, device=device, options=options)
    return opened, opened.metadata


def _preferred(options: RuntimeOptions | None) -> tuple[str, ...]:
    """Which of a folder's files to run, the best first."""
    exported = (".onnx", ".xml")
    if _has_torch() and (options is None or options.providers is None):
        return (".safetensors", *exported)
    return (*exported, ".safetensors")


def _has_torch() -> bool:
    try:
        return find_spec("torch") is not None
    except ModuleNotFoundError:
        return False
