"""The files of a run's folder, besides weights and resume state."""

from __future__ import annotations

import csv
import io
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from rstinynet.errors import UsageError
from rstinynet.files import lock, write_bytes, write_json
from rstinynet.train import checkpoint
from rstinynet.version import __version__


@contextmanager
def held(path: Path, *, leads: bool = True) -> Iterator[None]:
    """Keep other runs out of the folder `path` while this one is at work there.

    A folder that is missing is left so. Raises UsageError if a run is at work there.
    """
    if not leads or not path.is_dir() or os.name == "nt":  # Windows opens no folders
        yield
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        if not lock(folder):
            raise UsageError(
                f"a run is at work in {path}: give another --out, or stop that one first"
            )
        yield
    finally:
        os.close(folder)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run writes: args.yaml, env.json, assignment.json, results.csv, metrics.json,
    weights/, resume/; `watch` adds events.jsonl, tensorboard/ and pictures."""

    path: Path

    @property
    def best(self) -> Path:
        """Weights with the best validation AP."""
        return self.path / "weights" / "best.safetensors"

    @property
    def last(self) -> Path:
        """The newest averaged weights."""
        return self.path / "weights" / "last.safetensors"

    def begin(self, args: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Write args.yaml and, with `inputs` (at least the device), env.json.

        UsageError if another run is kept here.
        """
        if checkpoint.kept(self.path) or self.last.exists():
            raise UsageError(
                f"{self.path} holds a run: give another --out, or continue it with "
                f"--resume {self.path}"
            )
        write_bytes(self.path / "args.yaml", yaml.safe_dump(dict(args), sort_keys=False).encode())
        write_json(self.path / "env.json", environment(inputs["device"]) | dict(inputs))

    def write_results(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write results.csv, a row an epoch; cells of what was not measured stay empty."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_bytes(self.path / "results.csv", text.getvalue().encode())

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics.json."""
        write_json(self.path / "metrics.json", dict(metrics))

    def write_assignment(self, found: Mapping[str, Any]) -> None:
        """Write assignment.json: which boxes get how many candidate anchors."""
        write_json(self.path / "assignment.json", dict(found))


def environment(device: str) -> dict[str, Any]:
    """What the run ran on: versions, processor, device."""
    described: dict[str, Any] = {
        "rstinynet": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "torch_threads": torch.get_num_threads(),
        "git": git_state(Path(__file__).parent),
        "device": device,
    }
    if device.startswith("cuda"):
        described["gpu"] = torch.cuda.get_device_name(torch.device(device))
    return described


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether files differ from it, where `folder` is kept in git; else None."""
    if folder.parts[-3:-1] != ("src", "rstinynet"):
        # Installed, perhaps into an environment that lies in somebody's checkout: not our commit.
        return None
    answers = []
    for question in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        command = ["git", "-C", str(folder), *question]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if answer.returncode:
            return None
        answers.append(answer.stdout.strip())
    return {"commit": answers[0], "changed": bool(answers[1])}
