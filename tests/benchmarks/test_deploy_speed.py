"""The speed comparison goes on where it was stopped, and only with what it began with."""

from __future__ import annotations

import runpy
import sys
from argparse import Namespace
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "deploy_speed.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def options(**changes):
    given = {"runtimes": "torch", "seconds": 1.0, "rounds": 3, "image": None, "python": None}
    return Namespace(**given | {"compiled": "yolo11n", "resume": True} | changes)


def test_what_is_done_is_not_timed_again(script, tmp_path):
    path = tmp_path / "finished.json"
    script["Finished"](path, options()).add({"model": "yolo11n", "imgsz": 640, "rows": []})
    again = script["Finished"](path, options())
    assert again.has("yolo11n", 640)
    assert not again.has("yolo11n", 800)
    assert not script["Finished"](path, options(resume=False)).tables


@pytest.mark.parametrize("change", [{"runtimes": "onnx"}, {"rounds": 9}, {"compiled": ""}])
def test_tables_of_other_options_are_not_mixed(script, tmp_path, change):
    path = tmp_path / "finished.json"
    script["Finished"](path, options()).add({"model": "yolo11n", "imgsz": 640, "rows": []})
    with pytest.raises(SystemExit, match="is of other options"):
        script["Finished"](path, options(**change))


def test_tables_of_another_number_of_processors_are_not_mixed(script, tmp_path, monkeypatch):
    path = tmp_path / "finished.json"
    finished = script["Finished"]
    finished(path, options()).add({"model": "yolo11n", "imgsz": 640, "rows": []})
    monkeypatch.setitem(finished.__init__.__globals__, "processors", lambda: 99)
    with pytest.raises(SystemExit, match="is of other options"):
        finished(path, options())


def test_a_run_without_a_folder_cannot_be_resumed(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["deploy_speed.py", "--resume"])
    with pytest.raises(SystemExit) as caught:
        script["main"]()
    assert caught.value.code == 2
    assert "--resume needs the --work" in capsys.readouterr().err
