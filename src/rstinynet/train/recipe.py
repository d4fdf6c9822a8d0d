"""Every setting of a training run, in one typed object, and the named recipes.

A recipe is a value: a function returns it, `dataclasses.replace` changes it, `args.yaml` and the
checkpoint record it. The loss's and the augmentation's settings are nested under their own names.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from rstinynet.data.augment import AugmentSettings
from rstinynet.data.cache import CacheKind
from rstinynet.errors import UsageError
from rstinynet.evaluate.coco import FIGURES
from rstinynet.loss.settings import LossSettings
from rstinynet.model.located import parted

POLICIES = ("stop", "skip")
MOSAIC_OFF_SHARE = 0.2
"""Largest share of the epochs that `close_mosaic` may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How to train. Defaults are the paper's, and YOLO11's where the paper is silent."""

    name: str = "paper"
    epochs: int = 600
    batch: int = 16
    seed: int = 0

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr0: float = 0.01
    lrf: float = 0.01
    """The last learning rate, as a share of `lr0`."""
    schedule: Literal["linear", "cosine"] = "linear"
    lr_step: Literal["batch", "epoch"] = "batch"
    """The learning rate falls with every batch, or with every epoch as in YOLO11."""
    momentum: float = 0.937
    """Nesterov momentum of SGD, or AdamW's beta 1."""
    weight_decay: float = 5e-4
    """Not applied to norms and biases; scaled by (batch * accumulated batches) / nominal_batch."""
    warmup_epochs: float = 3.0
    warmup_iterations: int | None = None
    """Warm-up in batches; takes the place of `warmup_epochs`."""
    warmup_bias_lr: float = 0.1
    warmup_momentum: float = 0.8
    nominal_batch: int | None = 64
    """Sum gradients over about this many images per update; None: every batch is an update."""
    clip_norm: float = 10.0
    """Largest gradient norm."""
    amp: bool = True
    """Mixed precision: on CUDA, and on CPUs with instructions for bfloat16."""
    ema_decay: float = 0.9999
    ema_tau: float = 2000.0
    """Updates after which the average has mostly forgotten the first weights."""
    norm_batches: int = 40
    """At the end the norms' statistics are also taken anew over so many batches; 0: never."""
    auxiliary_weight: float = 0.25
    """Weight of the auxiliary branch's loss, for models that have one; 0: it is not trained."""
    distill: str | None = None
    """Teacher: weights of the same classes (a file, or the name of shipped weights) whose scores
    and boxes are learnt besides the labels, also of classes that the labels leave unknown. Of
    several, separated by commas, it is the first one's maps, corrected by what all agree on."""
    distill_weight: float = 1.0
    """Weight of what the teacher says; the labels have 1."""
    distill_views: int = 1
    """Mirrored views over which the teacher's scores are a mean: 1, 2 or 4."""
    freeze_backbone_epochs: float = 0.0
    """The backbone, with its norms' statistics, stays as initialised for so long."""
    freeze_level: int = 0
    """Parts of the backbone up to this pyramid level (2 has stride 4) are never trained; 0: none.
    For pretrained weights: those layers are general, and the costliest to train."""
    backbone_lr_factor: float = 1.0

    close_mosaic: float = 10
    """Mosaic is off for this many last epochs (that share of the time under `max_minutes`), but
    for a fifth of all at most, or a short run would have none; `augment.mosaic_prob=0` has none."""
    max_minutes: float | None = None
    """Fit the schedule into this much wall-clock time, final validation included."""
    val_every: int = 1
    """Validate after every so many epochs, and at the end; 0: only at the end."""
    val_images: int | None = None
    """Validate on so many evenly spaced images only, except at the end; None: on all."""
    best: str = "ap"
    """The number that chooses the best weights: ap, ap50, ap75, ap_vt, ap_t, ap_s or ap_m."""
    patience: int | None = None
    """End the run when `best` has not risen for so many epochs; None: never."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """What to do with a batch whose loss or gradient is infinite or not a number."""
    nonfinite_limit: int = 10
    """Most such batches in a row that are skipped; the next one stops the run."""
    bad_images: Literal["stop", "skip"] = "stop"
    """What to do when a training image is missing or cannot be read: another may take its place."""
    sync_norms: bool = True
    """With several processes, batch norms see the images of all, as one process would."""
    save_minutes: float = 5.0
    """Save the resume state this often, besides after each epoch."""
    class_balance: float = 0.0
    """Repeat-factor sampling's threshold: images of classes rarer than this come more often."""
    workers: int = 2
    """Threads that prepare batches."""
    watch: str = "tensorboard"
    """Who is told of the run, separated by commas: tensorboard, wandb, mlflow, a plugin; none."""
    pictures: bool = True
    """Draw the first batches, what is found in validation, and the curves."""
    cache: CacheKind = "memory"
    """Where decoded training images are kept, so that each is decoded once."""
    cache_gib: float = 4.0
    """Most that the cache holds, GiB; images beyond are decoded each time."""
    cache_dir: str | None = None
    """Folder of the disk cache, which runs may share; None: in the user's cache folder."""
    log_every: int = 20
    """Batches between two log lines."""
    inference_scale: float | None = None
    """Resize factor at validation and inference, written into the weights. None: as in training: 1,
    or with `augment.fit=letterbox` validation fits each image, and the weights have the factor that
    fits the median training image."""
    compare_unaveraged: bool = True
    """At the end the model without averaging is measured too, and kept if it is better."""
    licence: str = "unspecified"
    """Licence of the weights, written into them."""

    augment: AugmentSettings = field(default_factory=AugmentSettings)
    loss: LossSettings = field(default_factory=LossSettings)

    @property
    def imgsz(self) -> int:
        """Side of the square training image, pixels."""
        return self.augment.imgsz

    @property
    def mosaic_share(self) -> float:
        """Share of the run, from its start, in which mosaics are made."""
        if not self.augment.mosaic_prob:
            return 0.0
        return 1 - min(self.close_mosaic / self.epochs, MOSAIC_OFF_SHARE)

    def __post_init__(self) -> None:
        rules: list[tuple[str, bool, str]] = [
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("seed", 0 <= self.seed < 2**64, "0 or more, and less than 2**64"),
            ("optimizer", self.optimizer in ("sgd", "adamw"), "sgd or adamw"),
            ("schedule", self.schedule in ("linear", "cosine"), "linear or cosine"),
            ("lr0", 0 < self.lr0 < math.inf, "positive"),
            ("lrf", 0 <= self.lrf <= 1, "between 0 and 1"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("nominal_batch", _none_or(self.nominal_batch, 1), "at least 1, or none"),
            ("auxiliary_weight", 0 <= self.auxiliary_weight < math.inf, "0 or more"),
            ("warmup_bias_lr", 0 <= self.warmup_bias_lr < math.inf, "0 or more"),
            ("warmup_momentum", 0 <= self.warmup_momentum < 1, "in [0, 1)"),
            ("freeze_backbone_epochs", self.freeze_backbone_epochs >= 0, "0 or more"),
            ("freeze_level", self.freeze_level >= 0, "0 or more"),
            ("clip_norm", self.clip_norm > 0, "positive"),
            ("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)"),
            ("norm_batches", self.norm_batches >= 0, "0 or more"),
            ("ema_tau", self.ema_tau > 0, "positive"),
            (
                "distill",
                _apart(self.distill),
                "one file or name, or several, each once, and commas",
            ),
            ("distill_weight", 0 < self.distill_weight < math.inf, "positive"),
            ("distill_views", self.distill_views in (1, 2, 4), "1, 2 or 4"),
            ("backbone_lr_factor", 0 <= self.backbone_lr_factor < math.inf, "0 or more"),
            ("close_mosaic", self.close_mosaic >= 0, "0 or more"),
            ("max_minutes", _none_or(self.max_minutes), "positive, or none"),
            ("warmup_epochs", 0 <= self.warmup_epochs < math.inf, "0 or more"),
            ("warmup_iterations", (self.warmup_iterations or 0) >= 0, "0 or more, or none"),
            ("save_minutes", 0 <= self.save_minutes < math.inf, "0 or more"),
            ("val_every", self.val_every >= 0, "0 or more"),
            ("best", self.best in FIGURES, f"{', '.join(FIGURES)}{near(self.best, FIGURES)}"),
            ("patience", self.patience is None or self.patience >= 1, "at least 1, or none"),
            ("nonfinite", self.nonfinite in POLICIES, "stop or skip"),
            ("nonfinite_limit", self.nonfinite_limit >= 0, "0 or more"),
            ("bad_images", self.bad_images in POLICIES, "stop or skip"),
            ("val_images", self.val_images is None or self.val_images >= 1, "at least 1, or none"),
            ("workers", self.workers >= 1, "at least 1"),
            ("cache", self.cache in ("none", "memory", "disk"), "none, memory or disk"),
            ("cache_gib", self.cache_gib > 0, "positive"),
            ("log_every", self.log_every >= 1, "at least 1"),
            ("inference_scale", _none_or(self.inference_scale), "positive, or none"),
            ("lr_step", self.lr_step in ("batch", "epoch"), "batch or epoch"),
        ]
        for name, holds, rule in rules:
            if not holds:
                raise UsageError(
                    f"recipe setting '{name}' must be {rule}, not {getattr(self, name)}"
                )


def _none_or(value: float | None, least: float = 0.0) -> bool:
    """Whether there is no value, or one that is finite, positive and at least `least`."""
    return value is None or (0 < value < math.inf and value >= least)


def _apart(distill: str | None) -> bool:
    """Whether no teacher's name is empty or stands twice."""
    found = parted(distill) if distill is not None else []
    return all(found) and len(set(found)) == len(found)


def near(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'NAME'?" where something known is like `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def paper() -> Recipe:
    """The paper's training: 600 epochs of SGD at 800 px, batch 16; YOLO11's where it is silent."""
    return Recipe(
        lr_step="epoch",
        norm_batches=0,
        compare_unaveraged=False,
        augment=AugmentSettings(
            imgsz=800,
            fit="letterbox",
            scale=(0.5, 1.5),
            translate=0.1,
            symmetries="horizontal",
            cut_boxes="drop",
            min_box_px=2.0,
            min_visibility=0.1,
            focus_prob=0.0,
            grey_prob=0.0,
            contrast_prob=0.0,
            blur_prob=0.0,
            noise_prob=0.0,
        ),
        loss=LossSettings.yolo11(),
    )


def tiny() -> Recipe:
    """Ours for tiny objects: native-resolution crops, mild scaling, the square's symmetries."""
    return Recipe(
        name="tiny",
        epochs=150,
        schedule="cosine",
        augment=AugmentSettings(imgsz=640, mosaic_prob=0.5, scale=(0.5, 1.6), grey_prob=0.3),
    )


def short() -> Recipe:
    """`tiny` for small machines and a few thousand updates: AdamW, quick warm-up, quick EMA."""
    base = tiny()
    return replace(
        base,
        name="short",
        epochs=30,
        batch=8,
        augment=replace(base.augment, imgsz=416),
        optimizer="adamw",
        lr0=1.5e-3,
        momentum=0.9,
        weight_decay=0.01,
        warmup_iterations=200,
        warmup_bias_lr=0.0,
        nominal_batch=None,
        ema_decay=0.998,
        ema_tau=200.0,
        close_mosaic=3,
        val_every=3,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"paper": paper, "tiny": tiny, "short": short}


def setting_names() -> list[str]:
    """Every setting that can be changed by name; nested ones as `loss.NAME`, `augment.NAME`."""
    own = [f.name for f in fields(Recipe) if f.name not in ("name", "augment", "loss")]
    nested = [f"loss.{f.name}" for f in fields(LossSettings)]
    return own + [f"augment.{f.name}" for f in fields(AugmentSettings)] + nested
