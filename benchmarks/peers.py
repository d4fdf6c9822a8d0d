"""Ours and other detectors, trained and measured alike: same images, epochs, batch, size and seed.

    python benchmarks/peers.py --data DIR --out OUT --epochs 50 --imgsz 640 --batch 8 \\
        --models rs-tinynet-n yolo11n yolov8n-peer fasterrcnn rtdetr \\
        --python ultralytics=U/bin/python --python torchvision=V/bin/python \\
        --python transformers=T/bin/python

Peers run in environments of their own (nothing of them is a dependency; each needs torch, numpy
and opencv-python-headless beside its library) from random weights, with the optimiser that their
authors use. Every result is a COCO results file that is scored here, in AI-TOD's protocol. The same
command again goes on: finished rows are kept. OUT/table.md, .csv and .tex hold the table.

With --native, nothing is shrunk: ours trains on crops of native resolution, peers on tiles of the
same side (--tiles, made by `rstinynet data tile`) for as many epochs as come nearest to as many
images, and whole images are searched at native resolution.

Not alike, and said in the table: augmentation and optimiser are each detector's own (but the last
epochs, without mosaics, are a fifth at most for Ultralytics too); peers know no partial labels, so
that to them an unknown class is background.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rstinynet.data.annotations import LabelledSet
from rstinynet.data.folder import open_split
from rstinynet.data.formats.coco import require_annotations
from rstinynet.evaluate.coco import FIGURES, evaluate
from rstinynet.evaluate.results import read_results
from rstinynet.evaluate.tables import NOTHING, TextTable, number, percent, write_tables
from rstinynet.files import write_bytes, write_json
from rstinynet.model.cost import cost_of_named
from rstinynet.model.metadata import SCHEMA_VERSION, renamed
from rstinynet.model.presets import NAMES
from rstinynet.train import checkpoint

WORKERS = Path(__file__).parent / "peers"
COST_IMGSZ = 800
PEERS = {
    **{f"yolo11{scale}-peer": ("ultralytics", f"yolo11{scale}") for scale in "nsmlx"},
    **{f"yolov8{scale}-peer": ("ultralytics", f"yolov8{scale}") for scale in "nsmlx"},
    "fasterrcnn": ("torchvision", "fasterrcnn"),
    "fcos": ("torchvision", "fcos"),
    "rtdetr": ("transformers", "rtdetr"),
    "dfine": ("transformers", "dfine"),
    "detr": ("transformers", "detr"),
}
"""Library and its own name of every peer; `-peer` tells Ultralytics' models from ours."""
STDERR = 2
OFFLINE = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "HF_HUB_OFFLINE": "1"}


def describe(train: LabelledSet, val: LabelledSet, out: Path) -> Path:
    """Write the images and boxes for the workers, once as JSON and once in YOLO's layout.

    `train` is what peers train on: the images, or tiles of them.
    """
    content: dict[str, Any] = {
        "names": list(train.names),
        "category_ids": [category.id for category in train.categories],
    }
    yolo = out / "described" / "yolo"
    # A folder is trained on whole, with what other data left in it, and from a cache of its labels.
    shutil.rmtree(yolo, ignore_errors=True)
    for split, labelled in (("train", train), ("val", val)):
        content[split] = []
        for image in labelled.images:
            boxes, labels = image.boxes[~image.crowd], image.labels[~image.crowd]
            content[split].append(
                {
                    "id": image.id,
                    "path": str(image.path.resolve()),
                    "width": image.width,
                    "height": image.height,
                    "boxes": boxes.tolist(),
                    "labels": labels.tolist(),
                }
            )
            lines = []
            for (x0, y0, x1, y1), label in zip(boxes.tolist(), labels.tolist(), strict=True):
                across, down = (x0 + x1) / 2 / image.width, (y0 + y1) / 2 / image.height
                sides = f"{(x1 - x0) / image.width:.6f} {(y1 - y0) / image.height:.6f}"
                lines.append(f"{label} {across:.6f} {down:.6f} {sides}\n")
            write_bytes(yolo / "labels" / split / f"{image.id}.txt", "".join(lines).encode())
            link = yolo / "images" / split / f"{image.id}{image.path.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(image.path.resolve())
    # JSON is YAML, and so needs no other writer.
    folders = {"path": str(yolo.resolve()), "train": "images/train", "val": "images/val"}
    write_json(yolo / "data.yaml", folders | {"names": list(train.names)})
    path = out / "described" / "data.json"
    write_json(path, content)
    return path


