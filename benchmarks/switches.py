"""What each switch for tiny objects is worth: one training a row, the same budget for all.

    python benchmarks/switches.py --data DIR --out RUNS --model rs-tinynet-lite --epochs 20

The first row has the settings of the recipe `tiny`; each other one changes what its name says and
nothing else. The budget is images (epochs of the training split), never time, so rows compare on
any machine. Rows run one after the other, each in its own folder: one that is finished is not run
again, one that was interrupted goes on where it stopped. The table is written after each.

A model `-lite` starts on ImageNet weights, other models from chance, unless --init names weights.
Numbers are of the last weights or their average, whichever is better on val, as in all runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from rstinynet.errors import RSTinyNetError, UsageError
from rstinynet.files import write_bytes, write_json
from rstinynet.model.presets import NAMES, config
from rstinynet.train import checkpoint, loop
from rstinynet.train.job import Job, TrainingStoppedError
from rstinynet.train.overrides import named_recipe, parse_assignments, with_overrides

METRICS = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "AP_vt": "ap_vt",
    "AP_t": "ap_t",
    "AP_s": "ap_s",
    "AP_m": "ap_m",
}
BASE = "base"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one row changes."""

    says: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    """Of the model's name: other pyramid levels, or without a module."""


ROWS: dict[str, Row] = {
    BASE: Row(says="base: minimum candidate 8 px, NWD"),
    "no-min-candidate": Row(
        says="- minimum candidate size",
        settings={"loss.min_candidate_px": 0, "loss.nearest_fallback": False},
    ),
    "no-nwd": Row(says="- NWD", settings={"loss.nwd_weight": 0}),
    "simd": Row(
        says="SimD in the assignment instead of CIoU and NWD", settings={"loss.metric": "simd"}
    ),
    "rfla": Row(
        says="RFLA's receptive fields instead of anchors inside",
        settings={"loss.candidates": "receptive_field"},
    ),
    "copy-paste": Row(
        says="+ copy-paste of tiny objects, half of the samples",
        settings={"augment.paste_prob": 0.5},
    ),
    "p2p4": Row(says="P2 to P4", suffix="-p2p4"),
    "p2p5": Row(says="P2 to P5", suffix="-p2p5"),
    "p3p4": Row(says="P3 and P4", suffix="-p3p4"),
    "p3p5": Row(says="P3 to P5", suffix="-p3p5"),
    "no-mdca": Row(says="- MDCA", suffix="-nomdca"),
    "no-pfdh": Row(says="- PFDH", suffix="-nopfdh"),
    "pfdh": Row(says="+ PFDH", suffix="-pfdh"),
    "narrow": Row(says="narrow class branches", suffix="-narrow"),
    "torch-init": Row(says="larger initial weights in PFDH", suffix="-torchinit"),
}
"""Those whose suffix the model does not have are left out, unless they are asked for."""


def make_job(row: str, seed: int, options: argparse.Namespace) -> Job:
    """The training of one row and seed."""
    chosen = ROWS[row]
    model = options.model + chosen.suffix
    config(model, 1)  # an unknown name is answered before anything is trained
    recipe = with_overrides(
        named_recipe(options.recipe),
        {
            "epochs": options.epochs,
            "batch": options.batch,
            "imgsz": options.imgsz,
            "seed": seed,
            "val_every": 0,
            **parse_assignments(options.set),
            **chosen.settings,
        },
    )
    return Job(
        model=model,
        data=options.data,
        out=options.out / row / f"seed{seed}",
        recipe=recipe,
        device=options.device,
        init=options.init,
    )


