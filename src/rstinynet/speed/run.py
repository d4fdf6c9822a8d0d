"""Timing models in all their runtimes by turns, so that a busy moment meets all of them."""

from __future__ import annotations

import copy
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata, resources
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rstinynet.data.image import read_rgb
from rstinynet.errors import UsageError
from rstinynet.files import write_bytes
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.runtime.opening import open_model
from rstinynet.scenes.memory import peak_bytes
from rstinynet.speed.settings import (
    EXPORTED,
    ON_CPU,
    ON_GPU,
    RUNTIMES,
    SpeedSettings,
    processors,
)
from rstinynet.speed.subject import Case, Subject, Timed, UnavailableError, open_subject, size_of

Told = Callable[[str], None]
SAMPLE_SIDE = 800
"""Of the square of the sample scene that is read where no image is given; AI-TOD's size."""
WARM = 2
LEAST_ROUNDS, MOST_ROUNDS = 3, 200


def benchmark(
    models: list[str], settings: SpeedSettings, *, told: Told | None = None
) -> dict[str, Any]:
    """Time every model; what `rstinynet benchmark --json` prints.

    `told` hears what is being done. Raises WeightsError or ExportError for a model that cannot be
    used, DataError for the image, UsageError for settings that suit no model. A runtime that is
    not here is a row with `skipped`.
    """
    tables: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        image = settings.image or sample_image(Path(folder))
        # All are opened before the first is timed, so that a wrong name costs nothing.
        cases = [list(_cases(model, settings, image)) for model in models]
        _check_used(settings, [case for of_model in cases for case in of_model])
        for number, of_model in enumerate(cases):
            # Two files of one model are exported apart.
            own = Path(folder) / str(number)
            own.mkdir()
            for case in of_model:
                tables += _tables(case, settings, image, own, told or _silent)
        about = _about(image, settings)
    return {"machine": machine(), "image": about, "tables": tables}


def sample_image(folder: Path) -> Path:
    """A square of the scene that ships with the package, as a PNG."""
    with resources.as_file(resources.files("rstinynet") / "samples" / "vegas_pan.tif") as scene:
        pixels = read_rgb(scene)[:SAMPLE_SIDE, :SAMPLE_SIDE, ::-1]
    path = folder / "sample.png"
    write_bytes(path, cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes())
    return path