def train_ours(name: str, folder: Path, options: argparse.Namespace, val: LabelledSet) -> None:
    """Train and search with our own commands, at the input size that the peers get."""
    run = folder / "run"
    command = [sys.executable, "-m", "rstinynet.cli.main"]
    begin = [*command, "train", "--model", name, "--data", str(options.data), "--out", str(run)]
    begin += ["--recipe", options.recipe, "--epochs", str(options.epochs)]
    begin += ["--batch", str(options.batch), "--imgsz", str(options.imgsz)]
    begin += ["--seed", str(options.seed), "--device", options.device]
    # As the peers do it: every image fitted to the input, or none.
    for setting in (*(["augment.fit=letterbox"] * (not options.native)), *options.set):
        begin += ["--set", setting]
    again = checkpoint.kept(run)
    subprocess.run([*command, "train", "--resume", str(run)] if again else begin, check=True)
    search = ["--model", str(run / "weights" / "last.safetensors"), "--device", options.device]
    search += [*([] if options.native else ["--fit", str(options.imgsz)])]
    search += ["--data", str(options.data)]
    search += ["--save-predictions", str(folder / "dets.json"), "--json"]
    subprocess.run([*command, "val", *search], check=True, stdout=subprocess.DEVNULL)
    environment = json.loads((run / "env.json").read_text())
    minutes = json.loads((run / "metrics.json").read_text())["minutes"]
    cost = cost_of_named(name, num_classes=len(val.categories), imgsz=COST_IMGSZ)
    described = {"parameters": cost.parameters, "gflops": cost.gflops, "minutes": minutes}
    described |= {"library": f"rstinynet {environment['rstinynet']}, recipe {options.recipe}"}
    described |= {"platform": environment["platform"], "torch": environment["torch"]}
    described |= {"threads": environment["torch_threads"]}
    if name.startswith("rs-tinynet-lite"):
        described["note"] = "starts from ImageNet weights; all others from random ones"
    write_json(folder / "peer.json", described)


def train_peer(name: str, folder: Path, python: str) -> None:
    """Run the worker of a peer in its own environment."""
    worker = WORKERS / f"{PEERS[name][0]}_worker.py"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [python, str(worker), str(folder.resolve())],
        check=True,
        env=environment | OFFLINE,
        stdout=STDERR,
    )


def peer_epochs(options: argparse.Namespace, train: LabelledSet, given: LabelledSet) -> int:
    """Epochs of what peers train on that come nearest to as many images as ours sees."""
    return max(1, round(options.epochs * len(train) / len(given)))


def settings_of(
    name: str, options: argparse.Namespace, train: LabelledSet, given: LabelledSet, val: LabelledSet
) -> dict[str, Any]:
    """What decides a row's result; also the worker's job. `given`: what peers train on."""
    keys = ("epochs", "batch", "imgsz", "seed", "device")
    settings = {key: getattr(options, key) for key in keys}
    if options.native:
        settings["native"] = True
    fingerprints = [train.fingerprint, val.fingerprint]
    if name in PEERS and given is not train:
        settings["epochs"] = peer_epochs(options, train, given)
        fingerprints.append(given.fingerprint)
    settings |= {"model": PEERS[name][1] if name in PEERS else name}
    settings |= {"data_sha256": fingerprints}
    if name in PEERS:
        return settings
    if name != renamed(name, schema=1):
        # Rows that an earlier version made under this name are of another model.
        settings["schema"] = SCHEMA_VERSION
    return settings | {"ours": [options.recipe, *options.set]}


def row_is_finished(folder: Path, settings: dict[str, Any], described: Path) -> bool:
    """Whether the row is there already; SystemExit where it was made with other settings."""
    job = folder / "job.json"
    if job.exists():
        kept = json.loads(job.read_text())
        kept.pop("described", None)
        if kept != settings:
            changed = sorted(key for key in settings if kept.get(key) != settings[key])
            raise SystemExit(
                f"{folder} was made with other settings ({', '.join(changed)}): rows of one table "
                "need one budget; give another --out"
            )
    write_json(job, settings | {"described": str(described.resolve())})
    return (folder / "peer.json").exists() and (folder / "dets.json").exists()


def row_of(name: str, folder: Path, val: LabelledSet) -> tuple[str, ...]:
    """The scores of a finished row."""
    told = json.loads((folder / "peer.json").read_text())
    scores = evaluate(val, read_results(folder / "dets.json", val)).as_dict()
    return (
        name,
        told["library"],
        *(percent(scores[key]) for key in FIGURES),
        number(told["parameters"], 0),
        number(told["gflops"]),
        number(told["minutes"]),
    )


