"""Batch normalisation over the images of all processes.

With few images on each process, statistics of its own share alone are noisy, and the training
would not be that of one process at the same batch. On GPUs torch has `SyncBatchNorm`; it refuses
CPU tensors, so the same is written here in differentiable sums.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist


class _Total(torch.autograd.Function):
    """The sum over the processes; the gradient of each one's part is the sum of gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class GlobalBatchNorm(nn.BatchNorm2d):
    """`BatchNorm2d` whose batch is that of all processes; shares may differ in size."""

    group: Any = None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """As `BatchNorm2d`; in training every process must call it in the same order."""
        if not self.training:
            return super().forward(x_BCHW)
        # Sums over all pixels need more digits than half precision has.
        given = x_BCHW.dtype
        x_BCHW = x_BCHW.to(torch.promote_types(given, torch.float32))
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        count = x_BCHW.new_full((1,), x_BCHW.numel() / x_BCHW.shape[1])
        sums: Tensor = _Total.apply(torch.cat([x_BCHW.sum((0, 2, 3)), count]), self.group)  # type: ignore[no-untyped-call]
        mean_C, number = sums[:-1] / sums[-1], sums[-1].detach()
        centred_BCHW = x_BCHW - mean_C[:, None, None]
        # Twice over the data, as the mean of squares less the squared mean cancels in float32.
        squares_C: Tensor = _Total.apply(centred_BCHW.square().sum((0, 2, 3)), self.group)  # type: ignore[no-untyped-call]
        variance_C = squares_C / number
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean_C, self.momentum)
            unbiased_C = squares_C / (number - 1).clamp(min=1)
            self.running_var.lerp_(unbiased_C, self.momentum)
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        y_BCHW = centred_BCHW * scale_C[:, None, None] + self.bias[:, None, None]
        return y_BCHW.to(given)


def with_global_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` itself, its batch norms made global; parameters and buffers stay the same."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    # A group of its own, so that sums here and DDP's, which run beside, never wait crosswise.
    _replace(model, dist.new_group())
    return model


def _replace(module: nn.Module, group: Any) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = GlobalBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum)
            norm.weight, norm.bias = child.weight, child.bias
            norm._buffers = child._buffers
            norm.group = group
            setattr(module, name, norm.train(child.training))
        else:
            _replace(child, group)
