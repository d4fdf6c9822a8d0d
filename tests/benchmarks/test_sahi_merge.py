"""benchmarks/peers/sahi_merge.py: what is measured of a merge, by one that is made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).parents[2] / "benchmarks" / "peers" / "sahi_merge.py"
COMBINE = """
import time

FIRST = []

class Merge:
    def __init__(self, **options):
        pass
    def __call__(self, objects):
        if not FIRST:
            end = time.process_time() + 0.5
            while time.process_time() < end:
                pass
        FIRST.append(1)
        return objects

NMSPostprocess = GreedyNMMPostprocess = Merge
"""
PREDICTION = """
class ObjectPrediction:
    def __init__(self, **options):
        self.held = b"1" * 100_000
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_neither_the_boxes_nor_what_the_first_call_loads_counts(tmp_path):
    for name, text in (("postprocess/combine", COMBINE), ("prediction", PREDICTION)):
        path = tmp_path / "sahi" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    np.save(tmp_path / "boxes.npy", np.ones((500, 5)))
    done = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path / "boxes.npy"), "20"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert [way["kept"] for way in told.values()] == [500, 500]
    assert max(way["s"] for way in told.values()) < 0.25
    assert max(way["MiB"] for way in told.values()) < 20
