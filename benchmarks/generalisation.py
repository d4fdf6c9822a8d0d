"""How a detector's numbers change with what the camera did: one table, and curves as a picture.

    .venv/bin/python benchmarks/generalisation.py --data DIR --model rs-tinynet-lite --out OUT

Every image of the split is changed in one way and by one amount, its boxes with it, and the split
is evaluated anew: grey, 16-bit with a narrow range, scale, haze, blur, rotation (under three kinds
of turned boxes). Sizes are those of the changed image. `--images N` takes N of the images that have
objects, evenly spaced, for a quick look; the table says how many there were. `--only rotation`
makes these changes only, whatever kinds of boxes. Below it: how far scores are from precision
(calibration). table.json has AP by class too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from rstinynet import files
from rstinynet.boxes import area, clip
from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.data.folder import open_split
from rstinynet.data.geometry import Shape, Warp
from rstinynet.data.image import read_rgb, to_rgb8
from rstinynet.evaluate.calibration import best_temperature, outcomes, reliability, tempered
from rstinynet.evaluate.coco import MAX_DET, evaluate
from rstinynet.evaluate.run import detector_cap
from rstinynet.scenes.detector import Detector
from rstinynet.train.validate import with_objects

LEAST_CONF = 0.001
SHOWN = ("ap", "ap50", "ap_vt", "ap_t", "ap_s", "ap_m")
Pixels = np.ndarray


@dataclass(frozen=True)
class Change:
    """One way to change an image: pixels (H, W, 3) to pixels, and boxes (N, 4) with them."""

    kind: str
    amount: float
    unit: str
    pixels: Callable[[Pixels], Pixels]
    boxes: Callable[[np.ndarray, int, int], np.ndarray] = lambda boxes, width, height: boxes


def grey(image: Pixels) -> Pixels:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def sixteen_bit(share: float) -> Callable[[Pixels], Pixels]:
    """As a sensor of 11 bits stores it, using a share of its range; stretched as on reading."""

    def change(image: Pixels) -> Pixels:
        stored = (200 + image.astype(np.float32) / 255 * (2047 - 200) * share).astype(np.uint16)
        return to_rgb8(stored)

    return change


def resized(factor: float) -> Change:
    def sides(width: int, height: int) -> tuple[int, int]:
        return max(1, round(width * factor)), max(1, round(height * factor))

    def change(image: Pixels) -> Pixels:
        way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        return cv2.resize(image, sides(*image.shape[1::-1]), interpolation=way)

    def move(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
        # Sides are whole pixels, so that x and y are stretched a little more or less than told.
        return boxes * np.tile(np.array(sides(width, height)) / (width, height), 2)

    return Change("scale", factor, "x", change, move)


def haze(amount: float) -> Callable[[Pixels], Pixels]:
    """Mixed with white light of the sky."""
    return lambda image: (image * (1 - amount) + 235 * amount + 0.5).astype(np.uint8)


def blur(sigma: float) -> Callable[[Pixels], Pixels]:
    return lambda image: cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image


def rotated(degrees: float, shape: Shape = "ellipse") -> Change:
    """About the centre, onto a canvas that holds the whole image; the corners are grey.

    A turned box is the upright one around what is turned of it (`Warp.boxes`): the ellipse that
    fills it (Kalra et al., ICCV 2021), its corners, which an exact detector has against it, or
    between the two for elongated boxes, which is what vehicles are like.
    """

    def matrix(width: int, height: int) -> tuple[np.ndarray, tuple[int, int]]:
        turn = np.deg2rad(degrees)
        cos, sin = abs(np.cos(turn)), abs(np.sin(turn))
        sides = width * cos + height * sin, width * sin + height * cos
        size = int(np.ceil(sides[0] - 1e-6)), int(np.ceil(sides[1] - 1e-6))
        way = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
        way[:, 2] += np.array(size) / 2 - np.array([width, height]) / 2
        return way, size

    def change(image: Pixels) -> Pixels:
        way, size = matrix(image.shape[1], image.shape[0])
        # OpenCV counts from pixel centres, half a pixel off.
        way[:, 2] += way[:, :2] @ (0.5, 0.5) - 0.5
        return cv2.warpAffine(image, way, size, borderValue=(114, 114, 114))

    def move(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
        way, _ = matrix(width, height)
        turned = Warp(way[:, :2], np.zeros(2)).boxes(boxes, shape)
        return turned + np.tile(way[:, 2], 2)

    kind = "rotation" if shape == "ellipse" else f"rotation, {shape}"
    return Change(kind, degrees, "degrees", change, move)


def changes() -> list[Change]:
    return [
        Change("none", 0.0, "", lambda image: image),
        Change("grey", 1.0, "", grey),
        *(Change("16-bit range", share, "", sixteen_bit(share)) for share in (1.0, 0.25, 0.05)),
        *(resized(factor) for factor in (0.5, 0.71, 1.41, 2.0)),
        *(Change("haze", amount, "", haze(amount)) for amount in (0.25, 0.5, 0.75)),
        *(Change("blur", sigma, "px", blur(sigma)) for sigma in (0.7, 1.4, 2.8)),
        *(rotated(degrees) for degrees in (15.0, 30.0, 45.0, 90.0)),
        *(rotated(degrees, "rounded") for degrees in (15.0, 30.0, 45.0)),
        *(rotated(degrees, "corners") for degrees in (15.0, 30.0, 45.0)),
    ]


def chosen(kinds: list[str] | None) -> list[Change]:
    """The unchanged images, and the changes of these kinds ("rotation" is of all boxes)."""
    every = changes()
    known = {change.kind.split(",")[0] for change in every} - {"none"}
    if wrong := set(kinds or ()) - known:
        raise SystemExit(f"--only knows {', '.join(sorted(known))}, not {', '.join(sorted(wrong))}")
    return [c for c in every if kinds is None or c.kind.split(",")[0] in {"none", *kinds}]


def changed(image: LabelledImage, change: Change, shape: tuple[int, ...]) -> LabelledImage:
    """The image's labels after the change."""
    boxes = change.boxes(image.boxes.astype(np.float64), image.width, image.height)
    height, width = shape[:2]
    boxes = clip(boxes.astype(np.float32), width=width, height=height)
    # Sizes stay those of the object in the changed image: by the change of area of its box.
    areas = image.areas * (change.amount**2 if change.kind == "scale" else 1.0)
    solid = area(boxes) > 0
    return replace(
        image, width=width, height=height, boxes=boxes[solid], labels=image.labels[solid],
        areas=areas[solid], crowd=image.crowd[solid],
    )  # fmt: skip


