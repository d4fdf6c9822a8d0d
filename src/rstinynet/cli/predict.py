"""`rstinynet predict`: find objects in images and scenes, and write what was found."""

from __future__ import annotations

import json as json_text
import shutil
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from rstinynet.cli.count import GRID, H3, ZONES, report
from rstinynet.cli.count import summary as summary_of_counts
from rstinynet.cli.outcome import Outcome, one_sources_errors
from rstinynet.cli.running import BATCH, DEVICE, PRECISION, PROVIDERS, THREADS, TTA, runtime_options
from rstinynet.cli.searching import Output, engine_of, search
from rstinynet.cli.shown import line, listed, notes_of, numbers, progress_bar
from rstinynet.errors import ExportError, UsageError
from rstinynet.files import check_file_place, check_folder_place

if TYPE_CHECKING:
    from rstinynet.scenes.stream import Engine


def predict(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Images, GeoTIFF scenes, folders, quoted globs, text files of paths, STAC files."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Weights (.safetensors), an exported model (.onnx, .xml), a packaged folder, "
            "hub:owner/name@revision, or a shipped model's name; several, separated by commas, "
            "search together. (default: the shipped one)"
        ),
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
        str | None,
        typer.Option(
            help="Enlarge tiles by this before the model. Of several, as 1,1.5, each is searched "
            "and what they find averaged, as with --tta. (default: the weights' own)"
        ),
    ] = None,
    tta: TTA = 1,
    bands: Annotated[
        str | None, typer.Option(help="Bands as red,green,blue, or one: 4,3,2 or 1.")
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option(
            help="How values become 8-bit: dtype, percentile:1:99 or fixed:0:10000. (default: the "
            "weights' own, and 8-bit values as they are)"
        ),
    ] = None,
    gsd: Annotated[
        str | None,
        typer.Option(
            help="Read scenes at so many metres a pixel, or at the nearest that the `weights` "
            "were trained at. (default: their own)"
        ),
    ] = None,
    source_gsd: Annotated[
        float | None,
        typer.Option(
            help="Metres a pixel of sources without a coordinate system, for --gsd and --size."
        ),
    ] = None,
    nodata_fill: Annotated[
        str, typer.Option(help="What the model sees for nodata: grey, black, mean or nearest.")
    ] = "grey",
    memory_limit: Annotated[
        str | None, typer.Option(help="Most memory to hold, such as 2GiB, for a scene of any size.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes to find, separated by commas.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Least and most metres of the longer side of a class's boxes, on scenes with a "
            "coordinate system or --source-gsd: vehicle=3.5:20,ship=8: drops smaller and larger "
            "ones of these two."
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="Out of gpkg,geojson,fgb,parquet,shp,coco,csv,png. (default: png,coco, and gpkg "
            "where the source has a coordinate system)"
        ),
    ] = None,
    device: DEVICE = None,
    threads: THREADS = None,
    providers: PROVIDERS = None,
    batch: BATCH = None,
    precision: PRECISION = "float32",
    engine: Annotated[
        str, typer.Option(help="Who searches: local, or ray for workers here or on a cluster.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="Ray cluster: auto, or ray://host:10001. (default: this machine)"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Most workers of ray. (default: one a processor)")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same command was interrupted.")
    ] = False,
    merged: Annotated[
        Path | None,
        typer.Option(
            help="One file for the objects of all sources (.gpkg, .fgb, .parquet, .shp, .geojson, "
            ".csv, .json), in place of files for each."
        ),
    ] = None,
    asset: Annotated[
        str | None,
        typer.Option(help="Of STAC items, the asset of this name or role. (default: visual, data)"),
    ] = None,
    zones: ZONES = None,
    grid: GRID = None,
    h3: H3 = None,
    json: Annotated[bool, typer.Option("--json", help="A summary as JSON on stdout.")] = False,
) -> None:
    """Find objects in images and GeoTIFF scenes of any size; draw them and write them to files.

    Scenes larger than a tile are searched tile by tile. A search that was interrupted or killed
    goes on with --resume, and gives what it would have given unbroken.

    A source that cannot be used is reported and listed in errors.json, the others are done; the
    exit code is then 3 (2 where the options suit no source).
    """
    from rstinynet.scenes import merged as merging
    from rstinynet.scenes import sources, windows
    from rstinynet.scenes.borders import BorderEngine
    from rstinynet.scenes.counting import Counting, CountOptions
    from rstinynet.scenes.detector import DEFAULT_MODEL, Detector
    from rstinynet.scenes.memory import parse_size
    from rstinynet.scenes.options import parse_gsd, parse_scaling, parse_sizes, size_limits
    from rstinynet.scenes.result import FORMATS
    from rstinynet.scenes.stream import PredictOptions, wanted_labels
    from rstinynet.scenes.survey import survey
    from rstinynet.scenes.views import parse_scales

    console = Console(stderr=True)
    formats = listed(format)
    check_folder_place(out, option="--out")
    if merged is not None:
        merged = merging.named(merged)
        check_file_place(merged, option="--merged")
        formats = formats or []
    for one in formats or ():
        if one not in FORMATS:
            raise UsageError(f"--format takes {','.join(FORMATS)}, not {one!r}")
    options = PredictOptions(
        conf=conf,
        iou=iou,
        max_det=max_det,
        tile=tile,
        overlap=overlap,
        scale=None if scale is None else parse_scales(scale),
        tta=tta,
        bands=numbers(bands),
        scaling=None if scaling is None else parse_scaling(scaling),
        gsd=None if gsd is None else parse_gsd(gsd),
        source_gsd=source_gsd,
        nodata_fill=nodata_fill,  # type: ignore[arg-type]
        memory_limit=None if memory_limit is None else parse_size(memory_limit),
        classes=listed(classes),
        sizes=None if size is None else parse_sizes(size),
    )
    how = runtime_options(threads=threads, providers=providers, batch=batch, precision=precision)
    detector = Detector.load(model or DEFAULT_MODEL, device=device, options=how)
    wanted_labels(detector.names, options.classes)
    size_limits(detector.names, options.sizes)
    windows.spans(1, options.tile or detector.metadata.imgsz, options.used_overlap(detector))
    outcome = Outcome()

    def fail(error: Exception, name: str) -> None:
        console.print(f"[red]failed[/] {escape(outcome.fail(error, name))}", soft_wrap=True)

    def summarise() -> None:
        summary = {
            "model": detector.metadata.model,
            "names": list(detector.names),
            "device": str(detector.device),
            "out": str(out),
            "merged": None if merged is None else str(merged),
            "counted": None if counting is None else summary_of_counts(counting, counts),
            "sources": outcome.records,
            "failed": len(outcome.errors),
        }
        if json:
            print(json_text.dumps(summary))

    listing = sources.listing(source, asset=asset)
    for named, refusal in listing.refused.items():
        fail(refusal, named)
    by = CountOptions(zones=zones, grid_m=grid, h3=h3)
    counting: Counting | None = None
    counts: dict[str, Path] = {}
    seen = survey(listing.scenes) if by.any or merged is not None else None
    if seen is not None and len(seen.refused) == len(listing.scenes):
        # No scene says in what system the counts or the merged file would be.
        for unread, reason in seen.refused.items():
            fail(reason, str(unread))
        outcome.write(out)
        summarise()
        outcome.raise_failed()
    if seen is not None and by.any:
        counting = Counting(by, seen.crs, seen.extent)
        counting.files(out / "counts", beside=merged)
    said: list[Any] = []
    finished: list[Path] = []
    names = sources.names(listing.scenes)
    pairs = zip(listing.scenes, names, strict=True)
    begun = [str(path) for path, n in pairs if Output(folder=out, name=n).ledger.exists()]
    with ExitStack() as stack:
        spread = engine_of(engine, detector, address=ray_address, workers=workers)
        if spread is not None:
            stack.enter_context(spread).announce(listing.scenes, options, begun=begun)
        searcher: Engine | None = spread
        if spread is None and detector.batch > 1 and len(listing.scenes) > 1:
            searcher = BorderEngine(detector, listing.scenes, options, begun=begun)
        whole = None
        if merged is not None and seen is not None:
            said = stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            whole = stack.enter_context(merging.create(merged, seen.crs, detector.metadata))
        progress = stack.enter_context(progress_bar(console))
        labels = sources.labels(listing.scenes)
        each = zip(listing.scenes, names, labels, strict=True)
        for image_id, (path, name, label) in enumerate(each, 1):
            task = progress.add_task(escape(name), total=None)

            def advance(done: int, total: int, task: Any = task) -> None:
                progress.update(task, completed=done, total=total)

            output = Output(
                folder=out,
                name=name,
                label=label,
                formats=formats,
                image_id=image_id,
                resume=resume,
                merged=whole,
                counting=counting,
                finished=finished,
            )
            try:
                record = search(
                    detector,
                    path,
                    options=options,
                    output=output,
                    progress=advance,
                    engine=searcher,
                )
            except KeyboardInterrupt as stop:
                console.print(escape(str(stop)), soft_wrap=True)
                raise
            except ExportError:
                raise  # the model's: every other source would meet it too
            except one_sources_errors() as error:
                if whole is not None and whole.broken:
                    raise
                fail(error, str(path))
            else:
                console.print(line(record), soft_wrap=True)
                outcome.records.append(record)
            progress.remove_task(task)
        outcome.write(out)
        if outcome.none_done:
            # Before a merged file without any scene gets its name.
            summarise()
            outcome.raise_failed()
    if counting is not None:
        counts = counting.write(out / "counts", options.classes or detector.names)
        report(counting, counts)
    for ledger in finished:
        # Only now: a run of many sources that is killed goes on with all of them.
        shutil.rmtree(ledger, ignore_errors=True)
    if merged is not None:
        console.print(f"[green]done[/] {escape(str(merged))}{notes_of(said)}", soft_wrap=True)
    summarise()
    outcome.raise_failed()