def machine() -> dict[str, Any]:
    """The processor, how busy it is, and the versions of what runs models."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [one for one in cpuinfo.read_text().splitlines() if one.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    found: dict[str, Any] = {"processor": name, "processors": processors()}
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 2)
    for package in ("torch", "onnxruntime", "openvino"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def summary(times: list[Timed], batch: int) -> dict[str, float]:
    """Medians and quartiles, milliseconds an image."""
    found: dict[str, float] = {}
    for name in ("model", "whole"):
        values = [getattr(one, name) / batch for one in times]
        low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
        found |= {f"{name}_ms": middle, f"{name}_ms_25": low, f"{name}_ms_75": high}
    found["images_s"] = 1000 / found["whole_ms"]
    found["objects"] = statistics.median(one.objects for one in times)
    found["rounds"] = len(times)
    return found


def in_turns(
    searches: dict[str, Callable[[], Timed]], *, seconds: float, rounds: int = MOST_ROUNDS
) -> dict[str, list[Timed]]:
    """Each search once a round, after `WARM` rounds that do not count, until time is up.

    It is done twice in its turn, and the second counts: the first finds the caches and threads that
    another runtime left.
    """
    for search in searches.values():
        for _ in range(WARM):
            search()
    times: dict[str, list[Timed]] = {name: [] for name in searches}
    ends = time.monotonic() + seconds * len(searches)
    for number in range(rounds):
        if number >= LEAST_ROUNDS and time.monotonic() >= ends:
            break
        for name, search in searches.items():
            search()
            times[name].append(search())
    return times


def _cases(model: str, settings: SpeedSettings, image: Path) -> Iterator[Case]:
    """The model at each size and number of threads."""
    threads = settings.threads or (processors(),)
    if Path(model).suffix.lower() in EXPORTED:
        backend, described = open_model(model)
        own = backend.side or _own_side(described)
        if settings.imgsz and settings.imgsz != (own,) and backend.side:
            raise UsageError(f"{model} takes {own} px only: leave out --imgsz, or export it again")
        for side, count in product(settings.imgsz or (own,), threads):
            yield Case(
                given=model,
                source=Path(model),
                model=None,
                metadata=described,
                side=side,
                threads=count,
            )
        return
    loaded, described, random = load_or_build(model)
    for side in settings.imgsz or (_own_side(described),):
        of_side = loaded
        if random:
            from rstinynet.speed.lively import enliven

            # A copy: all sizes are opened before the first is timed.
            of_side = copy.deepcopy(loaded)
            enliven(of_side, input_of(image, side))
        for count in threads:
            yield Case(
                given=model,
                source=None,
                model=of_side,
                metadata=described,
                side=side,
                threads=count,
                device=settings.device,
                random=random,
            )


def load_or_build(model: str) -> tuple[Any, WeightsMetadata, bool]:
    """The weights; or a named model with random ones, where none ship, and True."""
    from rstinynet.model.presets import NAMES, build
    from rstinynet.model.weights import load_weights, shipped_path

    if model not in NAMES or shipped_path(model) is not None or Path(model).exists():
        return *load_weights(model), False
    import torch

    from rstinynet.speed.lively import CLASSES, CONF

    torch.manual_seed(0)
    described = WeightsMetadata(
        model=model,
        names=tuple(f"class {at}" for at in range(CLASSES)),
        category_ids=tuple(range(1, CLASSES + 1)),
        conf=CONF,
    )
    return build(model, CLASSES).without_auxiliary(), described, True


def _tables(
    case: Case, settings: SpeedSettings, image: Path, folder: Path, told: Told
) -> Iterator[dict[str, Any]]:
    """One table a batch size: all runtimes of one case are open at once."""
    label = f"{case.given} at {case.side} px"
    longest = max(size_of(image))
    calibrate = [read_rgb(image)]
    if settings.calibrate is not None:
        from rstinynet.export.int8 import calibration_images

        calibrate = calibration_images(settings.calibrate)
    opened: dict[str, Subject] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name in _wanted(case, settings):
        told(f"{label}: opening {RUNTIMES[name].words}")
        try:
            opened[name] = open_subject(name, case, folder=folder, calibrate=calibrate)
        except UnavailableError as error:
            rows[name] = {"runtime": name, "skipped": str(error)}
    cost = _cost(case)
    limits = _limits(case, opened)
    for batch in settings.batch:
        searches = {
            name: _search(subject, image, longest=longest, side=case.side, batch=batch)
            for name, subject in opened.items()
        }
        told(f"{label}: timing")
        for name, times in in_turns(searches, seconds=settings.seconds).items():
            precision = RUNTIMES[name].precision
            found = {"runtime": name, **summary(times, batch)}
            if precision in limits and not RUNTIMES[name].int8:
                found["limit_ms"] = limits[precision]["best_ms"]
            rows[name] = found
        yield {
            "model": case.metadata.model,
            "source": None if case.given == case.metadata.model else case.given,
            "random_weights": case.random,
            "imgsz": case.side,
            "batch": batch,
            "threads": case.threads,
            "device": next((one.detector.device for one in opened.values()), None),
            **cost,
            "limits": limits,
            "rows": [rows[name] for name in _wanted(case, settings)],
            "peak_mib": round(peak_bytes() / 2**20),
            "gpu_peak_mib": _gpu_peak(opened),
        }


def _search(
    subject: Subject, image: Path, *, longest: int, side: int, batch: int
) -> Callable[[], Timed]:
    return lambda: subject.search(image, longest=longest, side=side, batch=batch)


def _wanted(case: Case, settings: SpeedSettings) -> tuple[str, ...]:
    if case.source is not None:
        able = EXPORTED[case.source.suffix.lower()]
        wanted = tuple(name for name in settings.runtimes if name in able)
        if settings.runtimes and not wanted:
            raise UsageError(
                f"{case.source} runs in {' or '.join(able)}, not in the runtimes given"
            )
        return wanted or able[:1]
    if settings.runtimes:
        return settings.runtimes
    import torch

    on_gpu = torch.cuda.is_available() and (settings.device or "cuda").startswith("cuda")
    return ON_GPU if on_gpu else ON_CPU


def _check_used(settings: SpeedSettings, cases: list[Case]) -> None:
    """UsageError for settings of runtimes that no model is timed in."""
    wanted = [RUNTIMES[name] for case in cases for name in _wanted(case, settings)]
    if settings.device is not None and not any(one.module == "torch" for one in wanted):
        raise UsageError(
            f"--device {settings.device} is torch's, and nothing is timed in torch: leave it out"
        )
    if settings.calibrate is not None and not any(one.int8 for one in wanted):
        able = " or ".join(name for name, one in RUNTIMES.items() if one.int8)
        raise UsageError(
            f"--calibrate is for INT8, in which nothing is timed: give --runtimes with {able}"
        )


def _cost(case: Case) -> dict[str, Any]:
    if case.model is None:
        return {"parameters": None, "gflops": None}
    from rstinynet.model.cost import cost_of

    cost = cost_of(case.model, imgsz=case.side)
    return {"parameters": cost.parameters_deployed, "gflops": round(cost.gflops, 3)}


def _limits(case: Case, opened: dict[str, Subject]) -> dict[str, dict[str, float]]:
    """By precision: what the device does at best, and the time an image would take at that."""
    if case.model is None or not opened:
        return {}
    from rstinynet.model.cost import cost_of
    from rstinynet.speed.limits import measure_limits, traffic_gbytes

    torch_device = next(
        (s.detector.device for n, s in opened.items() if RUNTIMES[n].module == "torch"), "cpu"
    )
    gflops = cost_of(case.model, imgsz=case.side).gflops
    found: dict[str, dict[str, float]] = {}
    for precision in dict.fromkeys(RUNTIMES[name].precision for name in opened):
        limits = measure_limits(torch_device, precision, threads=case.threads)
        on_gpu = torch_device.startswith("cuda")
        # A processor's caches hold what passes between layers, so memory is no limit there.
        gbytes = traffic_gbytes(case.model, case.side, precision) if on_gpu else 0.0
        found[precision] = {
            **limits._asdict(),
            "gbytes": gbytes,
            "best_ms": limits.best_ms(gflops, gbytes),
        }
    return found


def _gpu_peak(opened: dict[str, Subject]) -> int | None:
    if not any(s.detector.device.startswith("cuda") for s in opened.values()):
        return None
    import torch

    return round(torch.cuda.max_memory_allocated() / 2**20)


def _own_side(described: WeightsMetadata) -> int:
    return -(-round(described.imgsz * described.scale) // 32) * 32


def input_of(image: Path, side: int) -> Any:
    """(1, 3, S, S) in [0, 1]: the image as the model sees it."""
    pixels = read_rgb(image)
    factor = side / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    canvas = np.full((1, side, side, 3), 114, np.uint8)
    canvas[0, : size[1], : size[0]] = cv2.resize(pixels, size)
    return np.ascontiguousarray(canvas.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def _about(image: Path, settings: SpeedSettings) -> dict[str, Any]:
    width, height = size_of(image)
    name = "a square of the sample scene" if settings.image is None else str(image)
    return {"name": name, "width": width, "height": height}


def _silent(_: str) -> None:
    """For who does not want to hear."""
