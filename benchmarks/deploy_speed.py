"""Speed of deployed models beside Ultralytics' own YOLO11, runtime by runtime, in one run.

    python benchmarks/deploy_speed.py --python PEER_ENV/bin/python [--models ...] [--imgsz 640,800]

PEER_ENV is a separate environment with `ultralytics`, `onnx`, `onnxruntime`, `openvino`, `nncf` and
`safetensors`; without --python ours are timed alone. Models whose weights do not ship have random
ones that find about 300 candidates on the image (`rstinynet.speed.lively`); YOLO11 has the same on
both sides, so that both select and suppress the same boxes. The files are made first (`--work`,
kept for the next run); then, for each model and size, all runtimes of both sides are open at once
and search the image file by turns. Ratios are medians, ours divided by theirs in that runtime.

Each model and size that is done is kept in WORK/finished.json. A run that is stopped (Ctrl-C, a
time limit) prints what it has, and the same command with --resume does the rest.

Ultralytics leaves OpenVINO its default precision, which is bfloat16 where a processor has it; the
table says so, and compares with ours both in float32 and in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from rstinynet import files
from rstinynet.model.foreign import ultralytics_name
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.model.presets import build
from rstinynet.model.weights import load_weights, save_weights, shipped_path
from rstinynet.runtime.allocation import keep_memory
from rstinynet.scenes.stream import DEFAULT_IOU, DEFAULT_MAX_DET
from rstinynet.speed.lively import CLASSES, CONF, enliven
from rstinynet.speed.run import in_turns, input_of, machine, sample_image, summary
from rstinynet.speed.settings import RUNTIMES, processors
from rstinynet.speed.subject import Case, Timed, UnavailableError, open_subject, size_of

PEER = Path(__file__).parent / "peers" / "ultralytics_speed.py"
MODELS = "rs-tinynet-lite,rs-tinynet-n,rs-tinynet-s,rs-tinynet-m,yolo11n,yolo11m"
OURS = "torch,compiled,torch-bf16,onnx,openvino,openvino-bf16,int8,int8-bf16"
THEIRS = {
    "torch": ("torch", "peer.pt"),
    "onnx": ("ONNX Runtime", "peer.onnx"),
    "openvino": ("OpenVINO", "peer_openvino_model"),
    "int8": ("OpenVINO, INT8", "peer_int8_openvino_model"),
}
COUNTERPART = {
    "compiled": "torch",
    "torch-bf16": "torch",
    "openvino-bf16": "openvino",
    "int8-bf16": "int8",
}
"""Theirs that ours is compared with, where it is not of the same name."""


class Peer:
    """The other side, in a process of its own."""

    def __init__(self, python: str) -> None:
        environment = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
        environment |= {"YOLO_VERBOSE": "false", "NNCF_CI": "1", "OPENVINO_TELEMETRY_OPT_OUT": "1"}
        environment.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            [python, str(PEER)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **job: Any) -> dict[str, Any]:
        """The answer to one job; SystemExit where the process has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{PEER.name} ended with {self.process.wait()} at {job}")
        return json.loads(line)

    def search(self, name: str) -> Timed:
        answer = self.ask(search=name)
        return Timed(answer["model"], answer["whole"], answer["objects"])


def prepare(work: Path, model: str, side: int, image: Path) -> Case:
    """Weights that find something at this size, kept in `work`."""
    path = shipped_path(model) or work / f"{model}-{side}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        made = build(model, CLASSES).without_auxiliary()
        enliven(made, input_of(image, side))
        metadata = WeightsMetadata(
            model=model,
            names=tuple(f"class {at}" for at in range(CLASSES)),
            category_ids=tuple(range(CLASSES)),
            conf=CONF,
        )
        save_weights(path, made, metadata)
    loaded, metadata = load_weights(path)
    threads = processors()
    return Case(
        source=None, model=loaded, metadata=metadata, side=side, threads=threads, device="cpu"
    )


