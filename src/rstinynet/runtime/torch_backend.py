"""Weights run by torch: one copy to the device, and only the objects come back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from rstinynet.detections import Detections
from rstinynet.errors import UsageError
from rstinynet.model.decode import find
from rstinynet.model.lite0 import SameConv
from rstinynet.runtime.backend import Images, RuntimeOptions
from rstinynet.runtime.torch_packed import can_pack, packed

if TYPE_CHECKING:
    from rstinynet.model.detector import DetectorModel, RawMaps

GPU_BATCH = 8
"""Tiles of one forward pass where there is a GPU."""
PAD_MULTIPLE = 32


class TorchBackend:
    """A `DetectorModel`, fused and laid out channels last."""

    side: int | None = None

    def __init__(
        self,
        model: DetectorModel,
        *,
        device: str | None = None,
        options: RuntimeOptions | None = None,
    ) -> None:
        """Without `device` a GPU is used where torch sees one.

        Raises UsageError for a device that torch does not have, or float16 on a processor without
        it, where torch would take twenty times as long as in float32. `options.threads` sets
        torch's number for the whole process.
        """
        options = options or RuntimeOptions()
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._device = torch_device(device)
        if (
            options.precision == "float16"
            and self._device.type == "cpu"
            and not _processor_has_float16()
        ):
            raise UsageError(
                "this processor does not compute in float16: take float32, or bfloat16, which most "
                "newer ones have"
            )
        self.precision = options.precision
        self._dtype: torch.dtype = getattr(torch, options.precision)
        fused: Any = model.deployed().eval().to(self._device, self._dtype)
        self.model: DetectorModel = fused.to(memory_format=torch.channels_last)
        if self._device.type == "cpu":
            for module in self.model.modules():
                if isinstance(module, SameConv):
                    module.widen()
        self.network: Callable[[torch.Tensor], RawMaps] = (
            packed(self.model) if can_pack(self.model) else self.model
        )
        """What is called: `model`, or a faster form of it."""
        self.multiple = max(PAD_MULTIPLE, *self.model.strides)
        self.device = str(self._device)
        self.batch = options.batch or (GPU_BATCH if self._device.type == "cuda" else 1)

    def digest(self) -> str:
        """See `Backend.digest`."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(values.numpy())
        return digest.hexdigest()

    @torch.inference_mode()
    def find(self, images_BHWC: Images, *, conf: float) -> list[Detections]:
        """See `Backend.find`."""
        images = torch.from_numpy(images_BHWC).to(self._device).permute(0, 3, 1, 2)
        x_BCHW = (images.to(self._dtype) / 255).contiguous(memory_format=torch.channels_last)
        return find(self.network(x_BCHW).main, self.model.strides, conf=conf)


def _processor_has_float16() -> bool:
    # Torch without oneDNN, as on a Mac, lacks the question too.
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    return asked is not None and bool(asked())


def torch_device(name: str | None) -> torch.device:
    """That device; without a name a GPU where torch sees one. UsageError where it has no such."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UsageError(
            f"device {name!r} is not available to torch here; use 'cpu' or leave it out"
        ) from error
    if device.type == "meta":
        raise UsageError(f"device {name!r} computes nothing; use 'cpu' or leave it out")
    return device
