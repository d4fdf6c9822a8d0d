"""Run by `parity_ultralytics.py` inside the peer's own environment; never imported by the package.

Folder argument: in.safetensors (a YOLO11 state in the peer's names, and "image"). Writes
out.safetensors (raw outputs on that state; then a fresh random state of the peer's and its
outputs) and peer.pt (a checkpoint as the peer's trainer writes it).
"""

import sys
from pathlib import Path

import common  # noqa: F401  first: it lets torchvision be imported
import torch
from safetensors.torch import load_file, save_file
from ultralytics.nn.tasks import DetectionModel


def raw(model, image):
    with torch.no_grad():
        outputs = model.eval()(image)[1]
    return outputs["boxes"].contiguous(), outputs["scores"].contiguous()


def main() -> None:
    folder, scale, classes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    given = load_file(folder / "in.safetensors")
    image = given.pop("image")
    model = DetectionModel(f"yolo11{scale}.yaml", nc=classes, verbose=False)
    model.load_state_dict(given, strict=True)
    out = dict(zip(("ours_boxes", "ours_scores"), raw(model, image), strict=True))

    torch.manual_seed(1)
    model = DetectionModel(f"yolo11{scale}.yaml", nc=classes, verbose=False)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    out |= dict(zip(("theirs_boxes", "theirs_scores"), raw(model, image), strict=True))
    save_file(out, folder / "out.safetensors")
    torch.save({"epoch": -1, "ema": None, "model": model, "optimizer": None}, folder / "peer.pt")


main()
