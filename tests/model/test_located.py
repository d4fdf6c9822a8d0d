"""Models named by a packaged folder or by their place on a hub; the hub is a folder or a fake."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors

import rstinynet
from rstinynet.cli.info import describe
from rstinynet.cli.main import run
from rstinynet.errors import WeightsError
from rstinynet.model.located import SAFE, fetch, located
from rstinynet.model.weights import load_weights, shipped_path

WEIGHTS = (".safetensors", ".onnx")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "packed"
    path.mkdir()
    shutil.copy(shipped_path("rs-tinynet-lite"), path / "model.safetensors")
    return path


@pytest.fixture
def hub(folder, monkeypatch):
    """The hub's client, whose every model is `folder`; what it was asked is listed."""
    asked = []

    def snapshot_download(repo_id, **options):
        asked.append((repo_id, options))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_folder_is_loaded_by_every_reader(folder):
    detector = rstinynet.load(folder, device="cpu")
    assert detector.names == rstinynet.load("rs-tinynet-lite", device="cpu").names
    assert load_weights(str(folder))[1] == detector.metadata
    assert describe(str(folder))["metadata"]["model"] == "rs-tinynet-lite"


def test_the_kind_wanted_first_is_taken_and_model_of_several(folder):
    (folder / "model.onnx").touch()
    (folder / "another.onnx").touch()
    assert located(folder, suffixes=WEIGHTS) == folder / "model.safetensors"
    assert located(folder, suffixes=WEIGHTS[::-1]) == folder / "model.onnx"
    (folder / "model.onnx").rename(folder / "b.onnx")
    with pytest.raises(WeightsError, match=r"several models \(another.onnx, b.onnx\)"):
        located(folder, suffixes=(".onnx",))


def test_providers_ask_for_the_exported_file(folder):
    (folder / "model.onnx").write_bytes(b"no model")
    options = rstinynet.RuntimeOptions(providers=("cpu",))
    with pytest.raises(rstinynet.ExportError, match=r"model\.onnx"):
        rstinynet.load(folder, options=options)


def test_other_folders_say_what_they_lack(tmp_path):
    with pytest.raises(WeightsError, match="rstinynet package"):
        located(tmp_path, suffixes=WEIGHTS)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin may be pickled"):
        located(tmp_path, suffixes=WEIGHTS)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "best.safetensors").touch()
    with pytest.raises(WeightsError, match=r"training run.*best\.safetensors"):
        located(tmp_path, suffixes=WEIGHTS)


def test_an_engine_is_not_the_model_of_a_folder(tmp_path):
    (tmp_path / "a.trt.onnx").touch()
    with pytest.raises(WeightsError, match="a folder without"):
        located(tmp_path, suffixes=(".onnx",))
    (tmp_path / "a.onnx").touch()
    assert located(tmp_path, suffixes=(".onnx",)) == tmp_path / "a.onnx"


def test_a_folder_called_as_a_model_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("rs-tinynet-lite", "yolo11n"):
        (tmp_path / name).mkdir()
    assert load_weights("rs-tinynet-lite")[1].model == "rs-tinynet-lite"
    assert describe("yolo11n")["model"] == "yolo11n"
    with pytest.raises(WeightsError, match="a folder without"):
        load_weights("./rs-tinynet-lite")


def test_a_hub_model_is_pinned_and_only_safe_files_are_fetched(hub):
    detector = rstinynet.load(f"hub:owner/name@{COMMIT}", device="cpu")
    assert detector.metadata.model == "rs-tinynet-lite"
    [(repo, options)] = hub
    assert repo == "owner/name"
    ignored = options.pop("ignore_patterns")
    assert options == {"revision": COMMIT, "allow_patterns": list(SAFE)}
    assert ignored == ["*.trt.onnx"]
    assert not any(name.endswith((".pt", ".pth", ".bin", ".ckpt", ".pkl", ".py")) for name in SAFE)
    assert located("hub:owner/name", suffixes=WEIGHTS).name == "model.safetensors"
    assert hub[-1][1]["revision"] is None
    fetch("hub:owner/name@refs/pr/3")
    assert hub[-1][1]["revision"] == "refs/pr/3"


@pytest.mark.parametrize(
    "name", ["hub:", "hub:name", "hub:a/b/c", "hub:a/b@", "hub: a/b", "hub:/b"]
)
def test_a_name_that_is_none(name, hub, capsys):
    assert run(["info", name]) == 2
    assert "hub:owner/name@revision" in capsys.readouterr().err
    assert not hub


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (errors.RepositoryNotFoundError, "has no model owner/name"),
        (errors.GatedRepoError, "grants access"),
        (errors.RevisionNotFoundError, "no revision 'v9'"),
        (errors.LocalEntryNotFoundError, "hf download owner/name --local-dir"),
        (errors.IncompleteSnapshotError, "hf download owner/name --local-dir"),
        (errors.HfHubHTTPError, "HfHubHTTPError: as it says"),
        (TimeoutError, "TimeoutError: as it says"),
    ],
)
def test_what_goes_wrong_on_a_hub_says_what_to_do(kind, said, monkeypatch):
    made = {"__init__": lambda _: None, "__str__": lambda _: "as it says\nmore"}
    faked = type(kind.__name__, (kind,), made)

    def fail(*_, **__):
        raise faked

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(WeightsError, match=said) as caught:
        fetch("hub:owner/name@v9")
    assert "more" not in str(caught.value)


def test_without_the_client_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"rs-tinynet\[hub\]"):
        fetch("hub:owner/name")


def test_offline_the_cache_is_used_and_else_said(folder, tmp_path):
    """The hub's own client, offline: what lies in its cache is loaded, and nothing else."""
    home = tmp_path / "home"
    cached = home / "hub" / "models--owner--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT)
    (cached / "snapshots").mkdir()
    folder.rename(cached / "snapshots" / COMMIT)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    code = (
        "import rstinynet, sys\n"
        f"for name in ('hub:owner/name', 'hub:owner/name@{COMMIT}'):\n"
        "    assert rstinynet.load(name, device='cpu').names\n"
        "try:\n"
        "    rstinynet.load('hub:owner/name@other')\n"
        "except rstinynet.WeightsError as error:\n"
        "    assert 'HF_HUB_OFFLINE' in str(error), error\n"
        "    sys.exit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr


def test_a_folder_of_a_hub_detects_as_the_weights_do(hub):
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    ours = rstinynet.load("rs-tinynet-lite", device="cpu").detect(image, conf=0.01)
    theirs = rstinynet.load("hub:owner/name", device="cpu").detect(image, conf=0.01)
    np.testing.assert_array_equal(ours.boxes, theirs.boxes)


@pytest.mark.parametrize("verb", ["predict", "val", "view", "train", "export", "info", "package"])
def test_help_says_how_a_hub_model_is_named(verb, capsys, monkeypatch):
    """Square brackets would be taken for colours and not be shown."""
    monkeypatch.setenv("COLUMNS", "300")
    assert run([verb, "--help"]) == 0
    assert "hub:owner/name@revision" in " ".join(capsys.readouterr().out.split())
