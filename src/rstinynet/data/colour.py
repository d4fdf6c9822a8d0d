"""The same scene under another light and sensor."""

from __future__ import annotations

import cv2
import numpy as np

from rstinynet.data.augment_settings import AugmentSettings
from rstinynet.data.image import RgbArray


def recolour(image: RgbArray, settings: AugmentSettings, rng: np.random.Generator) -> RgbArray:
    """The same scene under another light and sensor: colour or grey, contrast, blur, noise."""
    if rng.random() < settings.grey_prob:
        weights = rng.dirichlet((1.0, 1.0, 1.0)).astype(np.float32)
        grey = cv2.transform(image, weights[None])
        image = np.asarray(cv2.merge([cv2.LUT(grey, _tone_curve(rng))] * 3), np.uint8)
    else:
        image = _hsv(image, settings.hsv, rng)
        if rng.random() < settings.contrast_prob:
            image = np.asarray(cv2.LUT(image, _tone_curve(rng)), np.uint8)
    if rng.random() < settings.blur_prob:
        sigma = float(rng.uniform(0.3, 1.2))
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    if rng.random() < settings.noise_prob:
        noise = rng.standard_normal(image.shape[:2], np.float32) * float(rng.uniform(2, 10))
        image = np.asarray(cv2.add(image, cv2.merge([noise] * 3), dtype=cv2.CV_8U), np.uint8)
    return image


def _hsv(image: RgbArray, gains: tuple[float, float, float], rng: np.random.Generator) -> RgbArray:
    hue, saturation, value = 1 + rng.uniform(-1, 1, 3) * gains
    if not any(gains):
        return image
    levels = np.arange(256, dtype=np.float64)
    table = np.stack(
        [
            (levels * hue) % 180,
            np.minimum(levels * saturation, 255),
            np.minimum(levels * value, 255),
        ],
        axis=1,
    ).astype(np.uint8)
    changed = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table[None])
    return np.asarray(cv2.cvtColor(changed, cv2.COLOR_HSV2RGB), np.uint8)


def _tone_curve(rng: np.random.Generator) -> RgbArray:
    """(256,) table of a random gamma (0.6 to 1.7), contrast and brightness."""
    gamma = float(np.exp(rng.uniform(np.log(0.6), np.log(1.7))))
    gain = float(rng.uniform(0.6, 1.5))
    offset = float(rng.uniform(-30, 30))
    curve = 255 * np.linspace(0, 1, 256) ** gamma
    return np.asarray(np.clip((curve - 128) * gain + 128 + offset, 0, 255), np.uint8)
