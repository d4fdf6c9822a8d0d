"""Exported models are run in an environment that has no torch; here its import is blocked."""

from __future__ import annotations

import subprocess
import sys

BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="torch")
sys.meta_path.insert(0, Blocked())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code], capture_output=True, text=True, check=False
    )


def test_inference_imports_no_torch() -> None:
    done = run(
        "import rstinynet; rstinynet.Detector; rstinynet.Result; rstinynet.Detections;"
        "import rstinynet.cli.predict, rstinynet.cli.val, rstinynet.cli.info;"
        "import rstinynet.evaluate.coco, rstinynet.evaluate.run, rstinynet.evaluate.results;"
        "import rstinynet.scenes.stream, rstinynet.scenes.writers, rstinynet.scenes.sources;"
        "import rstinynet.scenes.fingerprint, rstinynet.scenes.merged, rstinynet.data.folder;"
        "import rstinynet.runtime.onnx_backend, rstinynet.runtime.openvino_backend"
    )
    assert done.returncode == 0, done.stderr


def test_weights_without_torch_say_what_to_install() -> None:
    done = run(
        "from rstinynet.cli.main import run;"
        "sys.exit(run(['predict', 'x.tif', '--out', 'out', '--model', 'rs-tinynet-lite']))"
    )
    assert done.returncode == 4, done.stderr
    assert "rs-tinynet[torch]" in done.stderr


def test_a_verb_that_needs_torch_says_what_to_install() -> None:
    done = run("from rstinynet.cli.main import run; sys.exit(run(['info', 'yolo11n']))")
    assert done.returncode == 1, done.stderr
    assert "rs-tinynet[torch]" in done.stderr
