"""The Makefile where a virtual environment cannot be made."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("code", [1, 0])
def test_a_failed_environment_is_not_taken_for_a_made_one(tmp_path: Path, code: int) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / "python"
    # venv makes the interpreter first, and may then fail for want of ensurepip.
    python.write_text(f"#!/bin/sh\nmkdir -p .venv/bin\ntouch .venv/bin/python\nexit {code}\n")
    python.chmod(0o755)
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run(
        [make, ".venv/bin/python", f"PYTHON={python}"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert (done.returncode == 0) == (code == 0)
    assert (tmp_path / ".venv").exists() == (code == 0)