def metrics_of(job: Job) -> dict[str, Any]:
    """Metrics of the job's run: read if it is finished, else trained, from where it stopped."""
    kept = job.out / "args.yaml"
    if kept.is_file():
        before = Job.from_values(yaml.safe_load(kept.read_text()), out=job.out)
        if replace(before, data=job.data, device=job.device) != job:
            raise UsageError(
                f"{job.out} holds a run with other settings ({before.command()}); give the "
                "options it was made with, or another --out"
            )
    finished = job.out / "metrics.json"
    if finished.is_file():
        return dict(json.loads(finished.read_text()))
    if checkpoint.kept(job.out):
        return loop.resume(job.out, data=job.data, device=job.device)
    return loop.train(job)


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Lines of Markdown: means over the seeds, in percent, and the difference to the base."""
    differences = [f"{name} to base" for name in ("AP", "AP_vt", "AP_t")]
    head = ["row", *METRICS, *differences, "spread of AP", "minutes"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    base = _means(found[BASE]) if found.get(BASE) else {}
    for row, runs in found.items():
        if not runs:
            continue
        means = _means(runs)
        cells = [_number(means.get(name)) for name in METRICS]
        for name in ("AP", "AP_vt", "AP_t"):
            both = name in means and name in base and row != BASE
            cells.append(f"{means[name] - base[name]:+.1f}" if both else "")
        each = [100 * run["ap"] for run in runs if _is_number(run.get("ap"))]
        cells.append(f"{max(each) - min(each):.1f}" if len(each) > 1 else "")
        cells.append(f"{statistics.mean(run['minutes'] for run in runs):.0f}")
        lines.append(f"| {' | '.join([ROWS[row].says, *cells])} |")
    return lines


def _means(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    means = {}
    for name, key in METRICS.items():
        values = [run[key] for run in runs if _is_number(run.get(key))]
        if values:
            means[name] = 100 * statistics.mean(values)
    return means


def _is_number(value: Any) -> bool:
    """Not the None or NaN of a size without objects."""
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def caption(options: argparse.Namespace, runs: Sequence[Mapping[str, Any]]) -> str:
    """What was trained, for how long, on what."""
    batches = sorted({int(run["iterations"]) for run in runs})
    return (
        f"{options.model}, {options.data.name}, {options.imgsz} px, {options.epochs} epochs = "
        f"{' or '.join(map(str, batches))} batches of {options.batch}, recipe {options.recipe}"
        f"{''.join(f', {text}' for text in options.set)}, "
        f"init {options.init or 'as the model comes'}, "
        f"seeds {', '.join(map(str, options.seeds))}; {options.device}, "
        f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}. "
        "AP in percent; means over the seeds."
    )


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    for line in described.read_text().splitlines() if described.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=form, epilog=f"rows: {', '.join(ROWS)}"
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder or data.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument("--model", default="rs-tinynet-lite", help="an rs-tinynet model")
    parser.add_argument("--init", help="weights to start from; default: as the model comes")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=20, help="the budget of every row")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), metavar="ROW")
    parser.add_argument(
        "--recipe", default="short", help="short (default) is tiny for a few thousand updates"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="torch's threads; default: its own")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every row"
    )
    options = parser.parse_args(arguments)
    if options.rows is None:
        options.rows = [row for row, chosen in ROWS.items() if _exists(options.model, chosen)]
    return options


def _exists(model: str, row: Row) -> bool:
    return not row.suffix or model + row.suffix in NAMES


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing and print the table; the exit code."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        jobs = [
            (row, make_job(row, seed, options)) for seed in options.seeds for row in options.rows
        ]
        for number, (row, job) in enumerate(jobs, 1):
            print(f"--- {number}/{len(jobs)} {job.out}: {ROWS[row].says}", file=sys.stderr)
            found.setdefault(row, []).append(metrics_of(job))
            runs = [run for row_runs in found.values() for run in row_runs]
            lines = [caption(options, runs), "", *table(found)]
            write_bytes(options.out / "switches.md", ("\n".join(lines) + "\n").encode())
            write_json(options.out / "switches.json", {"caption": lines[0], "rows": found})
    except TrainingStoppedError as stopped:
        print(f"{stopped}\nor run the same command again", file=sys.stderr)
        return stopped.exit_code
    except RSTinyNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
