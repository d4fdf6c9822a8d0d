"""`rstinynet count`: how many objects a file of detections has, by zone and on a grid."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from rstinynet.cli.shown import listed
from rstinynet.errors import UsageError
from rstinynet.files import check_folder_place

if TYPE_CHECKING:
    from pyproj import CRS

    from rstinynet.scenes.counting import Counting
    from rstinynet.scenes.survey import Bounds

ZONES = Annotated[
    Path | None,
    typer.Option(help="File of polygons: a copy of it gets the counts by class and per km²."),
]
GRID = Annotated[
    float | None,
    typer.Option(help="Side of a cell in metres: a GeoTIFF gets objects per km² by class."),
]
H3 = Annotated[
    int | None, typer.Option("--h3", help="Resolution of H3 cells, 0 to 15: a file of cells.")
]


def count(
    found: Annotated[
        Path,
        typer.Argument(help="Detections: .gpkg, .fgb, .parquet, .shp, .geojson or .csv."),
    ],
    zones: ZONES = None,
    grid: GRID = None,
    h3: H3 = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results. (default: that of the detections)")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes to count, separated by commas.")
    ] = None,
    conf: Annotated[float, typer.Option(help="Lowest confidence that counts.")] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="A summary as JSON on stdout.")] = False,
) -> None:
    """Count objects by polygon, on a grid of square cells, or in H3 cells, by their centres.

    Zones may be in another coordinate system, and may overlap: each counts for itself.
    """
    from rstinynet.scenes import places
    from rstinynet.scenes.counting import Counting, CountOptions

    options = CountOptions(zones=zones, grid_m=grid, h3=h3)
    if not options.any:
        raise UsageError("say what to count by: --zones FILE, --grid METRES or --h3 RESOLUTION")
    if not 0 <= conf <= 1:
        raise UsageError(f"--conf must lie in [0, 1], not {conf}")
    if out is not None:
        check_folder_place(out, option="--out")
    wanted = listed(classes)
    crs = places.system(found)
    counting = Counting(options, crs, None if grid is None else _extent(found, crs))
    stem = (out or found.parent) / found.stem
    counting.files(stem)
    there: set[str] = set()
    for part in places.read(found):
        there |= set(part.names.tolist())
        counting.add(part.of(wanted, conf), crs, source=str(found))
    files = counting.write(stem, wanted or sorted(counting.by_class))
    report(counting, files)
    missing = [name for name in wanted or () if name not in there]
    if missing:
        Console(stderr=True).print(
            f"[yellow]note[/] {escape(found.name)} has no object of {escape(', '.join(missing))}; "
            f"it has {escape(', '.join(sorted(there)) or 'none at all')}",
            soft_wrap=True,
        )
    if json:
        print(json_text.dumps(summary(counting, files) | {"counts": counting.by_class}))


def summary(counting: Counting, files: dict[str, Path]) -> dict[str, Any]:
    """What was counted, as the JSON summary has it."""
    by_zones = counting.zones
    return {
        "count": counting.count,
        "unplaced": counting.unplaced,
        "zones": None if by_zones is None else len(by_zones),
        "outside": None if by_zones is None else by_zones.outside,
        "files": {kind: str(path) for kind, path in files.items()},
    }


def report(counting: Counting, files: dict[str, Path]) -> None:
    """Say what was counted and where it is."""
    by_zones = counting.zones
    where = ""
    if by_zones is not None:
        where = f", {by_zones.outside} of them in none of the {len(by_zones)} zones"
    names = ", ".join(str(path) for path in files.values())
    console = Console(stderr=True)
    console.print(
        f"[green]counted[/] {counting.count} objects{where} → {escape(names)}", soft_wrap=True
    )
    if counting.unplaced:
        console.print(
            f"[yellow]note[/] {counting.unplaced} more are not counted: they lie beyond what the "
            "coordinate system maps, without a place",
            soft_wrap=True,
        )


def _extent(found: Path, crs: CRS | None) -> Bounds | None:
    """Where the objects of the file, in `crs`, are; None where it has none."""
    import numpy as np

    from rstinynet.scenes import places
    from rstinynet.scenes.survey import extent

    parts = (part.xy[np.isfinite(part.xy).all(axis=1)] for part in places.read(found))
    bounds = [extent(np.hstack([xy, xy]), crs) for xy in parts if len(xy)]
    return extent(np.array(bounds), crs) if bounds else None
