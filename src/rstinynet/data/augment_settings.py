"""Every setting of the augmentation, with its range."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin, get_type_hints

from rstinynet.errors import UsageError

MAX_SHEAR = 30.0
"""Degrees: at 45 along both axes nothing of the picture but a line is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSettings:
    """What is done to a training image. Every `*_prob` is a probability in [0, 1]."""

    imgsz: int = 640
    """Side of the square sample, pixels; a multiple of 32."""
    fit: Literal["native", "letterbox"] = "native"
    """native: a window is cut at a zoom about the image's own resolution. letterbox: the image is
    first fitted to the square, whatever its size, and the zoom is about that (YOLO11)."""
    mosaic_prob: float = 1.0
    """Four images in one sample instead of one."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Lowest and highest zoom, drawn log-uniformly; with `letterbox` uniformly, as YOLO11 does."""
    translate: float = 0.0
    """With `letterbox`, largest shift of the content, as a share of the side. Native windows lie
    anywhere in the image in any case."""
    degrees: float = 0.0
    """Largest rotation to either side."""
    shear: float = 0.0
    """Largest shear along either axis, degrees, up to 30."""
    warp_prob: float = 1.0
    """Rotation and shear are done to this share of the cuts, or with `letterbox` of the samples."""
    warped_boxes: Literal["ellipse", "rounded", "corners"] = "ellipse"
    """What a box becomes under rotation and shear. ellipse: it encloses the warped ellipse that
    fills it (Kalra et al., ICCV 2021). corners: it encloses the warped corners (YOLO11), and is
    looser than most objects. rounded: the first for boxes about as broad as long, halfway between
    both for those 1.75 times as long or more; better for vehicles, worse for ships, whose bows are
    pointed. Regions to ignore always become the second."""
    focus_prob: float = 0.5
    """A native window is placed on a random object (of a random class) instead of anywhere."""
    symmetries: Literal["all", "horizontal", "none"] = "all"
    """all: one of the eight symmetries of the square, flips and quarter turns. horizontal: left
    and right are swapped for half of the samples (YOLO11)."""
    hsv: tuple[float, float, float] = (0.015, 0.7, 0.4)
    """Largest relative change of hue, saturation and value."""
    grey_prob: float = 0.1
    """The look of a panchromatic sensor: one band with its own contrast and gamma."""
    contrast_prob: float = 0.2
    """Another contrast, brightness and gamma."""
    blur_prob: float = 0.05
    """Gaussian blur, sigma 0.3 to 1.2 pixels."""
    noise_prob: float = 0.05
    """Gaussian noise, the same in all bands, sigma 2 to 10 grey levels."""
    jpeg_prob: float = 0.0
    """The artefacts of JPEG at quality 30 to 90."""
    stretch_prob: float = 0.0
    """The look of a scene scaled to 8 bits between percentiles, and sharpened."""
    on_device: Literal["auto", "always", "never"] = "auto"
    """Colour, blur and noise are done by the batch in torch: auto, where training is on a GPU."""
    paste_prob: float = 0.0
    """Tiny objects of other training images are pasted where nothing is labelled."""
    paste_across: tuple[str, ...] = ()
    """Names of classes whose objects are pasted also on images that do not know the class, of
    partly labelled sets; `all` for every class."""
    paste_onto: tuple[str, ...] = ()
    """Names of classes: what `paste_across` names goes also to images on which one of these is
    known, though they are known to be without it."""
    paste_max: int = 8
    """Most objects pasted on one sample."""
    paste_px: float = 32.0
    """Objects whose longer side is more, in pixels of their own image, are not pasted."""
    paste_degrees: float = 0.0
    """Largest turn of a pasted object to either side, besides the symmetries; 180: any angle. This
    and the two below are for classes of `paste_across` only, where it names some."""
    paste_fade_px: float | None = None
    """Pixels in which a pasted object's own ground fades out; None: all of its rim."""
    paste_shadow_prob: float = 0.0
    """Pasted objects cast a shadow, all of a sample in one direction."""
    paste_tone: tuple[float, float] = (1.0, 1.0)
    """Least and most by which a pasted object's brightness is multiplied, log-uniform: dark cars of
    bright ones. One that would then hardly stand out from its new ground keeps its own. For classes
    of `paste_across` only, where it names some."""
    paste_decoy_prob: float = 0.0
    """With a pasted object a piece of the sample's own ground is laid the same way, smaller to as
    large, darker or brighter: what is no object. For classes of `paste_across` only likewise, and
    only where the class is known."""
    min_box_px: float = 2.0
    """A box whose shorter side is less, in pixels of the sample, is lost."""
    min_visibility: float = 0.25
    """A box of which less than this share of its area is in the window likewise."""
    cut_boxes: Literal["ignore", "drop"] = "ignore"
    """What becomes of a lost box: a region to ignore, or background (YOLO11)."""

    def __post_init__(self) -> None:
        if self.imgsz < 32 or self.imgsz % 32:
            raise UsageError(f"imgsz must be a multiple of 32, at least 32, not {self.imgsz}")
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if name.endswith("_prob") and not 0 <= value <= 1:
                raise UsageError(f"{name} must lie in [0, 1], not {value}")
        for name, kind in get_type_hints(AugmentSettings).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise UsageError(
                    f"{name} must be {' or '.join(get_args(kind))}, not {getattr(self, name)!r}"
                )
        for name in ("scale", "paste_tone"):
            low, high = getattr(self, name)
            if not 0.05 <= low <= high <= 20:
                raise UsageError(
                    f"{name} must be (low, high) with 0.05 <= low <= high <= 20: {(low, high)}"
                )
        if not all(0 <= gain <= 1 for gain in self.hsv) or len(self.hsv) != 3:
            raise UsageError(f"hsv must be three numbers in [0, 1], not {self.hsv}")
        if not (0 <= self.min_box_px < math.inf and 0 <= self.min_visibility <= 1):
            raise UsageError(
                "min_box_px must be a number from 0 up and min_visibility lie in [0, 1], not "
                f"{self.min_box_px} and {self.min_visibility}"
            )
        if self.paste_onto and not self.paste_across:
            raise UsageError("paste_onto says where classes of paste_across go: give that too")
        for name in (
            "paste_across",
            "paste_degrees",
            "paste_fade_px",
            "paste_shadow_prob",
            "paste_decoy_prob",
        ):
            if getattr(self, name) and not self.paste_prob:
                raise UsageError(f"{name} does nothing without a paste_prob above 0")
        if self.paste_tone != (1.0, 1.0) and not self.paste_prob:
            raise UsageError("paste_tone does nothing without a paste_prob above 0")
        if self.paste_max < 1 or self.paste_px < 1:
            raise UsageError(
                "paste_max and paste_px must be at least 1, not "
                f"{self.paste_max} and {self.paste_px}"
            )
        if self.paste_fade_px is not None and not self.paste_fade_px > 0:
            raise UsageError(f"paste_fade_px must be positive or none, not {self.paste_fade_px}")
        if not 0 <= self.translate <= 0.5:
            raise UsageError(f"translate must lie in [0, 0.5], not {self.translate}")
        for name in ("degrees", "paste_degrees"):
            if not 0 <= getattr(self, name) <= 180:
                raise UsageError(f"{name} must lie in [0, 180], not {getattr(self, name)}")
        if not 0 <= self.shear <= MAX_SHEAR:
            raise UsageError(f"shear must lie in [0, {MAX_SHEAR}] degrees, not {self.shear}")
