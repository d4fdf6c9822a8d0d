"""What a run says while it works: a bar on a terminal, plain lines elsewhere, all on stderr."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def batch_line(place: str, told: Mapping[str, float], *, elapsed_s: float, done: float) -> str:
    """One line of a batch: place, means of the losses, rate, time gone and left.

    `told` has the losses, `lr` and `images_per_second`; `done` is the share of the run.
    """
    extra = ("lr", "images_per_second")
    shown = " ".join(f"{name} {told[name]:.3f}" for name in told if name not in extra)
    left = elapsed_s * (1 - done) / done if done else math.nan
    return (
        f"{place} ({100 * done:.1f} %) {shown} lr {told['lr']:.2e} "
        f"{told['images_per_second']:.1f} images/s {duration(elapsed_s)}, {duration(left)} left"
    )


def epoch_line(row: Mapping[str, Any], losses: Sequence[str], metrics: Sequence[str]) -> str:
    """One line of an epoch: its losses and, where it was validated, AP by size."""
    shown = " ".join(f"{name} {row[name]:.3f}" for name in losses)
    line = f"epoch {row['epoch']}: {shown}"
    if any(name in row for name in metrics):
        figures = (f"{name.replace('ap', 'AP', 1)} {_figure(row.get(name))}" for name in metrics)
        line += f", val {' '.join(figures)}"
    return f"{line}, {duration(60 * row['minutes'])}"


def done_line(metrics: Mapping[str, Any], weights: object) -> str:
    """The last line of a run: its AP, as in those of its epochs, and where the weights are."""
    return f"done: val AP {_figure(metrics.get('ap'))}, weights in {weights}"


def duration(seconds: float) -> str:
    """Seconds as people say it: 42 s, 12.3 min, 5 h 07 min, or ? where they are not known."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def _figure(value: float | None) -> str:
    """An AP in percent; `-` where there is nothing to find."""
    return "-" if value is None else f"{100 * value:.1f}"


class Reporter:
    """Shows the share done and prints lines; a context manager."""

    def __init__(self, *, quiet: bool = False) -> None:
        """With `quiet` nothing is said: of several processes one talks."""
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        if self._console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>4.1f} %"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("training", total=1.0)

    def line(self, text: str) -> None:
        """Print one line."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def share(self, done: float) -> None:
        """Move the bar to this share of the training."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


class StopRequest:
    """Whether the user or the system asked the run to stop."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self, *, patient: bool = False) -> Iterator[None]:
        """Take SIGINT and SIGTERM as requests; a second SIGINT interrupts at once.

        Not if `patient`: torchrun passes on an interrupt that its processes have had already.

        Outside the main thread signals cannot be taken, and nothing is done.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            if self.asked and number == signal.SIGINT and not patient:
                raise KeyboardInterrupt
            self.asked = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
