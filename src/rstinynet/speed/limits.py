"""What the machine could do at best: arithmetic and memory, measured, and what a model asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from rstinynet.model.detector import DetectorModel

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_REPEATS = 12


class Limits(NamedTuple):
    """Of one device, threads and precision; measured, not a data sheet's."""

    gflops_s: float
    """1e9 operations a second of a large matrix product, on a processor or of a 3x3 convolution."""
    gbytes_s: float
    """1e9 bytes a second read and written in copying more than caches hold."""

    def best_ms(self, gflops: float, gbytes: float) -> float:
        """Milliseconds that so much work takes at the slower of these rates."""
        return 1000 * max(gflops / self.gflops_s, gbytes / self.gbytes_s)


def measure_limits(device: str, precision: str, *, threads: int | None = None) -> Limits:
    """Limits of `device` in `precision`."""
    if threads is not None:
        torch.set_num_threads(threads)
    on_gpu = device.startswith("cuda")
    dtype = getattr(torch, precision)
    side = 8192 if on_gpu else 1024
    a = torch.randn(side, side, device=device).to(dtype)
    product = torch.empty_like(a)
    source = torch.zeros((256 if on_gpu else 32) * 2**20, device=device)
    target = torch.empty_like(source)
    gflops_s = 2e-9 * side**3 / _quickest(lambda: torch.mm(a, a, out=product), on_gpu)
    if not on_gpu:
        gflops_s = max(gflops_s, _convolving(dtype))
    copied = _quickest(lambda: target.copy_(source), on_gpu)
    return Limits(gflops_s, 2e-9 * source.numel() * 4 / copied)


def _convolving(dtype: torch.dtype) -> float:
    """1e9 operations a second of a 3x3 convolution by oneDNN.

    On processors that are not Intel's, torch's matrix product in float32 takes twice its time.
    """
    channels, side = 256, 40
    conv = nn.Conv2d(channels, channels, 3, padding=1).requires_grad_(False)
    conv = conv.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(1, channels, side, side).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    return 2e-9 * channels**2 * 9 * side**2 / _quickest(lambda: conv(x), False)


def traffic_gbytes(model: DetectorModel, side: int, precision: str) -> float:
    """1e9 bytes that one image moves at least: weights, and each convolution's input and output.

    Activations count nothing, as if they were fused. With several images weights move once.
    """
    fused = model.deployed().to("meta")
    numbers = sum(parameter.numel() for parameter in fused.parameters())
    passed = [0]

    def count(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        passed[0] += sum(x.numel() for x in inputs) + output.numel()

    for module in fused.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        fused(torch.empty(1, 3, side, side, device="meta"))
    return 1e-9 * _BYTES[precision] * (numbers + passed[0])


def _quickest(work: Callable[[], Any], on_gpu: bool) -> float:
    times = []
    for _ in range(_REPEATS):
        if on_gpu:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times)
