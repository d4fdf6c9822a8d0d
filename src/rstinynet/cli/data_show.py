"""What `rstinynet data` prints: progress, reports and counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from rstinynet.data.catalog.prepared import Prepared, Progress
    from rstinynet.data.findings import Report
    from rstinynet.data.stats import Stats


class Bar:
    """Progress on stderr; called with what is done, how many are done and how many there are."""

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), MofNCompleteColumn())
        self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
        self._tasks: dict[str, Any] = {}
        self._bars.start()
        return self._show

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def _show(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done)


def print_json(value: dict[str, Any]) -> None:
    import json

    print(json.dumps(value, allow_nan=False))


def print_prepared(made: Prepared, json_: bool) -> None:
    splits = {name: {"images": e.images, "boxes": e.boxes} for name, e in made.splits.items()}
    if json_:
        record: dict[str, Any] = {"out": str(made.folder), "version": made.version}
        print_json({**record, "splits": splits, "missing_images": made.missing})
        return
    for name, size in splits.items():
        typer.echo(f"{name}: {size['images']} images, {size['boxes']} boxes")
    if made.missing:
        typer.echo(f"{made.missing} images are missing: these numbers cannot be compared")


def print_report(report: Report) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for name, each in report.stats.items():
        print_stats(name, each, console)
    for finding in report.findings:
        style = "bold red" if finding.severity == "error" else "yellow"
        line = Text(f"{finding.severity}: ", style) + Text(f"{finding.split}: {finding.message}")
        console.print(line, soft_wrap=True)
        for example in finding.examples[:3]:
            box = example.box_xyxy
            where = "" if box is None else " at " + ", ".join(f"{value:g}" for value in box)
            other = "" if example.other is None else f" and {example.other}"
            console.print(Text(f"    {example.image}{other}{where} {example.note}"), soft_wrap=True)
    if not report.findings:
        console.print("Nothing found that would spoil a training run.")


def print_stats(name: str, stats: Stats, console: Console) -> None:
    from rich.table import Table

    table = Table(
        title=f"{name}: {stats.boxes} boxes on {stats.images} images", title_justify="left"
    )
    table.add_column("class")
    for size in stats.sizes:
        table.add_column(size, justify="right")
    table.add_column("all", justify="right")
    for kind, sizes in stats.class_sizes.items():
        table.add_row(kind, *map(str, sizes.values()), str(stats.classes[kind]))
    table.add_row("all", *map(str, stats.sizes.values()), str(stats.boxes), style="bold")
    console.print(table)
    console.print("sides in px: " + ", ".join(f"{k}: {n}" for k, n in stats.sides_px.items()))
    shares = ", ".join(f"{levels} {share:.1%}" for levels, share in stats.no_anchor.items())
    console.print(f"boxes without an anchor inside: {shares}")