def give_to_peer(peer: Peer, case: Case, work: Path, image: Path) -> Path:
    """The same weights there, and its exports; the folder."""
    folder = (work / f"peer-{case.metadata.model}-{case.side}").resolve()
    folder.mkdir(exist_ok=True)
    state = {ultralytics_name(n): t for n, t in case.model.state_dict().items()}
    save_file({n: t.contiguous() for n, t in state.items()}, folder / "in.safetensors")
    scale = case.metadata.model.removeprefix("yolo11")
    job = {"folder": str(folder), "scale": scale, "classes": CLASSES, "imgsz": case.side}
    peer.ask(export={**job, "image": str(image)})
    return folder


def same_boxes(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Share of our boxes with one of theirs within a pixel on every side."""
    if not len(ours) or not len(theirs):
        return 0.0
    apart = np.abs(ours[:, None] - theirs[None]).max(axis=2).min(axis=1)
    return float((apart < 1).mean())


def measure(
    case: Case, options: argparse.Namespace, work: Path, image: Path, peer: Peer | None
) -> dict[str, Any]:
    """One model at one size: medians by side and runtime."""
    folder = work / "ours"
    folder.mkdir(exist_ok=True)
    longest = max(size_of(image))
    searches, told, reference = {}, {}, None
    from rstinynet.data.image import read_rgb

    for name in options.runtimes.split(","):
        if name == "compiled" and case.metadata.model not in options.compiled.split(","):
            continue
        try:
            subject = open_subject(name, case, folder=folder, calibrate=[read_rgb(image)])
        except UnavailableError as error:
            print(f"{RUNTIMES[name].words}: {error}", file=sys.stderr)
            continue
        key = ("ours", name)
        searches[key] = lambda subject=subject: subject.search(
            image, longest=longest, side=case.side, batch=1
        )
        found = subject.detector.predict(
            image, tile=longest, overlap=0, scale=case.side / longest
        ).detections
        reference = found.boxes if name == "torch" else reference
        told[key] = {"same": None if reference is None else same_boxes(reference, found.boxes)}
    if peer is not None and case.metadata.model.startswith("yolo11"):
        there = give_to_peer(peer, case, work, image)
        for name, (_, path) in THEIRS.items():
            job = {"name": name, "path": str(there / path), "imgsz": case.side}
            job |= {"image": str(image), "threads": case.threads, "conf": CONF}
            key = ("theirs", name)
            told[key] = peer.ask(open={**job, "iou": DEFAULT_IOU, "max_det": DEFAULT_MAX_DET})
            boxes = np.array(peer.ask(search=name)["boxes"], np.float32).reshape(-1, 6)[:, :4]
            told[key]["same"] = None if reference is None else same_boxes(reference, boxes)
            searches[key] = lambda name=name: peer.search(name)
    times = in_turns(searches, seconds=options.seconds, rounds=options.rounds)
    if peer is not None:
        peer.ask(close=True)
    rows = [
        {"side": side, "runtime": name, **told[side, name], **summary(times[side, name], 1)}
        for side, name in searches
    ]
    return {"model": case.metadata.model, "imgsz": case.side, "rows": rows}


class Finished:
    """Tables of models and sizes that are done, kept in a file."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        self.path = path
        self.how = {name: getattr(options, name) for name in ("runtimes", "seconds", "rounds")}
        self.how |= {"image": str(options.image), "peer": bool(options.python)}
        self.how |= {"processors": processors(), "compiled": options.compiled}
        self.tables: list[dict[str, Any]] = []
        if options.resume and path.exists():
            kept = json.loads(path.read_text())
            if kept["how"] != self.how:
                raise SystemExit(f"{path} is of other options: {kept['how']}, not {self.how}")
            self.tables = kept["tables"]

    def has(self, model: str, side: int) -> bool:
        """Whether this one need not be timed again."""
        return any((each["model"], each["imgsz"]) == (model, side) for each in self.tables)

    def add(self, found: dict[str, Any]) -> None:
        """Keep one more."""
        self.tables.append(found)
        files.write_json(self.path, {"how": self.how, "tables": self.tables})


def table(tables: list[dict[str, Any]]) -> str:
    """All as one Markdown table: file to boxes and, in brackets, the model alone, milliseconds."""
    wanted = [name for name in RUNTIMES if any(_row(each, "ours", name) for each in tables)]
    head = ["model", "px", "", *(RUNTIMES[name].words for name in wanted)]
    lines = ["| " + " | ".join(head) + " |", "|---|---:|---|" + "---:|" * len(wanted)]
    for each in tables:
        first = [each["model"], str(each["imgsz"])]
        ours = {name: _row(each, "ours", name) for name in wanted}
        theirs = {n: _row(each, "theirs", COUNTERPART.get(n, n)) for n in wanted}
        lines.append(_line([*first, "ours"], [_cell(row) for row in ours.values()]))
        if not any(theirs.values()):
            continue
        cells = [_cell(row) if name in THEIRS else "" for name, row in theirs.items()]
        lines.append(_line([*first, "Ultralytics"], cells))
        ratios = [
            f"{one['whole_ms'] / other['whole_ms']:.2f}" if one and other else ""
            for one, other in zip(ours.values(), theirs.values(), strict=True)
        ]
        lines.append(_line([*first, "ratio"], ratios))
    return "\n".join(lines)


def _row(each: dict[str, Any], side: str, name: str) -> dict[str, Any] | None:
    rows = [r for r in each["rows"] if r["side"] == side and r["runtime"] == name]
    return rows[0] if rows else None


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    precision = f" {row['precision']}" if row.get("precision") else ""
    return f"{row['whole_ms']:.0f} ({row['model_ms']:.0f}){precision}"


def _line(first: list[str], cells: list[str]) -> str:
    return "| " + " | ".join([*first, *cells]) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help="Python of the peer's environment; without it ours only")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--imgsz", default="640,800")
    parser.add_argument("--runtimes", default=OURS)
    parser.add_argument(
        "--compiled",
        default=MODELS,
        help="models that torch.compile is timed for: it takes minutes",
    )
    parser.add_argument("--image", type=Path, help="default: 800 px of the sample scene")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row")
    parser.add_argument("--rounds", type=int, default=20, help="at most")
    parser.add_argument("--work", type=Path, help="folder for files that the next run uses again")
    parser.add_argument(
        "--resume", action="store_true", help="leave out what --work says is done already"
    )
    parser.add_argument("--prepare", action="store_true", help="make the files and time nothing")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    options = parser.parse_args()
    if options.resume and options.work is None:
        parser.error("--resume needs the --work of the run that was stopped")
    keep_memory()  # as `rstinynet predict` does
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        image = (options.image or sample_image(work)).resolve()
        peer = Peer(str(Path(options.python).absolute())) if options.python else None
        if options.prepare:
            options.rounds, options.seconds = 1, 1e-9
        finished = Finished(work / "finished.json", options)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        begun, status = machine(), 0
        try:
            for side in map(int, options.imgsz.split(",")):
                for model in options.models.split(","):
                    if finished.has(model, side):
                        continue
                    case = prepare(work, model, side, image)
                    found = measure(case, options, work, image, peer)
                    print(f"{model} at {side} px done", file=sys.stderr, flush=True)
                    if not options.prepare:
                        finished.add(found | {"load": machine().get("load")})
        except KeyboardInterrupt:
            rest = "; --resume does the rest" if options.work else ""
            print(f"stopped{rest}", file=sys.stderr)
            status = 130
        print(f"{begun}; load {machine().get('load')} at the end\n")
        print(table(finished.tables))
        if options.json:
            files.write_json(options.json, {"machine": begun, "tables": finished.tables})
    return status


if __name__ == "__main__":
    sys.exit(main())
