"""`rstinynet data`: prepare published sets; check, convert, divide and count any."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from rstinynet.data.catalog.prepared import Prepared, Progress
    from rstinynet.data.check import Report
    from rstinynet.data.stats import Stats

data = typer.Typer(no_args_is_help=True)
prepare = typer.Typer(no_args_is_help=True)
data.add_typer(prepare, name="prepare", help="Make a COCO folder of a published data set.")


class Kind(StrEnum):
    """Label formats that can be written."""

    coco = "coco"
    yolo = "yolo"
    voc = "voc"
    dota = "dota"


class Release(StrEnum):
    """AI-TOD's annotations."""

    v1 = "v1"
    v2 = "v2"


class Colours(StrEnum):
    """Order of the channels in xView's tiles."""

    toolkit = "toolkit"
    rgb = "rgb"


Data = Annotated[
    Path, typer.Argument(help="Folder with {train,val,test}.json and images/, or a data.yaml.")
]
AnyData = Annotated[
    Path, typer.Argument(help="COCO or YOLO data set, VOC folder or DOTA folder; told by layout.")
]
Out = Annotated[Path, typer.Option(help="Folder to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Link = Annotated[bool, typer.Option("--link", help="Hard-link images in place of copying them.")]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Make a smaller set of what is there.")
]
Splits = Annotated[
    list[str] | None, typer.Option("--split", help="Only this split; may be repeated.")
]


@prepare.command()
def aitod(
    parts: Annotated[Path, typer.Option(help="Folder with your downloads, in any arrangement.")],
    out: Out,
    version: Annotated[Release, typer.Option(help="Annotations: v1, or AI-TOD-v2's.")] = Release.v1,
    channels: Annotated[
        Colours,
        typer.Option(help="xView tiles as the published toolkit writes them, or in true colours."),
    ] = Colours.toolkit,
    allow_missing: AllowMissing = False,
    json_: Json = False,
) -> None:
    """AI-TOD, from AI-TOD_wo_xview, the annotations and xView's training scenes."""
    from rstinynet.data.catalog.aitod import prepare_aitod

    with _Bar() as bar:
        made = prepare_aitod(
            parts,
            out,
            version=version.value,
            channels=channels.value,
            allow_missing=allow_missing,
            progress=bar,
        )
    _print_prepared(made, json_)


@prepare.command()
def dior(
    root: Annotated[Path, typer.Option(help="Folder with DIOR's unpacked archives.")],
    out: Out,
    allow_missing: AllowMissing = False,
    json_: Json = False,
) -> None:
    """DIOR, from its images, horizontal boxes and lists."""
    from rstinynet.data.catalog.dior import prepare_dior

    with _Bar() as bar:
        made = prepare_dior(root, out, allow_missing=allow_missing, progress=bar)
    _print_prepared(made, json_)


@data.command()
def check(
    data: Data,
    split: Splits = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with pictures of the worst cases.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Resize factor of training, for anchors.")] = 1.0,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Decode every image, or labels only.")
    ] = True,
    json_: Json = False,
) -> None:
    """Look for what would spoil a training run; exits with 3 when there is any."""
    from rstinynet.data.check import check as look
    from rstinynet.data.check_page import write_page
    from rstinynet.errors import DataError, UsageError

    if not scale > 0:
        raise UsageError(f"--scale must be above 0, not {scale}")
    with _Bar() as bar:
        report = look(data, splits=split, images=images, scale=scale, progress=bar)
    if html is not None:
        write_page(report, html)
    if json_:
        _print_json(report.as_dict())
    else:
        _print_report(report)
    if report.errors:
        raise DataError(f"{data}: {report.errors} findings would spoil a training run")


@data.command()
def stats(data: AnyData, split: Splits = None, json_: Json = False) -> None:
    """Count objects by class and by size."""
    from rich.console import Console

    from rstinynet.data.convert import open_any
    from rstinynet.data.stats import count

    found = {name: count(open_any(data, name)) for name in split or _splits_in(data)}
    if json_:
        _print_json({name: each.as_dict() for name, each in found.items()})
        return
    for name, each in found.items():
        _print_stats(name, each, Console())


