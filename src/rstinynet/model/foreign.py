"""Initial weights from an Ultralytics-format YOLO11 checkpoint, read without running its code.

Such a `.pt` is a pickle of live Python objects, and unpickling runs whatever it names. Here an
unpickler with an allow-list builds tensors and plain containers; every class of a network becomes
an inert holder of its attributes; anything else is refused. Only tensors and names of classes
leave this module.
"""

from __future__ import annotations

import pickle
import re
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rstinynet.errors import WeightsError
from rstinynet.model.detector import DetectorModel

_SAFE: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("builtins", "set"): set,
    ("builtins", "list"): list,
    ("builtins", "dict"): dict,
    ("builtins", "tuple"): tuple,
    ("builtins", "slice"): slice,
}
_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P"
"""First bytes of what torch wrote before its files were zip archives."""
_INERT_MODULES = ("ultralytics", "torch.nn.modules", "pathlib", "types", "argparse")


class _Inert:
    """Stands for an object of a class that is not loaded; keeps its attributes, runs nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)  # protocol 2 says it the old way
        if (module, name) in _SAFE:
            return _SAFE[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if any(module == m or module.startswith(m + ".") for m in _INERT_MODULES):
            return type(name, (_Inert,), {})
        raise WeightsError(f"it asks for {module}.{name}, which is not on the list of safe names")


class Checkpoint(NamedTuple):
    """What is read of a checkpoint."""

    tensors: dict[str, Tensor]
    names: tuple[str, ...]
    """The classes, by label; empty where the checkpoint does not tell them."""


def read_checkpoint(path: Path | str) -> Checkpoint:
    """An Ultralytics-format `.pt`: tensors by name, float32, averaged weights preferred.

    Raises WeightsError for a file that is missing, damaged, or names anything but networks and
    tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no checkpoint at {str(path)!r}")
    if _is_torchscript(path):
        # torch.load would hand it to torch.jit.load, past the allow-list.
        raise WeightsError(
            f"{path}: refused, since it is a TorchScript archive, which holds code: give the "
            "checkpoint it was exported from"
        )
    safe_pickle = types.ModuleType("rstinynet_safe_pickle")
    vars(safe_pickle).update(Unpickler=_TensorUnpickler, UnpicklingError=pickle.UnpicklingError)
    try:
        content = torch.load(
            path, map_location="cpu", pickle_module=safe_pickle, weights_only=False
        )
        network = _network(content)
        tensors = {
            name: tensor.detach().float() if tensor.is_floating_point() else tensor
            for name, tensor in _tensors(network, "")
        }
    except WeightsError as error:
        raise WeightsError(f"{path}: refused, since {error}") from error
    except Exception as error:
        with path.open("rb") as file:
            before_zip = file.read(len(_BEFORE_ZIP)) == _BEFORE_ZIP
        if before_zip:
            raise WeightsError(
                f"{path}: not a checkpoint of torch 1.6 or later, which are zip archives; load it "
                "where it comes from, and save it anew"
            ) from error
        raise WeightsError(f"{path}: not a readable checkpoint ({error})") from error
    if not tensors:
        raise WeightsError(f"{path}: there are no tensors of a network in it")
    return Checkpoint(tensors, _class_names(network))


def _network(content: Any) -> Any:
    """The network, or its state, in what was saved: the averaged one where there is one."""
    if isinstance(content, dict):
        for key in ("ema", "model"):
            held = content.get(key)
            if not isinstance(held, Tensor) and held:
                return held
    return content


def _class_names(network: Any) -> tuple[str, ...]:
    """`names` of the network, a list or numbers from 0 up to texts."""
    names = vars(network).get("names") if isinstance(network, _Inert) else None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[label] for label in range(len(names))]
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return ()


def _is_torchscript(path: Path) -> bool:
    """Asked of torch's own reader: another may read a damaged archive otherwise, or not at all."""
    try:
        with path.open("rb") as file:
            return "constants.pkl" in torch._C.PyTorchFileReader(file).get_all_records()
    except Exception:
        return False  # torch.load begins with the same call, and refuses what it refuses


