"""Turn the result of a training run into the weights that the package ships.

    .venv/bin/python scripts/ship_weights.py RUN/weights/best.safetensors --data DIR

Several weights files of one model are averaged first, tensor by tensor and by `--shares` (Wortsman
et al., "Model soups", 2022); the first one's metadata is kept, with the fingerprint of the last
one's data. With `--norm-batches N` the average's norms take their statistics anew over N batches of
the train split (Izmailov et al., 2018).

Evaluates on the validation split, at each of the given resize factors, and keeps the one with the
best AP; chooses there each class's shift and temperature of logits that bring scores nearest to
precision (with `--one-line` those of all classes together; benchmarks/calibration_halves.py shows
which holds on other images), and its default confidence (the lowest at which F1 at IoU .5 is within
`--slack` of the largest); stores all, shifts and temperatures in the last class convolutions, in
half precision, under src/rstinynet/weights/NAME.safetensors; and prints what that file scores.

With `--complete DIR2`, the same images with more classes known (scripts/add_absent.py), shifts,
temperatures and confidences are chosen on those labels, and their AP is printed too; the resize
factor and the metrics that are stored stay those of DIR.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.folder import open_split
from rstinynet.detections import Detections
from rstinynet.errors import DataError
from rstinynet.evaluate.calibration import (
    outcomes,
    outcomes_by_class,
    platt_scaling,
    reliability,
    shifted,
    tempered,
    together,
)
from rstinynet.evaluate.coco import MAX_DET, evaluate
from rstinynet.evaluate.run import detector_cap, find_objects
from rstinynet.evaluate.thresholds import best_thresholds
from rstinynet.model.detector import DetectorModel
from rstinynet.model.weights import WeightsMetadata, load_weights, save_weights
from rstinynet.scenes.detector import Detector
from rstinynet.train.batches import Batches
from rstinynet.train.norms import with_new_statistics
from rstinynet.train.recipe import short

SHIPPED = Path(__file__).parents[1] / "src" / "rstinynet" / "weights"
LEAST_CONF = 0.001
HEADLINES = ("ap", "ap50", "ap75", "ap_vt", "ap_t", "ap_s", "ap_m")


def measure(detector: Detector, labelled, scale: float):
    """What is found on the split at this resize factor, and its evaluation."""
    found = find_objects(
        lambda images: detector.detect_batch(
            images, conf=LEAST_CONF, max_det=detector_cap(MAX_DET), scale=scale
        ),
        labelled,
    )
    return found, evaluate(labelled, found)


def averaged(
    paths: Sequence[Path], shares: Sequence[float]
) -> tuple[DetectorModel, WeightsMetadata]:
    """The weighted mean of weights of one model and classes, with the first one's metadata.

    Its temperature is left out: it belonged to other logits, and a new one is chosen. The data's
    fingerprint is the last one's, which was trained on them last.

    Raises SystemExit if they are of different models or classes, or shares are not one for each.
    """
    if len(shares) != len(paths):
        raise SystemExit(f"{len(shares)} shares for {len(paths)} files: give one for each")
    loaded = [load_weights(path) for path in paths]
    model, metadata = loaded[0]
    for path, (_, other) in zip(paths, loaded, strict=True):
        if (other.model, other.names) != (metadata.model, metadata.names):
            raise SystemExit(
                f"{path} is {other.model} for {', '.join(other.names)}, but {paths[0]} is "
                f"{metadata.model} for {', '.join(metadata.names)}: only weights of one model and "
                "the same classes can be averaged"
            )
    states = [each.state_dict() for each, _ in loaded]
    model.load_state_dict(
        {
            name: sum(
                state[name].double() * share / sum(shares)
                for state, share in zip(states, shares, strict=True)
            ).to(first.dtype)
            for name, first in states[0].items()
        }
    )
    last = loaded[-1][1].data_fingerprint
    return model, metadata.model_copy(update={"temperature": 1.0, "data_fingerprint": last})


def with_own_statistics(
    model: DetectorModel, paths: Sequence[Path], train: LabelledSet, *, batches: int
) -> DetectorModel:
    """The average with its own batch statistics, of crops as recipe `short` makes them.

    Norms that have the same statistics in all of the weights were held in training, and still are.
    """
    states = [load_weights(path)[0].state_dict() for path in paths]
    like = copy.deepcopy(model).train()
    for name, module in like.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            key = f"{name}.running_mean"
            held = all(torch.equal(state[key], states[0][key]) for state in states)
            module.train(not held or len(states) == 1)
    with Batches(train, short()) as source:
        images = (
            source.make(number, mosaic=False).images_on("cpu").float() / 255
            for number in range(batches)
        )
        return with_new_statistics(model.eval(), images, like=like)


def lines_of(labelled: LabelledSet, found: dict[int, Detections]) -> list[tuple[float, float]]:
    """Each class's temperature and shift; those of all together where a class cannot tell."""
    by_class = outcomes_by_class(labelled, found)
    of_all = platt_scaling(*together(by_class))
    lines = []
    for name, mine in zip(labelled.names, by_class, strict=True):
        try:
            lines.append(platt_scaling(*mine))
        except DataError as error:
            print(f"{name}: as all classes together, since {error}", file=sys.stderr)
            lines.append(of_all)
    return lines


