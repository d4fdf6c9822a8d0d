"""The same scene under another light and sensor: colour or grey, contrast, blur, noise, JPEG.

What is done is drawn first, as a `Colour`, and then applied to an image here, or to a batch of
them in torch by `colour_batch`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rstinynet.data.augment_settings import AugmentSettings
from rstinynet.data.image import RgbArray

JPEG_QUALITY = (30, 90)
STRETCH_PERCENT, STRETCH_SHARPEN = (0.2, 3.0), (0.0, 1.5)
"""Of the pixels, how many become black and white each; and how much an unsharp mask adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Colour:
    """One change of colour, in the order in which it is applied."""

    grey: tuple[float, float, float] | None = None
    """Weights of red, green and blue in the one band that is seen; None: colour is kept."""
    hsv: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors of hue, saturation and value, where colour is kept."""
    tone: RgbArray | None = None
    """(256,) new level of each level."""
    blur: float = 0.0
    """Sigma of a Gaussian, pixels; 0: none."""
    noise: float = 0.0
    """Sigma of the noise, grey levels; 0: none."""
    noise_seed: int = 0
    jpeg: int = 0
    """Quality; 0: none."""
    stretch: tuple[float, float] | None = None
    """Percent of the pixels that become black, and white; and the strength of an unsharp mask."""


def draw_colour(settings: AugmentSettings, rng: np.random.Generator) -> Colour:
    """A change of colour within the settings."""
    grey, hsv, tone = None, (1.0, 1.0, 1.0), None
    if rng.random() < settings.grey_prob:
        red, green, blue = rng.dirichlet((1.0, 1.0, 1.0))
        grey, tone = (float(red), float(green), float(blue)), _tone_curve(rng)
    else:
        hue, saturation, value = 1 + rng.uniform(-1, 1, 3) * settings.hsv
        hsv = (float(hue), float(saturation), float(value))
        if rng.random() < settings.contrast_prob:
            tone = _tone_curve(rng)
    blur = float(rng.uniform(0.3, 1.2)) if rng.random() < settings.blur_prob else 0.0
    noise, noise_seed, jpeg = 0.0, 0, 0
    if rng.random() < settings.noise_prob:
        noise, noise_seed = float(rng.uniform(2, 10)), int(rng.integers(2**63))
    if settings.jpeg_prob and rng.random() < settings.jpeg_prob:
        jpeg = int(rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1))
    stretch = None
    if settings.stretch_prob and rng.random() < settings.stretch_prob:
        stretch = float(rng.uniform(*STRETCH_PERCENT)), float(rng.uniform(*STRETCH_SHARPEN))
    return Colour(
        grey=grey,
        hsv=hsv,
        tone=tone,
        blur=blur,
        noise=noise,
        noise_seed=noise_seed,
        jpeg=jpeg,
        stretch=stretch,
    )


def recolour(image: RgbArray, settings: AugmentSettings, rng: np.random.Generator) -> RgbArray:
    """The image (H, W, 3) under a change of colour drawn within the settings."""
    return recoloured(image, draw_colour(settings, rng))


def recoloured(image: RgbArray, colour: Colour) -> RgbArray:
    """The image (H, W, 3) under this change of colour."""
    image = stretched(image, colour.stretch)
    if colour.grey is not None:
        grey = cv2.transform(image, np.array([colour.grey], np.float32))
        if colour.tone is not None:
            grey = cv2.LUT(grey, colour.tone)
        image = np.asarray(cv2.merge([grey] * 3), np.uint8)
    else:
        image = _hsv(image, colour.hsv)
        if colour.tone is not None:
            image = np.asarray(cv2.LUT(image, colour.tone), np.uint8)
    if colour.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), colour.blur), np.uint8)
    if colour.noise:
        rng = np.random.Generator(np.random.PCG64(colour.noise_seed))
        noise = rng.standard_normal(image.shape[:2], np.float32) * colour.noise
        image = np.asarray(cv2.add(image, cv2.merge([noise] * 3), dtype=cv2.CV_8U), np.uint8)
    return compressed(image, colour.jpeg)


def stretched(image: RgbArray, stretch: tuple[float, float] | None) -> RgbArray:
    """The image (H, W, 3) as a scene is scaled to 8 bits, between percentiles, and sharpened.

    Sensors' products are often sharpened, to make up for what the optics blur.
    """
    if stretch is None:
        return image
    percent, strength = stretch
    brightness = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    low, high = np.percentile(brightness, (percent, 100 - percent))
    table = np.clip((np.arange(256) - low) * (255 / max(high - low, 1)), 0, 255)
    image = np.asarray(cv2.LUT(image, np.rint(table).astype(np.uint8)), np.uint8)
    blurred = cv2.GaussianBlur(image, (0, 0), 1.0)
    return np.asarray(cv2.addWeighted(image, 1 + strength, blurred, -strength, 0), np.uint8)


def compressed(image: RgbArray, quality: int) -> RgbArray:
    """The image (H, W, 3) after JPEG at this quality; as it is at quality 0."""
    if not quality:
        return image
    _, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])


def _hsv(image: RgbArray, factors: tuple[float, float, float]) -> RgbArray:
    if factors == (1.0, 1.0, 1.0):
        return image
    hue, saturation, value = factors
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