def _tensors(value: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of an inert network, or of a plain state dict."""
    if isinstance(value, _Inert):
        attributes = vars(value)
        for kind in ("_parameters", "_buffers"):
            for name, tensor in attributes.get(kind, {}).items():
                if isinstance(tensor, Tensor):
                    yield prefix + name, tensor
        for name, child in attributes.get("_modules", {}).items():
            yield from _tensors(child, f"{prefix}{name}.")
    elif isinstance(value, dict):
        for name, tensor in value.items():
            if isinstance(tensor, Tensor):
                yield prefix + str(name), tensor


_LAYERS = {
    **{
        f"backbone.trunk.downs.{i}": f"model.{n}"
        for i, n in zip("12345", (0, 1, 3, 5, 7), strict=True)
    },
    **{
        f"backbone.trunk.stages.{i}": f"model.{n}"
        for i, n in zip("2345", (2, 4, 6, 8), strict=True)
    },
    "backbone.context.sppf": "model.9",
    "backbone.context.attention": "model.10",
    "neck.top_down.4": "model.13",
    "neck.top_down.3": "model.16",
    "neck.downs.4": "model.17",
    "neck.bottom_up.4": "model.19",
    "neck.downs.5": "model.20",
    "neck.bottom_up.5": "model.22",
    "head": "model.23",
}
_PARTS = {
    "norm": "bn",
    "conv1": "cv1",
    "conv2": "cv2",
    "conv3": "cv3",
    "blocks": "m",
    "attention": "attn",
    "projection": "proj",
    "position": "pe",
    "feed_forward": "ffn",
}
_CLASS_STEPS = {"0": "0.0", "1": "0.1", "2": "1.0", "3": "1.1", "4": "2"}


def ultralytics_name(name: str) -> str:
    """The name in Ultralytics' YOLO11 of one of our yolo11 state's tensors."""
    layer = next(ours for ours in _LAYERS if name.startswith(ours + "."))
    rest = name[len(layer) + 1 :]
    if layer == "head":
        if rest == "expectation.weight":
            rest = "dfl.conv.weight"
        elif rest.startswith("box."):
            rest = "cv2." + rest[len("box.") :]
        else:
            rest = re.sub(
                r"^classify\.(\d)\.(\d)",
                lambda m: f"cv3.{m[1]}.{_CLASS_STEPS[m[2]]}",
                rest,
            )
        rest = rest.replace(".norm.", ".bn.")
    else:
        rest = ".".join(_PARTS.get(part, part) for part in rest.split("."))
    return f"{_LAYERS[layer]}.{rest}"


def translated(model: DetectorModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by our names, those of a `yolo11*` model that the checkpoint has in any shape.

    Raises WeightsError for another kind of model, values that are not finite, or when less than
    the backbone fits.
    """
    config = model.config
    plain = config.backbone == "yolo11" and config.arb == "none" and config.pfdh is None
    if not plain or config.mdca is not None or config.levels != (3, 4, 5):
        raise WeightsError(
            "an Ultralytics checkpoint can initialise the models yolo11n, s, m, l and x only"
        )
    theirs, misfits = {}, []
    for name, own in model.state_dict().items():
        tensor = tensors.get(ultralytics_name(name))
        if tensor is not None:
            if not torch.isfinite(tensor).all():
                raise WeightsError(
                    f"the checkpoint's tensor {ultralytics_name(name)!r} has values that are not "
                    "finite: its training diverged, or float16 did not hold them"
                )
            theirs[name] = tensor.to(own.dtype)
        if name.startswith("backbone.") and (tensor is None or tensor.shape != own.shape):
            misfits.append(name)
    if misfits:
        raise WeightsError(
            f"the checkpoint is not of YOLO11{config.scale}: {len(misfits)} tensors of the "
            f"backbone do not fit, the first {ultralytics_name(misfits[0])!r}"
        )
    return theirs
