"""Weights files: safetensors with everything that inference needs in the metadata.

Nothing is unpickled: a safetensors file holds tensors and text only. The metadata is one JSON text
under the key "rstinynet", checked on reading.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from rstinynet.errors import UsageError, WeightsError
from rstinynet.files import write_bytes
from rstinynet.model.detector import DetectorModel
from rstinynet.model.located import located, one_wanted, shipped_path
from rstinynet.model.metadata import (
    METADATA_KEY,
    SCHEMA_VERSION,
    Scaling,
    WeightsMetadata,
    faults_of,
)
from rstinynet.model.presets import NAMES, build

__all__ = [
    "SCHEMA_VERSION",
    "Scaling",
    "WeightsMetadata",
    "find_weights",
    "load_weights",
    "read_metadata",
    "relabelled",
    "save_weights",
    "shipped_names",
    "shipped_path",
]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_EXPORTED = {".onnx": "ONNX", ".xml": "OpenVINO", ".pt2": "torch.export"}


def save_weights(
    path: Path | str, model: DetectorModel, metadata: WeightsMetadata, *, half: bool = False
) -> None:
    """Write `model` without its training-only parts, beside and renamed.

    `half` stores float16 (half the size; read back as float32).
    """
    state = model.without_auxiliary().state_dict()
    tensors = {
        name: (t.half() if half and t.is_floating_point() else t).detach().cpu().contiguous()
        for name, t in state.items()
        if not name.endswith("num_batches_tracked")
    }
    write_bytes(path, save(tensors, metadata={METADATA_KEY: metadata.model_dump_json()}))


def relabelled(path: Path | str, metadata: WeightsMetadata) -> bytes:
    """The content of the weights file at `path` with other metadata; tensors stay as they are."""
    _, tensors = _read(Path(path))
    return save(tensors, metadata={METADATA_KEY: metadata.model_dump_json()})


def find_weights(path_or_name: Path | str) -> Path:
    """A weights file: by path, by the name of a model whose weights ship with the package, of a
    packaged folder, or of a hub's model (`hub:owner/name[@revision]`)."""
    path_or_name = located(path_or_name, suffixes=(".safetensors",))
    path = Path(path_or_name)
    if path.is_file():
        return path
    name = str(path_or_name)
    shipped = shipped_path(name)
    if shipped is not None:
        return shipped
    if name in NAMES:
        raise WeightsError(
            f"no weights ship for {name!r}: train it (`rstinynet train --model {name}`) or give "
            f"the path of a weights file. Shipped: {', '.join(shipped_names()) or 'none'}"
        )
    several = one_wanted(name)
    raise WeightsError(
        f"no weights file at {name!r}, and no shipped weights of that name. "
        f"Shipped: {', '.join(shipped_names()) or 'none'}" + (f"; {several}" if several else "")
    )


def shipped_names() -> tuple[str, ...]:
    """Names of the models whose weights are in the package."""
    return tuple(name for name in NAMES if shipped_path(name) is not None)


def read_metadata(path: Path | str) -> WeightsMetadata:
    """The metadata of a weights file, checked. WeightsError for anything else."""
    return _read(Path(path))[0]


def load_weights(path_or_name: Path | str) -> tuple[DetectorModel, WeightsMetadata]:
    """The model (float32, eval mode) and metadata of a weights file or shipped name.

    Raises WeightsError for a missing, damaged or foreign file and for tensors that do not fit.
    """
    path = find_weights(path_or_name)
    metadata, tensors = _read(path)
    try:
        model = build(metadata.model, len(metadata.names)).without_auxiliary()
    except UsageError as error:
        raise WeightsError(f"{path}: {error}") from error
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = tensor
        elif name not in tensors:
            raise WeightsError(f"{path}: tensor {name!r} of {metadata.model} is missing")
        elif tensors[name].shape != tensor.shape:
            raise WeightsError(
                f"{path}: tensor {name!r} has shape {tuple(tensors[name].shape)}, but "
                f"{metadata.model} with {len(metadata.names)} classes has {tuple(tensor.shape)}"
            )
        elif tensors[name].dtype not in _FLOATS:
            kind = str(tensors[name].dtype).removeprefix("torch.")
            raise WeightsError(
                f"{path}: tensor {name!r} is {kind}, and weights are float16, bfloat16 or float32"
            )
        elif not torch.isfinite(tensors[name]).all():
            raise WeightsError(f"{path}: tensor {name!r} has values that are not finite")
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise WeightsError(f"{path}: tensor {unknown[0]!r} is not part of {metadata.model}")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval(), metadata


def _read(path: Path) -> tuple[WeightsMetadata, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise WeightsError(f"no weights file at {str(path)!r}")
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            if text is None:
                raise WeightsError(
                    f"{path}: a safetensors file, but not one of rstinynet "
                    f"(its metadata has no {METADATA_KEY!r})"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: {_misread(path, error)}") from error
    try:
        metadata = WeightsMetadata.model_validate_json(text)
    except ValueError as error:
        raise WeightsError(f"{path}: its metadata cannot be read: {faults_of(error)}") from error
    return metadata, tensors


def _misread(path: Path, error: Exception) -> str:
    """What a file is that could not be read as weights, and what to do."""
    exported = _EXPORTED.get(path.suffix.lower())
    if exported is not None:
        return (
            f"an exported model ({exported}), from which weights cannot be had: give the weights "
            "(.safetensors) that it was exported from"
        )
    try:
        path.open("rb").close()
    except OSError as closed:
        # Which safetensors calls a file that is not there.
        return f"cannot be opened: {closed.strerror}"
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "safetensors reads files by names in UTF-8 only: rename it, or its folder"
    if isinstance(error, SafetensorError):
        with path.open("rb") as file:
            # The length of the header, then the header, which is JSON.
            begins_well = file.read(9)[8:] == b"{"
        if begins_well:
            return f"damaged or cut short ({error}): copy or download it anew"
    return (
        f"not a safetensors file ({error}). Pickled checkpoints (.pt) are never loaded as weights: "
        "they can run code"
    )