@data.command()
def convert(
    data: AnyData,
    out: Out,
    to: Annotated[Kind, typer.Option(help="Format to write.")],
    split: Splits = None,
    link: Link = False,
    json_: Json = False,
) -> None:
    """Write a data set in another format, and say what that format cannot hold."""
    from rich.console import Console

    from rstinynet.data.convert import open_any, write_as

    chosen = split or _splits_in(data)
    lost = {
        name: write_as(open_any(data, name), out, kind=to.value, split=name, link=link)
        for name in chosen
    }
    if json_:
        _print_json({"out": str(out), "format": to.value, "lost": lost})
        return
    console = Console(highlight=False)
    console.print(f"Wrote {', '.join(chosen)} to {out}", markup=False, soft_wrap=True)
    for name, each in lost.items():
        for line in each:
            console.print(f"  {name} loses {line}", markup=False, soft_wrap=True)


@data.command()
def split(
    data: AnyData,
    out: Out,
    source: Annotated[str, typer.Option("--from", help="Split to divide.")] = "train",
    shares: Annotated[str, typer.Option(help="Splits to make and their shares.")] = (
        "train=0.8,val=0.2"
    ),
    group: Annotated[
        str | None,
        typer.Option(help="Expression whose first group names the scene in a file's stem."),
    ] = None,
    prefix: Annotated[
        int | None, typer.Option(help="Group by so many first characters of the file name.")
    ] = None,
    block: Annotated[
        float | None, typer.Option(help="Group georeferenced images by blocks of so many metres.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Draws the splits; the same seed, the same splits.")
    ] = 0,
    link: Link = False,
    json_: Json = False,
) -> None:
    """Divide a split by scene or by block of ground, so that no ground is in two splits.

    Tiles named SCENE_x_y or SCENE__x_y go by their scene unless told otherwise.
    """
    from rstinynet.data.convert import open_any, write_as
    from rstinynet.data.split import by_block, by_prefix, by_scene, divide
    from rstinynet.errors import UsageError

    if sum(each is not None for each in (group, prefix, block)) > 1:
        raise UsageError("give one of --group, --prefix and --block")
    if prefix is not None:
        key = by_prefix(prefix)
    else:
        key = by_scene(group) if block is None else by_block(block)
    parts = divide(open_any(data, source), _shares(shares), group=key, seed=seed)
    for name, part in parts.items():
        write_as(part, out, kind="coco", split=name, link=link)
    sizes = {
        name: {"images": len(part), "groups": len({key(image) for image in part.images})}
        for name, part in parts.items()
    }
    if json_:
        _print_json({"out": str(out), "seed": seed, "splits": sizes})
        return
    for name, size in sizes.items():
        typer.echo(f"{name}: {size['images']} images of {size['groups']} groups")


def _shares(text: str) -> dict[str, float]:
    from rstinynet.errors import UsageError

    found = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            found[name.strip()] = float(share)
        except ValueError:
            raise UsageError(f"--shares is like train=0.8,val=0.2, not {text!r}") from None
        if name.strip() not in ("train", "val", "test"):
            raise UsageError(f"--shares names train, val and test, not {name.strip()!r}")
    return found


def _splits_in(data: Path) -> list[str]:
    from rstinynet.data.folder import splits_of
    from rstinynet.errors import DataError

    known = ("train", "val", "test")
    if (data / "ImageSets" / "Main").is_dir():
        found = [name for name in known if (data / "ImageSets" / "Main" / f"{name}.txt").is_file()]
    elif any((data / name / "labelTxt").is_dir() for name in known):
        found = [name for name in known if (data / name / "labelTxt").is_dir()]
    elif (data / "labelTxt").is_dir():
        found = ["train"]
    else:
        found = splits_of(data)
    if not found:
        raise DataError(f"{data}: no train, val or test; give a data folder or a data.yaml")
    return found


class _Bar:
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


def _print_json(value: dict[str, Any]) -> None:
    import json

    print(json.dumps(value, allow_nan=False))


def _print_prepared(made: Prepared, json_: bool) -> None:
    splits = {name: {"images": e.images, "boxes": e.boxes} for name, e in made.splits.items()}
    if json_:
        record: dict[str, Any] = {"out": str(made.folder), "version": made.version}
        _print_json({**record, "splits": splits, "missing_images": made.missing})
        return
    for name, size in splits.items():
        typer.echo(f"{name}: {size['images']} images, {size['boxes']} boxes")
    if made.missing:
        typer.echo(f"{made.missing} images are missing: these numbers cannot be compared")


def _print_report(report: Report) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for name, each in report.stats.items():
        _print_stats(name, each, console)
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


def _print_stats(name: str, stats: Stats, console: Console) -> None:
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
