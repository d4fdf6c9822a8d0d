"""What learns: model, loss, optimiser and average, without clock, data or files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rstinynet.data.batch import Batch
from rstinynet.errors import RSTinyNetError
from rstinynet.loss.criterion import Criterion
from rstinynet.loss.targets import Targets
from rstinynet.model.detector import DetectorModel
from rstinynet.train.ema import ModelEma
from rstinynet.train.optimizer import freeze_backbone, make_optimizer
from rstinynet.train.recipe import Recipe

LOSSES = ("loss", "box", "cls", "dfl")
"""Names of what `Learner.learn` returns."""


class Learner:
    """A model in training on one device."""

    def __init__(
        self,
        model: DetectorModel,
        recipe: Recipe,
        device: torch.device,
        *,
        class_boxes: Sequence[int] | None = None,
    ) -> None:
        self.recipe, self.device = recipe, device
        self.model: DetectorModel = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = ModelEma(self.model, decay=recipe.ema_decay, tau=recipe.ema_tau)
        self.optimizer = make_optimizer(self.model, recipe)
        self.unsummed = 0
        """Batches whose gradients wait for an update."""
        self._amp = recipe.amp and device.type == "cuda"
        brain = self._amp and torch.cuda.is_bf16_supported()
        self._dtype = torch.bfloat16 if brain else torch.float16
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._amp and not brain)
        classes = self.model.num_classes
        criterion = partial(
            Criterion, num_classes=classes, settings=recipe.loss, class_boxes=class_boxes
        )
        self._criterion = criterion(self.model.strides)
        strides = self.model.auxiliary_strides
        self._auxiliary = criterion(strides) if strides else None
        self._frozen: bool | None = None

    def learn(self, batch: Batch) -> list[float]:
        """Add the batch's gradients; its losses, in the order of `LOSSES`.

        Raises RSTinyNetError, naming the images, if the loss is not finite.
        """
        targets = Targets(
            boxes=batch.boxes, labels=batch.labels, known=batch.known, ignore=batch.crowds
        ).to(self.device)
        with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._amp):
            maps = self.model(self.images(batch))
        losses = self._criterion([level.float() for level in maps.main], targets)
        total = losses.total
        if self._auxiliary is not None and maps.auxiliary is not None:
            beside = self._auxiliary([level.float() for level in maps.auxiliary], targets)
            total = total + self.recipe.auxiliary_weight * beside.total
        values: list[float] = torch.stack([total, losses.box, losses.cls, losses.dfl]).tolist()
        if not all(map(math.isfinite, values)):
            raise self._not_finite("loss", batch)
        self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self.unsummed += 1
        return values

    def update(self, batch: Batch) -> None:
        """Apply the gradients summed since the last update, `batch` the last of them.

        Raises RSTinyNetError, naming its images, if they are not finite.
        """
        self._scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        # With a loss scaler, gradients that overflow are expected now and then, and are skipped.
        if not self._scaler.is_enabled() and not math.isfinite(float(norm)):
            raise self._not_finite("gradient", batch)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model)
        self.unsummed = 0

    def images(self, batch: Batch) -> Tensor:
        """The batch as the model takes it: (B, 3, H, W) float in [0, 1]."""
        x_BCHW = batch.images_on(self.device).float() / 255
        return x_BCHW.contiguous(memory_format=torch.channels_last)

    def hold_backbone(self, frozen: bool) -> None:
        """Hold the backbone as the recipe says for its frozen epochs, or release it."""
        if frozen != self._frozen:
            self.model.train()
            freeze_backbone(self.model, frozen=frozen, level=self.recipe.freeze_level)
            self._frozen = frozen

    def state(self) -> dict[str, Any]:
        """For the resume state; to be taken between updates."""
        cuda = self.device.type == "cuda"
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "ema_updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state_all() if cuda else [],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; what belongs to another device is left as it is."""
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.ema.updates = state["ema_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and len(state["rng_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["rng_cuda"])

    def _not_finite(self, what: str, batch: Batch) -> RSTinyNetError:
        return RSTinyNetError(
            f"the {what} must be finite, and is not on the batch of the images with ids "
            f"{', '.join(map(str, batch.ids))}: look at these images' boxes, or lower --lr0 "
            f"(now {self.recipe.lr0:g})"
        )