def mend_classes(model: DetectorModel, lines: Sequence[tuple[float, float]]) -> None:
    """Make of each class's logit (logit + shift) / temperature, in the last convolutions."""
    temperature, shift = (torch.tensor(column) for column in zip(*lines, strict=True))
    with torch.no_grad():
        for branch in model.head.classify:
            last = branch[-1]
            last.bias.add_(shift).div_(temperature)
            last.weight.div_(temperature[:, None, None, None])


def mended(
    found: dict[int, Detections], lines: Sequence[tuple[float, float]]
) -> dict[int, Detections]:
    """What the model would find after `mend_classes`, but for what then scores too low."""
    temperature, shift = (np.array(column) for column in zip(*lines, strict=True))
    return {
        id_: Detections(
            each.boxes,
            tempered(shifted(each.scores, shift[each.labels]), temperature[each.labels]).astype(
                "f4"
            ),
            each.labels,
        )
        for id_, each in found.items()
    }


def class_share(text: str) -> tuple[str, float]:
    """Of `vehicle=0.1` the class and the share; ValueError, which argparse tells, if it is none."""
    name, _, share = text.rpartition("=")
    if not name or not 0 <= float(share) < 1:
        raise ValueError(text)
    return name, float(share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, nargs="+", help="several are averaged")
    parser.add_argument("--shares", type=float, nargs="+", help="of the average; default: equal")
    parser.add_argument("--norm-batches", type=int, default=0, help="see above; 0: left alone")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--complete", type=Path, help="DIR2, whose labels know more; see above")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0])
    parser.add_argument("--one-line", action="store_true", help="one shift and temperature for all")
    parser.add_argument("--slack", type=float, default=0.02, help="of F1, a share")
    parser.add_argument(
        "--slack-of",
        type=class_share,
        action="append",
        default=[],
        metavar="CLASS=SHARE",
        help="another slack for a class; may be repeated",
    )
    parser.add_argument("--trained-with", help="the command, where the run recorded it wrongly")
    parser.add_argument("--budget", help="machine and time, where the run knows them less well")
    options = parser.parse_args()
    labelled = open_split(options.data, "val")
    complete = open_split(options.complete or options.data, "val")
    if [image.id for image in complete.images] != [image.id for image in labelled.images]:
        raise SystemExit(f"{options.complete} has other images in val than {options.data}")
    if complete.names != labelled.names:
        raise SystemExit(f"{options.complete} has other classes than {options.data}")
    own = dict(options.slack_of)
    if own.keys() - set(labelled.names):
        raise SystemExit(f"--slack-of: classes are {', '.join(labelled.names)}, not {[*own]}")
    model, metadata = averaged(options.weights, options.shares or [1.0] * len(options.weights))
    if metadata.names != labelled.names:
        raise SystemExit(
            f"the weights find {', '.join(metadata.names)}; {options.data} labels "
            f"{', '.join(labelled.names)}: the same classes in the same order are needed"
        )
    if options.norm_batches:
        train = open_split(options.data, "train")
        model = with_own_statistics(model, options.weights, train, batches=options.norm_batches)
    detector = Detector(model, metadata)
    best = None
    for scale in options.scales:
        found, evaluation = measure(detector, labelled, scale)
        print(f"scale {scale}: AP {evaluation.as_dict()['ap']:.4f}", file=sys.stderr, flush=True)
        if best is None or evaluation.as_dict()["ap"] > best[2].as_dict()["ap"]:
            best = scale, found, evaluation
    scale, found, evaluation = best
    scores, right = outcomes(complete, found)
    lines = lines_of(complete, found)
    if options.one_line:
        lines = [platt_scaling(scores, right)] * len(lines)
    mend_classes(model, lines)
    found = mended(found, lines)
    before, after = reliability(scores, right), reliability(*outcomes(complete, found))
    for name, (temperature, shift) in zip(labelled.names, lines, strict=True):
        print(f"{name}: temperature {temperature:.3f}, shift {shift:.3f}", file=sys.stderr)
    print(f"calibration error {before.ece:.3f} to {after.ece:.3f}", file=sys.stderr)
    slack = dict.fromkeys(labelled.names, options.slack) | own
    points = {each: best_thresholds(complete, found, slack=each) for each in set(slack.values())}
    thresholds = [points[slack[name]][at] for at, name in enumerate(labelled.names)]
    for name, point in zip(labelled.names, thresholds, strict=True):
        print(
            f"{name}: confidence {point.conf:.3f}, precision {point.precision:.2f}, "
            f"recall {point.recall:.2f}",
            file=sys.stderr,
        )
    shipped = WeightsMetadata.model_validate(
        metadata.model_dump()
        | {
            "scale": scale,
            "conf": min(point.conf for point in thresholds),
            "class_conf": tuple(point.conf for point in thresholds),
            "trained_with": options.trained_with or metadata.trained_with,
            "budget": options.budget or metadata.budget,
        }
    )
    path = SHIPPED / f"{metadata.model}.safetensors"
    save_weights(path, model, shipped, half=True)
    found, stored = measure(Detector.load(path), labelled, scale)
    # Half precision, and the scores that temperatures brought below the least, cost a little.
    metrics = {key: stored.as_dict()[key] for key in HEADLINES}
    save_weights(path, model, shipped.model_copy(update={"metrics": metrics}), half=True)
    told = {"file": path.name, "bytes": path.stat().st_size, "scale": scale}
    if options.complete:
        told["complete"] = evaluate(complete, found).as_dict()
    print(json.dumps(told | stored.as_dict()))


if __name__ == "__main__":
    main()
