"""`rstinynet predict`: find objects in images and scenes, and write what was found."""

from __future__ import annotations

import json as json_text
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rstinynet.errors import DataError, RSTinyNetError, UsageError

if TYPE_CHECKING:
    from rstinynet.scenes.detector import Detector
    from rstinynet.scenes.result import Result
    from rstinynet.scenes.stream import PredictOptions

Tiles = Callable[[int, int], None]


def predict(
    source: Annotated[
        list[str], typer.Argument(help="Images, GeoTIFF scenes, folders or quoted globs.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    model: Annotated[
        str | None,
        typer.Option(help="Weights file, or name of shipped weights. (default: the shipped ones)"),
    ] = None,
    conf: Annotated[
        float | None, typer.Option(help="Lowest confidence. (default: the weights' own)")
    ] = None,
    iou: Annotated[
        float, typer.Option(help="Overlap above which the weaker of two boxes is dropped.")
    ] = 0.6,
    max_det: Annotated[int, typer.Option(help="Most objects of one tile.")] = 1500,
    tile: Annotated[
        int | None,
        typer.Option(help="Side of a tile, pixels of the source. (default: the weights' own)"),
    ] = None,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbouring tiles share.")] = 64,
    scale: Annotated[
        float | None,
        typer.Option(help="Enlarge tiles by this before the model. (default: the weights' own)"),
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Bands as red,green,blue, or one: 4,3,2 or 1.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes to find, separated by commas.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="Out of gpkg,geojson,fgb,parquet,shp,coco,csv,png. (default: png,coco, and gpkg "
            "where the source has a coordinate system)"
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1. (default: a GPU where there is one)")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same command was interrupted.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="A summary as JSON on stdout.")] = False,
) -> None:
    """Find objects in images and GeoTIFF scenes of any size; draw them and write them to files.

    Scenes larger than a tile are searched tile by tile. A search that was interrupted or killed
    goes on with --resume, and gives what it would have given unbroken.

    A source that cannot be used is reported, the others are done; the exit code is then 3 (2 where
    the options suit no source).
    """
    from rstinynet.scenes import sources, windows
    from rstinynet.scenes.detector import DEFAULT_MODEL, Detector
    from rstinynet.scenes.result import FORMATS
    from rstinynet.scenes.stream import PredictOptions, wanted_labels

    console = Console(stderr=True)
    formats = _listed(format)
    for one in formats or ():
        if one not in FORMATS:
            raise UsageError(f"--format takes {','.join(FORMATS)}, not {one!r}")
    options = PredictOptions(
        conf=conf,
        iou=iou,
        max_det=max_det,
        tile=tile,
        overlap=overlap,
        scale=scale,
        bands=_numbers(bands),
        classes=_listed(classes),
    )
    detector = Detector.load(model or DEFAULT_MODEL, device=device)
    wanted_labels(detector.names, options.classes)
    windows.spans(1, options.tile or detector.metadata.imgsz, options.used_overlap(detector))
    errors: list[Exception] = []
    records: list[dict[str, Any]] = []

    def fail(error: Exception, name: str) -> None:
        errors.append(error)
        records.append({"source": name, "error": _words(error, name)})
        console.print(f"[red]failed[/] {escape(records[-1]['error'])}", soft_wrap=True)

    paths: dict[Path, None] = {}
    for named in source:
        try:
            paths |= dict.fromkeys(sources.find([named]))
        except DataError as error:
            fail(error, named)
    with _progress(console) as progress:
        names = sources.names(list(paths))
        for image_id, (path, name) in enumerate(zip(paths, names, strict=True), 1):
            task = progress.add_task(escape(path.name), total=None)

            def advance(done: int, total: int, task: Any = task) -> None:
                progress.update(task, completed=done, total=total)

            try:
                output = Output(
                    folder=out, name=name, formats=formats, image_id=image_id, resume=resume
                )
                record = search(detector, path, options=options, output=output, progress=advance)
            except KeyboardInterrupt as stop:
                console.print(escape(str(stop)), soft_wrap=True)
                raise
            except _one_sources_errors() as error:
                fail(error, str(path))
            else:
                console.print(_line(record), soft_wrap=True)
                records.append(record)
            progress.remove_task(task)
    if json:
        summary = {
            "model": detector.metadata.model,
            "names": list(detector.names),
            "device": str(detector.device),
            "out": str(out),
            "sources": records,
            "failed": len(errors),
        }
        print(json_text.dumps(summary))
    if errors:
        of_use = len(errors) < len(records) or not all(isinstance(e, UsageError) for e in errors)
        raise (DataError if of_use else UsageError)(
            f"{len(errors)} of {len(records)} sources could not be used: "
            + ", ".join(record["source"] for record in records if "error" in record)
        )


def _one_sources_errors() -> tuple[type[Exception], ...]:
    """What can go wrong with one source, in reading, placing or writing."""
    from pyogrio.errors import DataLayerError, DataSourceError
    from pyproj.exceptions import ProjError
    from rasterio.errors import RasterioError

    return (RSTinyNetError, OSError, ProjError, DataSourceError, DataLayerError, RasterioError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where one source's files go, and which."""

    folder: Path
    name: str
    """What the files' names begin with."""
    formats: list[str] | None = None
    """None: what suits the source."""
    image_id: int = 1
    """In the COCO results."""
    resume: bool = False
    """Go on where an earlier run into the same folder stopped."""

    @property
    def ledger(self) -> Path:
        """The folder of finished tiles while the search lasts."""
        return self.folder / f"{self.name}_detections.ledger"


def search(
    detector: Detector,
    path: Path,
    *,
    options: PredictOptions,
    output: Output,
    progress: Tiles | None = None,
) -> dict[str, Any]:
    """Search one source, write its files, and describe both as the JSON summary does."""
    from rstinynet.scenes import stream, writers
    from rstinynet.scenes.ledger import Ledger

    start = time.perf_counter()
    # Before a search that may take an hour.
    writers.check_scene(path, output.formats or (), bands=options.bands)
    with Ledger(output.ledger, resume=output.resume) as ledger:
        try:
            result = stream.predict(detector, path, options, progress=progress, ledger=ledger)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(ledger.story(path.name)) from stop
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            files = result.save(
                output.folder, formats=output.formats, name=output.name, image_id=output.image_id
            )
        ledger.finish()
    said = dict.fromkeys(str(warning.message) for warning in caught)
    notes = [*result.notes, *ledger.notes, *said]
    return {
        "source": str(path),
        "image_id": output.image_id,
        "width": result.size[0],
        "height": result.size[1],
        "crs": None if result.crs is None else _crs(result),
        "count": len(result),
        "counts": result.counts(),
        "files": {kind: str(file) for kind, file in files.items()},
        "notes": notes,
        "resumed_tiles": ledger.resumed,
        "seconds": round(time.perf_counter() - start, 3),
    }


def _crs(result: Result) -> str:
    assert result.crs is not None
    authority = result.crs.to_authority()
    return result.crs.name if authority is None else ":".join(authority)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tiles"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _line(record: dict[str, Any]) -> str:
    counts = ", ".join(f"{n} {name}" for name, n in record["counts"].items()) or "nothing found"
    files = ", ".join(Path(file).name for file in record["files"].values())
    notes = "".join(f"\n  [yellow]note[/] {escape(note)}" for note in record["notes"])
    return (
        f"[green]done[/] {escape(record['source'])} ({record['width']} by {record['height']}): "
        f"{escape(counts)} in {record['seconds']:.1f} s → {escape(files)}{notes}"
    )


def _words(error: Exception, source: str) -> str:
    text = str(error)
    return text if isinstance(error, RSTinyNetError) else f"{source}: {text}"


def _listed(text: str | None) -> list[str] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError("a list of names separated by commas must not be empty")
    return parts


def _numbers(text: str | None) -> list[int] | None:
    parts = _listed(text)
    if parts is None:
        return None
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--bands takes numbers from 1 separated by commas, not {text!r}")
    return [int(part) for part in parts]
