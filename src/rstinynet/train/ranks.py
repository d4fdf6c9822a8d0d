"""One training run on several processes, as torchrun or `accelerate launch` starts them.

Every process (rank) holds the whole model and takes its share of each batch and of each
validation. Only the first one, the lead, writes and talks. A run of one process needs none of it:
`Ranks()` does nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch import distributed as dist

from rstinynet.errors import RSTinyNetError, UsageError

TIMEOUT = timedelta(minutes=30)
"""Longest wait for the other processes: the lead alone scores a validation meanwhile."""
_LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset)|timed out|tcpstore|broken pipe", re.I)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which process of how many this is, and what they tell each other."""

    rank: int = 0
    world: int = 1
    local: int = 0
    """Number of the process on its own machine, which is the number of its GPU."""

    @property
    def leads(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """The part of 0 .. count - 1 that is this process's; parts differ by one at most."""
        return range(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def total(self, x: Tensor) -> Tensor:
        """The sum of `x` over the processes, without a gradient."""
        if self.world == 1:
            return x
        x = x.detach().clone()
        dist.all_reduce(x)
        return x

    def copy_from_lead(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite `tensors`, all of one device, with the lead's."""
        if self.world == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor.detach())
        # One message for all of a type: there are hundreds, most of them short.
        for own in by_type.values():
            whole = torch.cat([tensor.reshape(-1) for tensor in own])
            dist.broadcast(whole, 0)
            for tensor, part in zip(own, torch.split(whole, [t.numel() for t in own]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def from_lead(self, value: Any) -> Any:
        """The lead's `value`, which JSON can write; what the others give is not read."""
        if self.world == 1:
            return value
        text = json.dumps(value).encode() if self.leads else b""
        length = self.total(torch.tensor([len(text)]))
        content = torch.zeros(int(length), dtype=torch.uint8)
        if self.leads:
            content.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        dist.broadcast(content, 0)
        return json.loads(content.numpy().tobytes())

    def rows(self, own_NK: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The (N, K) rows of all processes together, in the order of ranks."""
        if self.world == 1:
            return own_NK
        lengths = torch.zeros(self.world, dtype=torch.int64)
        lengths[self.rank] = len(own_NK)
        lengths = self.total(lengths)
        longest = int(lengths.max())
        # Collectives want one size: short lists are padded.
        padded = torch.zeros(longest, own_NK.shape[1], dtype=torch.float64)
        padded[: len(own_NK)] = torch.from_numpy(np.ascontiguousarray(own_NK))
        lists = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(lists, padded)
        kept = [each[:n] for each, n in zip(lists, lengths.tolist(), strict=True)]
        return torch.cat(kept).numpy()

    def where(self, device: str) -> str:
        """The device and number of processes, in words."""
        return device if self.world == 1 else f"{self.world} processes with {device}"

    def device(self, name: str) -> torch.device:
        """The device that `name` is for this process: `cuda` is the GPU of its local number.

        Raises UsageError for a GPU by number, which all processes would share.
        """
        if self.world == 1 or not name.startswith("cuda"):
            return torch.device(name)
        if name != "cuda":
            raise UsageError(f"several processes need --device cuda or cpu, not {name}")
        if self.local >= torch.cuda.device_count():
            raise UsageError(
                f"process {self.local} of this machine has no GPU of its own: there are "
                f"{torch.cuda.device_count()}; start fewer processes"
            )
        return torch.device("cuda", self.local)


ALONE = Ranks()


def placed() -> Ranks:
    """This process's place in the run that torchrun started, by its environment variables."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ:
        return ALONE
    return Ranks(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """This process's place, in touch with the others.

    A process group that the caller has made already is used, and left. Raises UsageError where
    there is no such device, and RSTinyNetError, instead of hanging, when another process ends or
    stays silent.
    """
    _require_device(device)
    ranks = placed()
    if ranks.world == 1:
        yield ranks
        return
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(ranks.device(device))
    own = not dist.is_initialized()
    with _clear_loss_of_a_peer(ranks):
        if own:
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
        yield ranks
    if own:
        dist.destroy_process_group()


def _require_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"'{name}' is no kind of device: give --device cpu, cuda, or cuda:1"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"training runs on cpu or cuda, not on {name}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no device {name} here: give --device cpu")


@contextmanager
def _clear_loss_of_a_peer(ranks: Ranks) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if _LOST_PEER.search(str(error)) is None:
            raise
        raise RSTinyNetError(
            f"process {ranks.rank} of 0 to {ranks.world - 1} has lost another one, which ended or "
            "no longer answers: its own message says why. What was saved last is intact: go on "
            "with --resume, or begin again where nothing was saved yet "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
