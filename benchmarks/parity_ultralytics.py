"""Our YOLO11 against Ultralytics' on the same weights and input, both ways, for each scale.

    python benchmarks/parity_ultralytics.py --python PEER_ENV/bin/python [--scales nsmlx]

PEER_ENV is a separate environment with `ultralytics` and `safetensors` installed; it is never a
dependency. "ours to theirs" loads a random state of ours there under their names; "theirs to ours"
reads the `.pt` that their side saved, through the safe reader. Printed is the largest difference of
the raw outputs divided by the largest output. Exit code 1 when any is over 1e-4.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rstinynet.model.decode import split
from rstinynet.model.foreign import (
    read_checkpoint,
    translated,
    ultralytics_name,
)
from rstinynet.model.presets import build

TOLERANCE = 1e-4
CLASSES = 8
PEER = Path(__file__).parent / "peers" / "ultralytics_parity.py"


def outputs(model, image):
    with torch.no_grad():
        boxes, scores = split(model.eval()(image).main)
    return boxes.transpose(1, 2), scores.transpose(1, 2)


def difference(ours, theirs) -> float:
    return max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True)
    )


def compare(python: str, scale: str) -> tuple[float, float]:
    """Largest relative differences (ours to theirs, theirs to ours) for one scale."""
    torch.manual_seed(0)
    image = torch.rand(2, 3, 160, 224)
    model = build(f"yolo11{scale}", CLASSES)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    with tempfile.TemporaryDirectory() as folder:
        state = {ultralytics_name(n): t for n, t in model.state_dict().items()}
        save_file({**state, "image": image}, Path(folder) / "in.safetensors")
        offline = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
        subprocess.run(
            [python, str(PEER), folder, scale, str(CLASSES)],
            check=True,
            env={**os.environ, **offline},
            stdout=subprocess.DEVNULL,
        )
        theirs = load_file(Path(folder) / "out.safetensors")
        there = difference(outputs(model, image), (theirs["ours_boxes"], theirs["ours_scores"]))
        fresh = build(f"yolo11{scale}", CLASSES)
        checkpoint = read_checkpoint(Path(folder) / "peer.pt")
        fresh.load_state_dict(translated(fresh, checkpoint.tensors))  # all of them, or it raises
        back = difference(outputs(fresh, image), (theirs["theirs_boxes"], theirs["theirs_scores"]))
    return there, back


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="Python of the peer's environment")
    parser.add_argument("--scales", default="nsmlx")
    options = parser.parse_args()
    worst = 0.0
    print(f"{'model':<10} {'ours to theirs':>15} {'theirs to ours':>15}")
    for scale in options.scales:
        there, back = compare(options.python, scale)
        worst = max(worst, there, back)
        print(f"yolo11{scale:<4} {there:>15.1e} {back:>15.1e}", flush=True)
    print(f"largest {worst:.1e}, allowed {TOLERANCE:.0e}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