def table_of(
    options: argparse.Namespace, train: LabelledSet, given: LabelledSet, val: LabelledSet
) -> TextTable:
    """All finished rows, in the order asked for."""
    rows, machines, notes = [], set(), []
    for name in options.models:
        folder = options.out / "rows" / name
        if not (folder / "peer.json").exists():
            rows.append((name, "not finished", *[NOTHING] * (len(FIGURES) + 3)))
            continue
        rows.append(row_of(name, folder, val))
        told = json.loads((folder / "peer.json").read_text())
        machines.add(f"{told['platform']}, torch {told['torch']}, {told['threads']} threads")
        if "note" in told:
            notes.append(f"{name}: {told['note']}.")
    partial = any(not image.known.all() for image in (*train.images, *val.images))
    inputs = f"input {options.imgsz} pixels in training and search"
    if options.native:
        epochs = peer_epochs(options, train, given)
        seen = "" if given is train else f" (peers: {epochs} epochs of {len(given)} tiles)"
        inputs = (
            f"{options.imgsz} pixels at native resolution in training{seen}, whole images at "
            "native resolution in search"
        )
    return TextTable(
        title=f"Detectors trained alike on {options.data.resolve().name}",
        columns=(
            *("method", "by", "AP", "AP50", "AP75", "AP_vt", "AP_t", "AP_s", "AP_m"),
            *("parameters", "GFLOPs", "minutes"),
        ),
        rows=tuple(rows),
        notes=(
            f"Budget of each: {options.epochs} epochs of {len(train)} images, batch "
            f"{options.batch}, {inputs}, seed "
            f"{options.seed}, {options.device}, from random weights. The last weights are scored, "
            f"on the {len(val)} images of the val split, in AI-TOD's protocol, percent. Optimiser "
            "and augmentation are each detector's own.",
            f"Parameters before fusing; GFLOPs (2 a multiply-accumulate) of one {COST_IMGSZ} by "
            f"{COST_IMGSZ} image, sampling of deformable attention not counted. Minutes: training "
            "and, for peers, search.",
            f"Machine: {'; '.join(sorted(machines)) or 'none yet'}.",
            *(["Labels are partial: ours knows it, to the peers it is background."] * partial),
            *notes,
        ),
        left=2,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train.json, val.json")
    parser.add_argument("--out", type=Path, required=True, help="folder of rows and table")
    parser.add_argument("--models", nargs="+", required=True, help=f"ours, or {', '.join(PEERS)}")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="LIBRARY=ENV/bin/python",
        help="interpreter that has a peer's library; once for each library",
    )
    parser.add_argument("--epochs", type=int, required=True, help="of every row")
    parser.add_argument("--batch", type=int, default=8, help="images a batch (%(default)s)")
    parser.add_argument("--imgsz", type=int, default=640, help="side in pixels (%(default)s)")
    parser.add_argument(
        "--native",
        action="store_true",
        help="crops and tiles of --imgsz at native resolution, not whole images shrunk to it",
    )
    parser.add_argument(
        "--tiles",
        type=Path,
        help="with --native: DIR cut by `rstinynet data tile`, what peers train on",
    )
    parser.add_argument("--seed", type=int, default=0, help="of every row (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:0 (%(default)s)")
    parser.add_argument("--recipe", default="tiny", help="of ours (%(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="recipe setting of ours; may be repeated",
    )
    options = parser.parse_args()
    pythons = dict(pair.split("=", 1) for pair in options.python if "=" in pair)
    for name in options.models:
        if name not in PEERS and name not in NAMES:
            parser.error(f"no model {name}: ours are listed by `rstinynet info`, peers: {[*PEERS]}")
        if name in PEERS and PEERS[name][0] not in pythons:
            library = PEERS[name][0]
            parser.error(f"{name} needs --python {library}=ENV/bin/python with {library} in it")
    peers = [name for name in options.models if name in PEERS]
    if options.native and any(PEERS[name][0] != "ultralytics" for name in peers):
        parser.error("--native is for ours and Ultralytics' models")
    if options.native != (options.tiles is not None) and (peers or options.tiles):
        parser.error("peers need --native and --tiles together")
    train = require_annotations(open_split(options.data, "train"), source=options.data)
    val = require_annotations(open_split(options.data, "val"), source=f"{options.data} (val)")
    given = train
    if options.tiles is not None:
        given = require_annotations(open_split(options.tiles, "train"), source=options.tiles)
        if given.names != train.names:
            parser.error(f"{options.tiles} has other classes than {options.data}")
        widest = max(max(image.width, image.height) for image in given.images)
        if widest != options.imgsz:
            # Ultralytics would fit them to imgsz, and train at another resolution than it is told.
            parser.error(f"tiles of {options.tiles} have {widest} px, not --imgsz {options.imgsz}")
    described = describe(given, val, options.out)
    failed = []
    for name in options.models:
        folder = options.out / "rows" / name
        settings = settings_of(name, options, train, given, val)
        if row_is_finished(folder, settings, described):
            continue
        print(f"{name}: training", file=sys.stderr, flush=True)
        try:
            if name in PEERS:
                train_peer(name, folder, pythons[PEERS[name][0]])
            else:
                train_ours(name, folder, options, val)
        except (subprocess.CalledProcessError, OSError) as error:
            failed.append(name)
            print(f"{name} failed: {error}", file=sys.stderr, flush=True)
        write_tables([table_of(options, train, given, val)], options.out / "table")
    table = table_of(options, train, given, val)
    write_tables([table], options.out / "table")
    print(table.as_text("markdown"), end="")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
