"""`rstinynet data`: prepare published sets; check, convert, divide and count any."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from rstinynet.cli.data_show import Bar, print_json, print_prepared, print_report, print_stats

data = typer.Typer()
prepare = typer.Typer()
data.add_typer(prepare, name="prepare", help="Make a COCO folder of a published data set.")


class Kind(StrEnum):
    """Label formats that can be written."""

    coco = "coco"
    yolo = "yolo"
    voc = "voc"
    dota = "dota"
    csv = "csv"
    geojson = "geojson"
    gpkg = "gpkg"


class Release(StrEnum):
    """AI-TOD's annotations."""

    v1 = "v1"
    v2 = "v2"


class Colours(StrEnum):
    """Order of the channels in xView's tiles."""

    toolkit = "toolkit"
    rgb = "rgb"


AnyData = Annotated[
    Path,
    typer.Argument(
        help="COCO, YOLO, VOC, DOTA, CSV, GeoJSON or GeoPackage data; told by its layout."
    ),
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
    from rstinynet.files import check_folder_place

    check_folder_place(out, option="--out")
    with Bar() as bar:
        made = prepare_aitod(
            parts,
            out,
            version=version.value,
            channels=channels.value,
            allow_missing=allow_missing,
            progress=bar,
        )
    print_prepared(made, json_)


@prepare.command()
def dior(
    root: Annotated[Path, typer.Option(help="Folder with DIOR's unpacked archives.")],
    out: Out,
    allow_missing: AllowMissing = False,
    json_: Json = False,
) -> None:
    """DIOR, from its images, horizontal boxes and lists."""
    from rstinynet.data.catalog.dior import prepare_dior
    from rstinynet.files import check_folder_place

    check_folder_place(out, option="--out")
    with Bar() as bar:
        made = prepare_dior(root, out, allow_missing=allow_missing, progress=bar)
    print_prepared(made, json_)


@data.command()
def check(
    data: AnyData,
    split: Splits = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with pictures of the worst cases.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Resize factor of training, for anchors.")] = 1.0,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Named model whose levels must give boxes an anchor; may be repeated."),
    ] = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Decode every image, or labels only.")
    ] = True,
    json_: Json = False,
) -> None:
    """Look for what would spoil a training run; exits with 3 when there is any."""
    from rstinynet.data.check import check as look
    from rstinynet.data.check_page import write_page
    from rstinynet.errors import DataError, UsageError
    from rstinynet.files import check_file_place

    if not scale > 0:
        raise UsageError(f"--scale must be above 0, not {scale}")
    if html is not None:
        check_file_place(html, option="--html")
    with Bar() as bar:
        report = look(
            data, splits=split, images=images, scale=scale, levels=_levels(model), progress=bar
        )
    if html is not None:
        write_page(report, html)
    if json_:
        print_json(report.as_dict())
    else:
        print_report(report)
    if report.errors:
        raise DataError(f"{data}: {report.errors} findings would spoil a training run")


def _levels(models: list[str] | None) -> dict[str, tuple[int, ...]]:
    from rstinynet.data.stats import LEVELS
    from rstinynet.model.presets import config

    return {name: config(name, 1).strides for name in models} if models else dict(LEVELS)


