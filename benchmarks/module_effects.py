"""What MDCA and PFDH have learned to do in trained weights, and what AP is without it.

    python benchmarks/module_effects.py WEIGHTS [WEIGHTS ...] --data DIR --images 40

Each module computes weights from the image: MDCA a gate for its input, PFDH's fusion the share of
each level at each position. The first table says how much they vary, and how much more the gate
lets through inside labelled boxes than outside. The second has AP with every such weight held at
its mean over the images, by module (and channel, or level): what is lost is what the module's
reading of the image is worth to these weights. What a model trained without it would reach, only
training can tell (`rstinynet ablate`). With `--sizes` there is only one table, for which no images
are read: how large the convolutions' weights are, by part of the model, and were before training.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.folder import open_split
from rstinynet.data.image import read_rgb
from rstinynet.detections import Detections
from rstinynet.evaluate.coco import MAX_DET, evaluate
from rstinynet.evaluate.run import detector_cap, find_objects
from rstinynet.model.detector import DetectorModel
from rstinynet.model.mdca import MDCA
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.model.pfdh import ASFF
from rstinynet.model.presets import build
from rstinynet.model.weights import load_weights
from rstinynet.scenes.detector import PAD_VALUE, Detector
from rstinynet.train.validate import with_objects

LEAST_CONF = 0.001
SHOWN = ("ap", "ap50", "ap_vt", "ap_t", "ap_s", "ap_m")


class HeldGate(MDCA):
    """MDCA whose gate is the same for every image and position."""

    held: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.held.view(1, -1, 1, 1)


class HeldShares(ASFF):
    """A fusion with the same shares of its levels everywhere."""

    held: Tensor

    def weights(self, maps: Sequence[Tensor]) -> Tensor:
        first = maps[0]
        shares = self.held.view(1, -1, 1, 1)
        return shares.expand(len(first), -1, *first.shape[2:])


HELD = {MDCA: HeldGate, ASFF: HeldShares}


class Seen:
    """What one module computed: means and spread of its weights, inside boxes and outside."""

    def __init__(self) -> None:
        self.means: list[Tensor] = []
        self.spreads: list[Tensor] = []
        self.inside: list[Tensor] = []
        self.outside: list[Tensor] = []

    def add(self, weights_CHW: Tensor, inside_HW: Tensor) -> None:
        self.means.append(weights_CHW.mean(dim=(1, 2)))
        self.spreads.append(weights_CHW.std(dim=(1, 2)))
        if inside_HW.any() and not inside_HW.all():
            self.inside.append(weights_CHW[:, inside_HW].mean(dim=1))
            self.outside.append(weights_CHW[:, ~inside_HW].mean(dim=1))

    def mean(self, which: str = "means") -> Tensor:
        return torch.stack(getattr(self, which)).mean(dim=0)


def watch(model: DetectorModel, labelled: LabelledSet) -> dict[str, Seen]:
    """What the attention and fusion modules compute on the images, by the module's name."""
    seen: dict[str, Seen] = defaultdict(Seen)
    marked_HW = torch.zeros(0, 0)

    def keep(name: str, weights: Tensor) -> None:
        shape = tuple(weights.shape[2:])
        inside = F.adaptive_max_pool2d(marked_HW[None, None], shape)[0, 0] > 0
        seen[name].add(weights[0], inside)

    def gate(name: str, module: MDCA, x: Tensor) -> None:
        channel, spatial = module.channel_attention(x), module.spatial_attention(x)
        keep(name, channel + spatial if module.rule == "sum" else channel * spatial)

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, MDCA):
            handles.append(module.register_forward_pre_hook(
                lambda module, args, name=name: gate(name, module, args[0])))  # fmt: skip
        elif isinstance(module, ASFF):
            handles.append(module.register_forward_pre_hook(
                lambda module, args, name=name: keep(name, module.weights(args[0]))))  # fmt: skip
    model.eval()
    unit = model.size_divisor
    for image in labelled.images:
        pixels = read_rgb(image.path)
        height, width = (-(-side // unit) * unit for side in pixels.shape[:2])
        padded = np.full((height, width, 3), PAD_VALUE, np.uint8)
        padded[: pixels.shape[0], : pixels.shape[1]] = pixels
        marked_HW = torch.zeros(height, width)
        for x0, y0, x1, y1 in image.boxes[~image.crowd]:
            marked_HW[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = 1
        with torch.no_grad():
            model(torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for handle in handles:
        handle.remove()
    return seen


def hold(model: DetectorModel, seen: dict[str, Seen], kind: type) -> DetectorModel:
    """A copy in which the modules of a kind have their mean weights for every image."""
    held = copy.deepcopy(model)
    for name, module in held.named_modules():
        if isinstance(module, kind):
            module.__class__ = HELD[kind]
            module.register_buffer("held", seen[name].mean())
    return held


def sizes(model: DetectorModel) -> dict[str, float]:
    """Root mean square of a convolution's weights, the median over each part's convolutions."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            found[name.split(".")[0]].append(float(module.weight.detach().square().mean().sqrt()))
    return {part: float(np.median(values)) for part, values in found.items()}


def print_sizes(weights: Sequence[str]) -> None:
    print("| weights | model | part | fresh | trained |")
    print("|---" * 5 + "|")
    for given in weights:
        model, metadata = load_weights(given)
        torch.manual_seed(0)
        fresh = sizes(build(metadata.model, len(metadata.names)))
        for part, size in sizes(model).items():
            print(f"| {given} | {metadata.model} | {part} | {fresh[part]:.4f} | {size:.4f} |")


def measure(model: DetectorModel, metadata: WeightsMetadata, labelled: LabelledSet) -> str:
    detector = Detector(model, metadata)

    def detect(images: Sequence[np.ndarray]) -> list[Detections]:
        return detector.detect_batch(images, conf=LEAST_CONF, max_det=detector_cap(MAX_DET))

    report = evaluate(labelled, find_objects(detect, labelled)).as_dict()
    return " | ".join("-" if report[n] is None else f"{100 * report[n]:.1f}" for n in SHOWN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="+", help="weights files, or names of shipped weights")
    parser.add_argument("--data", type=Path, help="needed but for --sizes")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, help="only so many images with objects")
    parser.add_argument("--sizes", action="store_true", help="only how large the weights are")
    options = parser.parse_args()
    if options.sizes:
        print_sizes(options.weights)
        return
    if options.data is None:
        parser.error("--data is needed")
    labelled = open_split(options.data, options.split)
    labelled = with_objects(labelled, options.images)
    inner, outer = [], []
    for given in options.weights:
        model, metadata = load_weights(given)
        if metadata.names != labelled.names:
            raise SystemExit(
                f"{given} finds {', '.join(metadata.names)}; {options.data} labels "
                f"{', '.join(labelled.names)}"
            )
        seen = watch(model, labelled)
        if not seen:
            raise SystemExit(f"{given}: {metadata.model} has neither MDCA nor PFDH")
        for name, each in seen.items():
            columns = [each.mean(), each.mean("spreads")]
            columns += [each.mean("inside"), each.mean("outside")]
            if isinstance(model.get_submodule(name), MDCA):
                columns = [column.mean(dim=0, keepdim=True) for column in columns]
            values = [" ".join(f"{float(v):.2f}" for v in column) for column in columns]
            inner.append(f"| {metadata.model} | {name} | {' | '.join(values)} |")
        outer.append(f"| {metadata.model} | as trained | {measure(model, metadata, labelled)} |")
        for kind, what in ((MDCA, "MDCA's gates held"), (ASFF, "PFDH's shares held")):
            if any(isinstance(module, kind) for module in model.modules()):
                without = measure(hold(model, seen, kind), metadata, labelled)
                outer.append(f"| {metadata.model} | {what} | {without} |")
    print(f"{options.split}, {len(labelled)} images\n")
    print("| model | module | mean | spread over positions | inside boxes | outside |")
    print("|---" * 6 + "|", *inner, sep="\n")
    print("\n| model | | " + " | ".join(SHOWN) + " |")
    print("|---" * (2 + len(SHOWN)) + "|", *outer, sep="\n")


if __name__ == "__main__":
    main()
