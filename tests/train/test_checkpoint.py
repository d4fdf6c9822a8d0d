"""Resume state that is damaged, missing or unsafe."""

from __future__ import annotations

import os

import pytest
import torch

from rstinynet.errors import UsageError, WeightsError
from rstinynet.train import checkpoint, overrides
from rstinynet.train.folder import RunFolder
from rstinynet.train.job import Job
from rstinynet.train.recipe import short


def two_saves(run):
    checkpoint.save(run, {"iteration": 1, "model": {"w": torch.zeros(1000)}})
    checkpoint.save(run, {"iteration": 2, "model": {"w": torch.ones(1000)}})


def test_newest_state_is_read(tmp_path):
    two_saves(tmp_path)
    state = checkpoint.load(tmp_path)
    assert state["iteration"] == 2
    assert torch.equal(state["model"]["w"], torch.ones(1000))
    assert sorted(path.name for path in (tmp_path / "resume").iterdir()) == [
        "last.pt",
        "previous.pt",
    ]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "missing"])
def test_damaged_newest_state_falls_back(tmp_path, damage):
    two_saves(tmp_path)
    last = checkpoint.last_path(tmp_path)
    content = bytearray(last.read_bytes())
    if damage == "missing":
        last.unlink()
    elif damage == "flip":
        content[content.index(torch.ones(100).numpy().tobytes()) + 50] ^= 0xFF
        last.write_bytes(content)
    else:
        last.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    assert checkpoint.load(tmp_path)["iteration"] == 1


def test_failed_write_leaves_the_newest_state(tmp_path, monkeypatch):
    two_saves(tmp_path)

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, {"iteration": 3})
    monkeypatch.undo()
    assert checkpoint.load(tmp_path)["iteration"] == 2


def test_no_state_at_all_is_explained(tmp_path):
    with pytest.raises(WeightsError, match="--resume needs the folder of a run"):
        checkpoint.load(tmp_path)
    two_saves(tmp_path)
    checkpoint.last_path(tmp_path).write_bytes(b"no")
    checkpoint.previous_path(tmp_path).write_bytes(b"no")
    with pytest.raises(WeightsError, match="cannot be read"):
        checkpoint.load(tmp_path)


def test_a_run_killed_while_it_saved_is_not_begun_anew(tmp_path):
    two_saves(tmp_path)
    checkpoint.last_path(tmp_path).unlink()  # what such a kill can leave
    with pytest.raises(UsageError, match=f"--resume {tmp_path}"):
        RunFolder(tmp_path).begin({}, {"device": "cpu"})
    assert checkpoint.load(tmp_path)["iteration"] == 1


class Harmful:
    """Its unpickling would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    last = checkpoint.last_path(tmp_path)
    last.parent.mkdir()
    torch.save({"format": 1, "model": Harmful()}, last)
    with pytest.raises(WeightsError, match="cannot be read"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("number", "then", "now"),
    [
        (1, "rs-tinynet-n", "rs-tinynet-n-p2p4-pfdh"),
        (1, "yolo11n", "yolo11n"),
        (2, "rs-tinynet-n", "rs-tinynet-n"),
    ],
)
def test_a_run_of_a_former_format_goes_on_with_the_model_it_began_with(tmp_path, number, then, now):
    last = checkpoint.last_path(tmp_path)
    last.parent.mkdir()
    torch.save({"format": number, "job": {"model": then, "data": "d"}}, last)
    values = checkpoint.load(tmp_path)["job"]
    given = {"init": None, "device": "cpu", "recipe": overrides.as_values(short())}
    assert Job.from_values(values | given, out=tmp_path).model == now
    job = Job(model=then, data=tmp_path, out=tmp_path, recipe=short())
    checkpoint.save(tmp_path, {"job": job.as_values()})
    assert Job.from_values(checkpoint.load(tmp_path)["job"], out=tmp_path) == job


@pytest.mark.parametrize("number", [0, 3, None])
def test_another_format_is_refused(tmp_path, number):
    last = checkpoint.last_path(tmp_path)
    last.parent.mkdir()
    torch.save({"format": number, "job": {"model": "yolo11n"}}, last)
    with pytest.raises(WeightsError, match="not a resume state of format 2"):
        checkpoint.load(tmp_path)
