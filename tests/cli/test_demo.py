"""`rstinynet demo`: what it refuses before the search."""

from __future__ import annotations

from pathlib import Path

import pytest

from rstinynet.cli.main import run
from rstinynet.scenes.detector import Detector


@pytest.mark.parametrize("below", ["", "x"])
def test_a_file_in_the_way_is_noticed_before_the_search(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(Detector, "load", lambda *args: pytest.fail("the model was loaded"))
    assert run(["demo", "--out", str(tmp_path / "file" / below)]) == 2
    assert "file is a file, not a folder" in " ".join(capsys.readouterr().err.split())
