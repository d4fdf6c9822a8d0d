"""Changes of colour on a whole batch in torch, where the batch is.

The same arithmetic as `colour.recoloured`, 8-bit rounding included, so an image comes out the same
to a grey level or two; noise has the same distribution and depends on its seed and the kind of
device. JPEG and stretching are not done here: they go before, on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rstinynet.data.colour import Colour


@torch.no_grad()
def recoloured_batch(images: Tensor, colours: Sequence[Colour]) -> Tensor:
    """(B, 3, H, W) uint8 RGB, each image under its own change of colour; the same form."""
    result = images.clone()
    coloured = [row for row, colour in enumerate(colours) if colour.grey is None]
    coloured = [row for row in coloured if colours[row].hsv != (1.0, 1.0, 1.0)]
    if coloured:
        factors = torch.tensor([colours[row].hsv for row in coloured], device=images.device)
        rows = torch.tensor(coloured, device=images.device)
        result[rows] = _hsv(images[rows].float(), factors.float()[..., None, None]).to(torch.uint8)
    for row, colour in enumerate(colours):
        result[row] = _rest(result[row], colour)
    return result


def _rest(image: Tensor, colour: Colour) -> Tensor:
    """All but hue, saturation and value on one image (3, H, W) uint8."""
    device = image.device
    if colour.grey is not None:
        weights = torch.tensor(colour.grey, dtype=torch.float32, device=device)
        band = (image.float() * weights[:, None, None]).sum(0, keepdim=True)
        image = band.round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1)
    if colour.tone is not None:
        image = torch.from_numpy(colour.tone).to(device)[image.int()]
    if colour.blur:
        # OpenCV's rule for the size of the kernel on 8-bit images.
        size = round(colour.blur * 6 + 1) | 1
        taps = cv2.getGaussianKernel(size, colour.blur, cv2.CV_32F)[:, 0]
        kernel = torch.from_numpy(np.asarray(taps)).to(device)
        padded = F.pad(image.float()[:, None], (size // 2,) * 4, mode="reflect")
        across = F.conv2d(padded, kernel[None, None, None, :])
        image = F.conv2d(across, kernel[None, None, :, None])[:, 0].round().to(torch.uint8)
    if colour.noise:
        generator = torch.Generator(device).manual_seed(colour.noise_seed)
        noise = torch.randn(image.shape[1:], generator=generator, device=device) * colour.noise
        image = (image.float() + noise).round().clamp(0, 255).to(torch.uint8)
    return image


def _hsv(rgb: Tensor, factors: Tensor) -> Tensor:
    """(B, 3, H, W) levels, hue, saturation and value times `factors` (B, 3, 1, 1), in 8 bits.

    Hue counts 180 steps to the circle. As in OpenCV and the tables of `colour`, the first
    conversion rounds and the products are cut down to whole numbers.
    """
    red, green, blue = rgb.unbind(1)
    value = rgb.amax(1)
    spread = value - rgb.amin(1)
    some = spread.clamp(min=1)
    hue = torch.where(
        value == red,
        (green - blue) / some,
        torch.where(value == green, 2 + (blue - red) / some, 4 + (red - green) / some),
    )
    hue = (30 * hue).round()
    hue = torch.where(hue < 0, hue + 180, hue)
    saturation = (255 * spread / value.clamp(min=1)).round()
    factor_h, factor_s, factor_v = factors.unbind(1)
    sextant = (hue * factor_h).remainder(180).floor() / 30
    saturation = (saturation * factor_s).floor().clamp(max=255) / 255
    value = (value * factor_v).floor().clamp(max=255)
    # Of each band: value where the hue is near, less by the saturation where it is far.
    bands = []
    for first in (5.0, 3.0, 1.0):
        k = (sextant + first).remainder(6)
        bands.append(value * (1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1)))
    return torch.stack(bands, 1).round()
