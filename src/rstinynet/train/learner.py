"""What learns: model, loss, optimiser and average, without clock, data or files."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rstinynet.data.batch import Batch
from rstinynet.errors import WeightsError
from rstinynet.loss.criterion import Criterion
from rstinynet.loss.distill import distillation
from rstinynet.loss.targets import Targets
from rstinynet.model.detector import DetectorModel
from rstinynet.train.ema import ModelEma
from rstinynet.train.faults import NotFiniteError
from rstinynet.train.optimizer import freeze_backbone, make_optimizer
from rstinynet.train.ranks import ALONE, Ranks
from rstinynet.train.recipe import Recipe
from rstinynet.train.sync_norms import with_global_norms
from rstinynet.train.teacher import Teacher

LOSSES = ("loss", "box", "cls", "dfl", "distill")
"""Names of what `Learner.learn` returns; the last is 0 without a teacher."""


def half_precision(device: torch.device) -> torch.dtype | None:
    """What `device` multiplies faster than float32 in training; None if nothing.

    On a CPU, bfloat16 where it has instructions for it: elsewhere it would only be emulated.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else None


class Learner:
    """A model in training on one device, which may be one of several processes' devices."""

    def __init__(
        self,
        model: DetectorModel,
        recipe: Recipe,
        device: torch.device,
        *,
        class_boxes: Sequence[int] | None = None,
        teacher: Teacher | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.recipe, self.device, self.ranks = recipe, device, ranks
        self._teacher = teacher
        self.model: DetectorModel = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = ModelEma(self.model, decay=recipe.ema_decay, tau=recipe.ema_tau)
        if ranks.world > 1 and recipe.sync_norms:
            with_global_norms(self.model, device)
        self.optimizer = make_optimizer(self.model, recipe)
        self.unsummed = 0
        """Batches whose gradients wait for an update."""
        half = half_precision(device) if recipe.amp else None
        self._amp, self._dtype = half is not None, half or torch.float32
        self._scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
        classes = self.model.num_classes
        criterion = partial(
            Criterion,
            num_classes=classes,
            settings=recipe.loss,
            class_boxes=class_boxes,
            total=ranks.total,
        )
        self._criterion = criterion(self.model.strides)
        strides = self.model.auxiliary_strides
        self._auxiliary = criterion(strides) if strides else None
        self._frozen: bool | None = None
        self._parallel: DistributedDataParallel | None = None
        self._buffers = [each for each in self.model.buffers() if each.is_floating_point()]
        self._buffers_before = [each.clone() for each in self._buffers]

    def learn(self, batch: Batch, *, images: int | None = None, last: bool = True) -> list[float]:
        """Add the batch's gradients; the losses, in the order of `LOSSES`.

        With several processes `batch` is this one's share, of `images` in all; losses are of the
        whole batch, and so are the gradients after the `last` batch before an update. Raises
        NotFiniteError, naming the images, if the loss is not finite; nothing is added then.
        """
        targets = Targets(
            boxes=batch.boxes, labels=batch.labels, known=batch.known, ignore=batch.crowds
        ).to(self.device)
        torch._foreach_copy_(self._buffers_before, self._buffers)
        network = self._network()
        waits = isinstance(network, DistributedDataParallel) and not last
        with network.no_sync() if waits else nullcontext():  # type: ignore[operator]
            with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._amp):
                images_BCHW = self.images(batch)
                soft = self._teacher(images_BCHW) if self._teacher is not None else None
                maps = network(images_BCHW)
            losses = self._criterion([level.float() for level in maps.main], targets)
            total = losses.total
            if self._auxiliary is not None and maps.auxiliary is not None:
                beside = self._auxiliary([level.float() for level in maps.auxiliary], targets)
                total = total + self.recipe.auxiliary_weight * beside.total
            distill = torch.zeros_like(losses.box)
            if soft is not None:
                apart = distillation(
                    maps.main,
                    self.model.strides,
                    soft,
                    self.recipe.loss,
                    total=self.ranks.total,
                )
                apart = apart * self.recipe.distill_weight
                # Like the criterion's: times the number of images.
                total, distill = total + apart * len(batch), apart.detach()
            # The criterion multiplies by the images it sees; the whole batch's number is meant.
            total = total * ((images or len(batch)) / len(batch))
            own = torch.stack([total.detach(), losses.box, losses.cls, losses.dfl, distill])
            values: list[float] = self.ranks.total(own).tolist()
            if not all(map(math.isfinite, values)):
                self._forget_statistics()
                bad = not bool(own.isfinite().all())
                raise self._not_finite("loss", batch.ids if bad else [])
            # DDP takes the mean over the processes where the sum is meant.
            self._scaler.scale(total * self.ranks.world).backward()  # type: ignore[no-untyped-call]
        self.unsummed += 1
        return values

    def update(self, batch: Batch) -> None:
        """Apply the gradients summed since the last update, `batch` the last of them.

        Raises NotFiniteError, naming its images, if they are not finite; they are dropped then.
        """
        self._scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        # With a loss scaler, gradients that overflow are expected now and then, and are skipped.
        if not self._scaler.is_enabled() and not math.isfinite(float(norm)):
            self.forget()
            self._forget_statistics()
            raise self._not_finite("gradient", batch.ids)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.forget()
        if not self.recipe.sync_norms:
            # Every process has statistics of its own share; what they average must be one model.
            self.ranks.copy_from_lead(self._buffers)
        self.ema.update(self.model)

    def forget(self) -> None:
        """Drop the gradients that wait for an update."""
        self.optimizer.zero_grad(set_to_none=True)
        self.unsummed = 0

    def _forget_statistics(self) -> None:
        """Undo what the last forward pass has done to the norms' statistics."""
        torch._foreach_copy_(self._buffers, self._buffers_before)

    def plain(self) -> DetectorModel:
        """The model in training as it would be on one process; itself where there is one."""
        if self.ranks.world == 1:
            return self.model
        twin: DetectorModel = copy.deepcopy(self.ema.module)
        twin.load_state_dict(self.model.state_dict())
        return twin

    def _network(self) -> nn.Module:
        """The model, behind DDP where there are several processes."""
        if self.ranks.world == 1:
            return self.model
        if self._parallel is None:
            self._parallel = DistributedDataParallel(
                self.model,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                # PGI's branch composes a whole trunk, of which it needs some levels.
                find_unused_parameters=self.model.auxiliary_branch is not None,
            )
        return self._parallel

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
            # DDP waits for the gradients of what was trainable when it was made.
            self._parallel = None

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
            "teacher": self._teacher.digest if self._teacher is not None else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; what belongs to another device is left as it is.

        Raises WeightsError where the teacher is not the one that the run began with.
        """
        if self._teacher is not None and self._teacher.digest != state["teacher"]:
            raise WeightsError(
                f"the teacher {self.recipe.distill} has changed since this run began: put the file "
                "back to resume it, or begin a new run"
            )
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.ema.updates = state["ema_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and len(state["rng_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["rng_cuda"])

    def _not_finite(self, what: str, ids: list[int]) -> NotFiniteError:
        rows = self.ranks.rows(np.array(ids, np.float64).reshape(-1, 1))
        named = ", ".join(str(int(id_)) for id_ in rows[:, 0])
        return NotFiniteError(
            f"the {what} must be finite, and is not on the batch of the images with ids {named}: "
            f"look at these images' boxes, or lower --lr0 (now {self.recipe.lr0:g})"
        )
