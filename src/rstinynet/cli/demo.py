"""`rstinynet demo`: the whole job on the scene that ships with the package."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

SAMPLE = "vegas_pan.tif"
WANTED = "vehicle"
VIEWS, SCALES = 4, (1.0, 1.5)
"""Views of each tile, mirrored both ways at each scale: some seconds more, and more is found."""
LEAST_M = 3.5
"""Longer side of a car's upright box, at least: what is smaller here are vents and skylights."""
CONF = 0.1
"""Below the weights' own, since so few boxes of a car's size are false."""

_CONTENTS = {
    "png": "the scene with every vehicle boxed, and how many there are",
    "closeups": "the densest places, numbered as on the picture, at twice full resolution",
    "coco": "boxes in pixels with scores, as COCO results, for other programs",
    "gpkg": "the same as map features in the scene's own coordinates (GeoPackage): open it in QGIS",
    "qml": "the colours that QGIS gives them by itself",
}


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-output"),
) -> None:
    """Find the vehicles of a satellite scene of Las Vegas (one 16-bit band) and say what to open.

    Runs offline, with the weights and the scene that ship with the package.
    """
    from rstinynet.cli.searching import Output, search
    from rstinynet.files import check_folder_place
    from rstinynet.scenes.detector import DEFAULT_MODEL, Detector
    from rstinynet.scenes.stream import PredictOptions

    check_folder_place(out, option="--out")
    console = Console(highlight=False)
    console.print(
        f"Searching [bold]{SAMPLE}[/] (Las Vegas from WorldView-3, 0.3 m a pixel, cars of about "
        f"16 by 7 pixels) for vehicles of {LEAST_M:g} m or more with [bold]{DEFAULT_MODEL}[/] in "
        f"{VIEWS} views, mirrored both ways, at {len(SCALES)} scales ..."
    )
    detector = Detector.load(DEFAULT_MODEL)
    options = PredictOptions(
        classes=[WANTED],
        tta=VIEWS,
        scale=SCALES,
        conf=CONF,
        sizes={WANTED: (LEAST_M, math.inf)},
    )
    with resources.as_file(resources.files("rstinynet") / "samples" / SAMPLE) as scene:
        output = Output(folder=out, name=Path(SAMPLE).stem)
        record = search(detector, scene, options=options, output=output)
    console.print(
        f"\n[bold green]{record['count']} vehicles[/] in {record['seconds']:.1f} s on "
        f"{detector.device}. Written to [bold]{escape(str(out))}[/]:\n"
    )
    for kind, file in record["files"].items():
        console.print(f"  [bold]{escape(Path(file).name)}[/]", soft_wrap=True)
        console.print(f"      {_CONTENTS[kind]}", soft_wrap=True)
    console.print("\nThe same for your own images and scenes:\n")
    scales = ",".join(f"{scale:g}" for scale in SCALES)
    command = (
        f"rstinynet predict YOUR_SCENE.tif --classes {WANTED} --tta {VIEWS} --scale {scales} "
        f"--size {WANTED}={LEAST_M:g}: --conf {CONF:g} --out results"
    )
    console.print(f"  [bold]{command}[/]", soft_wrap=True)
    names = ", ".join(detector.names)
    console.print(
        f"\nWithout --classes it looks for all that it knows: {escape(names)}. Without --tta "
        "and --scale it is a dozen times as fast, and less sure. --size needs a scene with a "
        "coordinate system; without it leave --conf to the weights too."
    )
