"""Who is told how a run goes: the protocol, the event log, TensorBoard, W&B, MLflow and plugins.

A plugin is a class without arguments that is a `Watcher`, registered by its package under the
entry-point group `rstinynet.watchers`; its name there is what `watch=NAME` takes.
"""

from __future__ import annotations

import difflib
import importlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from rstinynet.errors import UsageError
from rstinynet.files import write_bytes

GROUP = "rstinynet.watchers"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart:
    """A run that begins, or goes on."""

    folder: Path
    settings: Mapping[str, Any]
    """Plain values, as in args.yaml."""
    iteration: int
    """Batches seen before: 0, or where a resumed run goes on: what was told after is void."""


class Watcher(Protocol):
    """Is told of a run, in this order. An exception ends its watching, not the run."""

    def begin(self, run: RunStart) -> None:
        """The run begins or goes on."""

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Numbers after so many batches, named as `train/loss` or `val/ap`; all finite."""

    def picture(self, iteration: int, name: str, path: Path) -> None:
        """A PNG in the run's folder, written anew."""

    def end(self, metrics: Mapping[str, Any] | None) -> None:
        """The run is over, with these metrics; None: stopped or failed."""


class EventLog:
    """`events.jsonl`: a JSON object a line, appended as things happen."""

    def begin(self, run: RunStart) -> None:
        """Open the file; a line that a kill left unfinished is ended."""
        path = run.folder / "events.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        # Appended to, unlike other files: it must hold what was known when a run is killed.
        self._file = path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")
        self._write("begin", run.iteration, {"settings": dict(run.settings)})

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """One line."""
        self._write("scalars", iteration, values)

    def picture(self, iteration: int, name: str, path: Path) -> None:
        """One line."""
        self._write("picture", iteration, {"name": name, "file": path.name})

    def end(self, metrics: Mapping[str, Any] | None) -> None:
        """The last line, and the file closed."""
        self._write("end", None, {"metrics": metrics})
        self._file.close()

    def _write(self, event: str, iteration: int | None, values: Mapping[str, Any]) -> None:
        line = {"event": event, "time": round(time.time(), 3), "iteration": iteration, **values}
        self._file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        self._file.flush()


class TensorBoard:
    """TensorBoard's event files in the run's folder: `tensorboard --logdir RUN`."""

    def begin(self, run: RunStart) -> None:
        """Open a file; what was told of batches that are made again is marked as void."""
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary, self._log = event_pb2.Event, summary_pb2.Summary, event_pb2
        self._writer = EventFileWriter(str(run.folder / "tensorboard"))
        if run.iteration:
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.add_event(
                event_pb2.Event(wall_time=time.time(), step=run.iteration + 1, session_log=started)
            )

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """One curve a name."""
        made = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(iteration, made)
        self._writer.flush()

    def picture(self, iteration: int, name: str, path: Path) -> None:
        """The picture, as it is now."""
        image = self._summary.Image(encoded_image_string=path.read_bytes(), colorspace=3)
        self._add(iteration, [self._summary.Value(tag=name, image=image)])

    def end(self, metrics: Mapping[str, Any] | None) -> None:
        """Close the file."""
        self._writer.close()

    def _add(self, iteration: int, values: list[Any]) -> None:
        summary = self._summary(value=values)
        self._writer.add_event(self._event(wall_time=time.time(), step=iteration, summary=summary))


class Wandb:
    """Weights & Biases; the run's id is kept in the folder, so a resumed run goes on there."""

    def __init__(self) -> None:
        self._wandb = _needed("wandb")

    def begin(self, run: RunStart) -> None:
        """Start the run, or go on with it."""
        import uuid

        kept = run.folder / "wandb-id.txt"
        if not kept.exists():
            write_bytes(kept, uuid.uuid4().hex[:16].encode())
        self._run = self._wandb.init(
            project="rstinynet",
            name=run.folder.name,
            dir=str(run.folder),
            config=dict(run.settings),
            id=kept.read_text(),
            resume="allow",
        )

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Log at this step."""
        self._run.log(dict(values), step=iteration)

    def picture(self, iteration: int, name: str, path: Path) -> None:
        """Log at this step."""
        self._run.log({name: self._wandb.Image(str(path))}, step=iteration)

    def end(self, metrics: Mapping[str, Any] | None) -> None:
        """Keep the final numbers as the summary, and finish."""
        self._run.summary.update(_numbers(metrics or {}))
        self._run.finish(exit_code=1 if metrics is None else 0)


class Mlflow:
    """MLflow, where its own environment variables say; a resumed run goes on there."""

    def __init__(self) -> None:
        self._mlflow = _needed("mlflow")

    def begin(self, run: RunStart) -> None:
        """Start the run, or go on with it."""
        kept = run.folder / "mlflow-id.txt"
        if kept.exists():
            self._mlflow.start_run(run_id=kept.read_text())
            return
        started = self._mlflow.start_run(run_name=run.folder.name)
        write_bytes(kept, str(started.info.run_id).encode())
        self._mlflow.log_params(_flat(run.settings))

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Log at this step."""
        self._mlflow.log_metrics(dict(values), step=iteration)

    def picture(self, iteration: int, name: str, path: Path) -> None:
        """Keep the file, in place of an older one."""
        self._mlflow.log_artifact(str(path))

    def end(self, metrics: Mapping[str, Any] | None) -> None:
        """Log the final numbers, and end."""
        found = {f"final/{name}": value for name, value in _numbers(metrics or {}).items()}
        self._mlflow.log_metrics(found)
        self._mlflow.end_run(status="KILLED" if metrics is None else "FINISHED")


BUILT_IN: dict[str, Callable[[], Watcher]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
}


def named_watchers(names: str) -> list[Watcher]:
    """The watchers of these names, separated by commas; `none` is none.

    Raises UsageError for an unknown name, and for one whose package is not installed.
    """
    asked = [name.strip() for name in names.split(",") if name.strip() not in ("", "none")]
    plugins = {point.name: point for point in entry_points(group=GROUP)}
    made = []
    for name in dict.fromkeys(asked):
        if name in BUILT_IN:
            made.append(BUILT_IN[name]())
        elif name in plugins:
            made.append(plugins[name].load()())
        else:
            known = sorted({*BUILT_IN, *plugins})
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise UsageError(
                f"there is no watcher '{name}'{hint}; watch takes none or, separated by commas, "
                f"{', '.join(known)}"
            )
    return made


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"watch={package} needs the package {package}, which is not installed here: "
            f"pip install {package}, or leave {package} out of watch"
        ) from error


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of the values that are finite numbers."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `augment.imgsz`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _finite(value: Any) -> Any:
    """JSON's values, with null for what is not finite."""
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
