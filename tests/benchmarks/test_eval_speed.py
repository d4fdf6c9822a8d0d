"""benchmarks/eval_speed.py: the memory that is counted is a tool's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_what_the_parent_held_is_not_the_childs(load_script):
    parent = load_script("benchmarks/eval_speed.py")
    held = b"1" * (300 << 20)
    command = [sys.executable, "-c", "import eval_speed; print(eval_speed._peak())"]
    told = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert len(held) >> 20 < parent._peak()
    assert 10 < float(told.stdout) < 200