def measure(detector: Detector, labelled: LabelledSet, change: Change):
    found, images = {}, []
    for done, image in enumerate(labelled.images):
        pixels = np.ascontiguousarray(change.pixels(read_rgb(image.path)))
        images.append(changed(image, change, pixels.shape))
        found[image.id] = detector.detect(pixels, conf=LEAST_CONF, max_det=detector_cap(MAX_DET))
        print(f"\r{change.kind} {change.amount:g}: {done + 1}/{len(labelled)}", end="",
              file=sys.stderr, flush=True)  # fmt: skip
    print(file=sys.stderr)
    moved = replace(labelled, images=tuple(images))
    return moved, found, evaluate(moved, found).as_dict()


def draw(rows: list[dict], target: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = [kind for kind in dict.fromkeys(row["kind"] for row in rows) if kind != "none"]
    base = next(row for row in rows if row["kind"] == "none")
    figure = Figure(figsize=(3 * len(kinds), 2.8), layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(kinds), sharey=True), kinds, strict=True):
        points = [row for row in rows if row["kind"] == kind]
        start = {"scale": 1.0, "16-bit range": None}.get(kind, 0.0)
        for name in ("ap", "ap_t", "ap_s"):
            line = [(row["amount"], row[name]) for row in points if row[name] is not None]
            if start is not None and base[name] is not None:
                line = sorted([(start, base[name]), *line])
            axis.plot(*zip(*line, strict=True), marker="o", label=name) if line else None
        axis.set_title(kind)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("AP")
    figure.axes[0].legend()
    FigureCanvasAgg(figure)
    with files.replacing(target) as beside:
        figure.savefig(beside, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", default="rs-tinynet-lite")
    parser.add_argument("--images", type=int, help="only so many images with objects")
    parser.add_argument("--only", nargs="+", metavar="KIND", help="changes of these kinds only")
    parser.add_argument("--out", type=Path, help="folder for table.md, table.json, curves.png")
    options = parser.parse_args()
    labelled = open_split(options.data, options.split)
    if options.images is not None:
        labelled = with_objects(labelled, options.images)
    detector = Detector.load(options.model)
    if tuple(detector.names) != labelled.names:
        raise SystemExit(
            f"{options.model} finds {', '.join(detector.names)}; {options.data} labels "
            f"{', '.join(labelled.names)}"
        )
    rows = []
    for change in chosen(options.only):
        moved, found, report = measure(detector, labelled, change)
        row = {"kind": change.kind, "amount": change.amount, "unit": change.unit}
        by_class = {name: values["ap"] for name, values in report["per_class"].items()}
        rows.append(row | {name: report[name] for name in SHOWN} | {"ap_by_class": by_class})
        if change.kind == "none":
            scores, right = outcomes(moved, found)
    temperature = best_temperature(scores, right)
    before, after = reliability(scores, right), reliability(tempered(scores, temperature), right)
    lines = [f"{options.model}, {options.split}, {len(labelled)} images", ""]
    lines += ["| change | amount | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 2) + "|"]
    for row in rows:
        values = ["-" if row[name] is None else f"{100 * row[name]:.1f}" for name in SHOWN]
        lines.append(f"| {row['kind']} | {row['amount']:g} {row['unit']} | {' | '.join(values)} |")
    lines += ["", "| score above | detections | mean score | share right |", "|---|---|---|---|"]
    for each in before.bins:
        lines.append(f"| {each.low:.1f} | {each.count} | {each.score:.3f} | {each.precision:.3f} |")
    lines += ["", f"Expected calibration error {before.ece:.3f}; {after.ece:.3f} at temperature "
              f"{temperature:.2f}, chosen on the same images."]  # fmt: skip
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out is not None:
        files.write_bytes(options.out / "table.md", text.encode())
        record = {"rows": rows, "reliability": before.as_dict(), "temperature": temperature,
                  "ece_after": after.ece, "images": len(labelled)}  # fmt: skip
        files.write_bytes(options.out / "table.json", json.dumps(record, indent=1).encode())
        draw(rows, options.out / "curves.png")


if __name__ == "__main__":
    main()