@data.command()
def stats(data: AnyData, split: Splits = None, json_: Json = False) -> None:
    """Count objects by class and by size."""
    from rich.console import Console

    from rstinynet.data.convert import open_any, splits_needed
    from rstinynet.data.stats import count

    found = {name: count(open_any(data, name)) for name in split or splits_needed(data)}
    if json_:
        print_json({name: each.as_dict() for name, each in found.items()})
        return
    for name, each in found.items():
        print_stats(name, each, Console())


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

    from rstinynet.data.convert import open_any, splits_needed, write_all

    _check_out(data, out)
    chosen = list(dict.fromkeys(split or splits_needed(data)))
    sets = {name: open_any(data, name) for name in chosen}
    lost = write_all(sets, out, kind=to.value, link=link)
    if json_:
        print_json({"out": str(out), "format": to.value, "lost": lost})
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

    Tiles named SCENE_x_y, SCENE__x_y or SCENE__scale__x___y go by their scene, unless told
    otherwise.
    """
    from rstinynet.data.convert import open_any, write_all
    from rstinynet.data.split import by_block, by_prefix, by_scene, divide
    from rstinynet.errors import UsageError

    if sum(each is not None for each in (group, prefix, block)) > 1:
        raise UsageError("give one of --group, --prefix and --block")
    _check_out(data, out)
    if prefix is not None:
        key = by_prefix(prefix)
    else:
        key = by_scene(group) if block is None else by_block(block)
    parts = divide(open_any(data, source), _shares(shares), group=key, seed=seed)
    write_all(parts, out, kind="coco", link=link)
    sizes = {
        name: {"images": len(part), "groups": len({key(image) for image in part.images})}
        for name, part in parts.items()
    }
    if json_:
        print_json({"out": str(out), "seed": seed, "splits": sizes})
        return
    for name, size in sizes.items():
        typer.echo(f"{name}: {size['images']} images of {size['groups']} groups")


@data.command()
def tile(
    data: AnyData,
    out: Out,
    split: Splits = None,
    size: Annotated[int, typer.Option("--tile", help="Side of a tile, pixels.")] = 800,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbours share at least.")] = 200,
    min_visibility: Annotated[
        float, typer.Option(help="Share of a cut box that keeps it an object; else it is ignored.")
    ] = 0.3,
    empty: Annotated[float, typer.Option(help="Share of tiles without a box to keep.")] = 1.0,
    json_: Json = False,
) -> None:
    """Cut labelled scenes, however large, into georeferenced tiles with COCO labels."""
    from rstinynet.data.at_once import labels_at_once, refuse_others
    from rstinynet.data.convert import open_any, splits_needed
    from rstinynet.data.formats.coco import write_coco
    from rstinynet.data.tiles import TileSettings, cut
    from rstinynet.errors import DataError

    settings = TileSettings(
        tile=size, overlap=overlap, min_visibility=min_visibility, empty_share=empty
    )
    _check_out(data, out)
    chosen = list(dict.fromkeys(split or splits_needed(data)))
    refuse_others(out, [out / f"{name}.json" for name in chosen])
    made: dict[str, Any] = {}
    with Bar() as bar, labels_at_once(out) as labels:
        for name in chosen:
            tiles = cut(
                open_any(data, name), out / "images" / name, settings=settings, progress=bar
            )
            if not tiles.images:
                raise DataError(f"split '{name}' gives no tile: its scenes are empty")
            write_coco(tiles, labels / f"{name}.json", images_dir=out / "images")
            objects = sum(int((~each.crowd).sum()) for each in tiles.images)
            made[name] = {"tiles": len(tiles), "boxes": objects}
    if json_:
        print_json({"out": str(out), "splits": made})
        return
    for name, each in made.items():
        typer.echo(f"{name}: {each['tiles']} tiles, {each['boxes']} boxes")


def _check_out(data: Path, out: Path) -> None:
    """Labels of the same split have the same name: written in place they would be lost."""
    from rstinynet.errors import UsageError
    from rstinynet.files import check_folder_place

    if out.resolve() == (data if data.is_dir() else data.parent).resolve():
        raise UsageError(f"--out must be another folder than the data's, not {out}")
    check_folder_place(out, option="--out")


def _shares(text: str) -> dict[str, float]:
    from rstinynet.errors import UsageError

    found = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        if name.strip() in found:
            raise UsageError(f"--shares names {name.strip()!r} twice: {text!r}")
        try:
            found[name.strip()] = float(share)
        except ValueError:
            raise UsageError(f"--shares is like train=0.8,val=0.2, not {text!r}") from None
        if name.strip() not in ("train", "val", "test"):
            raise UsageError(f"--shares names train, val and test, not {name.strip()!r}")
    return found
