"""From what a user names to files: a packaged folder, a model on a hub, or several. Needs no torch.

A hub is one that huggingface-hub speaks to. Only files that cannot run code are fetched from it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from rstinynet.errors import UsageError, WeightsError

HUB = "hub:"
STEM = "model"
"""Name of the model's files in a packaged folder."""
SAFE = ("*.safetensors", "*.onnx", "README.md", "LICENSE", "mlm-item.json", "model.export.json")
"""What is fetched from a hub. Pickles (.pt, .pth, .bin, .ckpt) and scripts never are."""
ENGINE = ".trt.onnx"
"""TensorRT engines, of one machine and compiled: named by their path, never found or fetched."""
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def parted(text: str) -> list[str]:
    """The names between commas; one alone where a file or folder is called so, commas and all."""
    if "," not in text or is_there(text):
        return [text]
    # Shells leave the ~ after a comma alone.
    return [os.path.expanduser(one.strip()) for one in text.split(",")]


def one_wanted(text: str) -> str:
    """What to say where one model is wanted and `text` names several, or nothing."""
    count = len(parted(text))
    if count < 2:
        return ""
    return (
        f"this takes one model, not {count}: several search together in `predict`, `val`, `view` "
        "and rstinynet.load, and teach together as train's distill"
    )


def is_there(name: str) -> bool:
    """Whether a file or folder is called so, commas and = and all."""
    try:
        return Path(name).exists()
    except OSError:
        return False  # longer than a file's name can be


def located(path_or_name: Path | str, *, suffixes: Sequence[str]) -> Path | str:
    """The model's file in a folder or of a hub's model; anything else as it was given.

    `suffixes` are the kinds of file wanted, the preferred first. Raises UsageError for a hub's name
    that is none, WeightsError where the hub's model cannot be had or the folder has no such file.
    """
    name = str(path_or_name)
    if name.startswith(HUB):
        return _chosen(fetch(name), suffixes, named=name)
    folder = Path(path_or_name)
    if not folder.is_dir():
        return path_or_name
    plain = isinstance(path_or_name, str) and "/" not in name
    if plain and not _models(folder, suffixes) and shipped_path(name) is not None:
        # A folder that happens to be called as shipped weights are does not hide them.
        return path_or_name
    return _chosen(folder, suffixes, named=name)


def shipped_path(name: str) -> Path | None:
    """File of the weights shipped under this model name, or None."""
    path = Path(str(resources.files("rstinynet"))) / "weights" / f"{name}.safetensors"
    return path if path.is_file() else None


def fetch(name: str) -> Path:
    """The local folder of `hub:owner/name[@revision]`, downloaded where the cache lacks it.

    A revision is a branch, a tag or a commit; only a commit is the same model for ever. The hub's
    own settings hold (HF_HUB_OFFLINE, HF_HOME, HF_ENDPOINT, a token). Raises UsageError and
    WeightsError as `located`.
    """
    parts = _NAME.fullmatch(name.removeprefix(HUB))
    if parts is None:
        raise UsageError(
            f"a hub's model is given as hub:owner/name or hub:owner/name@revision, not {name!r}"
        )
    repo, revision = parts["repo"], parts["revision"]
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise WeightsError(
            f"{name} is fetched by huggingface-hub, which is not installed: "
            "pip install 'rs-tinynet[hub]'"
        ) from error
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(SAFE),
                ignore_patterns=[f"*{ENGINE}"],
            )
        )
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{name}: the model's owner grants access on the hub's page of {repo}: ask for it "
            "there, then log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(
            f"{name}: the hub has no model {repo}, or it is private: check the name, or log in "
            "with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(
            f"{name}: {repo} has no revision {revision!r}: give a branch, a tag or a whole commit "
            "hash that the hub lists, or leave out @"
        ) from error
    except errors.HFValidationError as error:
        raise UsageError(f"{name}: not a model's name on the hub: {error}") from error
    except errors.LocalEntryNotFoundError as error:
        raise WeightsError(
            f"{name}: the hub cannot be reached (or HF_HUB_OFFLINE is set) and the model is not "
            "whole in the local cache. With a connection, load it once here; or run "
            f"`hf download {repo} --local-dir FOLDER` elsewhere, copy FOLDER, and give its path"
        ) from error
    except Exception as error:
        # The hub's client passes on what the transport below it raises, of many kinds.
        raise WeightsError(
            f"{name}: could not be fetched from the hub: {type(error).__name__}: "
            f"{(str(error).strip() or 'no reason given').splitlines()[0]}"
        ) from error


def _models(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The folder's files of the first kind it has, by name."""
    for suffix in suffixes:
        found = sorted(
            p
            for p in folder.iterdir()
            if p.suffix.lower() == suffix and p.is_file() and not p.name.lower().endswith(ENGINE)
        )
        if found:
            return found
    return []


def _chosen(folder: Path, suffixes: Sequence[str], *, named: str) -> Path:
    found = _models(folder, suffixes)
    if not found:
        raise WeightsError(f"{named}: a folder without {' or '.join(suffixes)}{_hint(folder)}")
    for path in found:
        if path.stem == STEM:
            return path
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise WeightsError(
            f"{named}: the folder has several models ({names}) and none is called "
            f"{STEM}{found[0].suffix}: give the path of one"
        )
    return found[0]


def _hint(folder: Path) -> str:
    best = folder / "weights" / "best.safetensors"
    if best.is_file():
        return f": it is a training run, whose weights are {best}"
    names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in _PICKLES)
    if names:
        return f"; {names[0]} may be pickled, which is never loaded: it can run code"
    return ": `rstinynet package` writes folders that can be loaded"
