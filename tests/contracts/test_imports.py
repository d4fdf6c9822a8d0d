"""The house holds: layers, inference apart from training, and files of a readable size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_import_contract_is_kept() -> None:
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_loading_a_detector_imports_no_training_code() -> None:
    code = (
        "import sys, rstinynet; rstinynet.Detector; rstinynet.Result;"
        "sys.exit(' '.join(m for m in sys.modules"
        " if m.startswith(('rstinynet.train', 'rstinynet.loss'))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_source_file_has_over_400_lines() -> None:
    long = {
        path.name: lines
        for path in (ROOT / "src").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}
