"""Resume state on disk: plain tensors and primitives, never half-written, never unpickled blindly.

Two generations are kept, `resume/last.pt` and `resume/previous.pt`. A new state is written beside,
synced, and only then takes the place of the last one.
"""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from rstinynet.errors import WeightsError
from rstinynet.files import replacing

FORMAT = 2
"""Models have the names of the weights files' schema of the same number."""
log = logging.getLogger(__name__)


def last_path(run: Path) -> Path:
    """Where a run keeps its newest resume state."""
    return run / "resume" / "last.pt"


def previous_path(run: Path) -> Path:
    """Where a run keeps the resume state before the newest."""
    return run / "resume" / "previous.pt"


def kept(run: Path) -> bool:
    """Whether a run keeps any state; one killed while it saved may have the previous only."""
    return last_path(run).exists() or previous_path(run).exists()


def save(run: Path, state: dict[str, Any]) -> None:
    """Write the state as the run's newest; the newest until now becomes the previous."""
    last = last_path(run)
    with replacing(last) as beside:
        torch.save({"format": FORMAT, **state}, beside)
        if last.exists():
            last.replace(previous_path(run))


def load(run: Path) -> dict[str, Any]:
    """The run's newest readable state; WeightsError if there is none.

    A damaged newest state (a full disk, a torn copy) is passed over, with a warning, for the
    previous one. Tensors come back on the CPU.
    """
    faults = []
    for path in (last_path(run), previous_path(run)):
        if not path.exists():
            continue
        try:
            state = _read(path)
        except WeightsError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            log.warning("%s; resuming from %s", fault, path.name)
        return state
    if faults:
        raise WeightsError(
            f"no resume state in {run} can be read: {'; '.join(faults)}. "
            "Start anew, with --init and the run's weights/last.safetensors"
        )
    raise WeightsError(
        f"--resume needs the folder of a run, with {last_path(Path())} in it, not {run}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise WeightsError(f"{path} is damaged at {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:
        # torch raises many types on damaged or unsafe files; all mean the same to the user.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise WeightsError(f"{path} cannot be read: {reason}") from error
    if not isinstance(state, dict) or state.get("format") not in (1, FORMAT):
        raise WeightsError(f"{path} is not a resume state of format {FORMAT}")
    if state["format"] < FORMAT:
        # Models were renamed with each format, as with the schema of weights.
        state["job"] = state["job"] | {"schema": state["format"]}
    return state
