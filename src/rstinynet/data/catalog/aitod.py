"""AI-TOD v1 and v2, put together from what can be downloaded.

Of its 28,036 images of 800 x 800 a part may not be redistributed: those are cut from xView's
training scenes (`rstinynet.data.catalog.xview`). The rest is published as AI-TOD_wo_xview, the
annotations are published whole. Names of files vary between releases; they are looked for by name
anywhere under the folder of parts.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rstinynet import files
from rstinynet.data.catalog.prepared import (
    RECORD,
    Counts,
    Prepared,
    Progress,
    check_counts,
    is_whole,
    publish,
    refuse_missing,
    require_same_version,
    silent,
)
from rstinynet.data.catalog.xview import (
    TILE_NAME,
    TILE_PX,
    Channels,
    add_tiles,
    cut_tiles,
    read_geojson,
)
from rstinynet.data.formats.common import place_file
from rstinynet.errors import DataError, UsageError

log = logging.getLogger(__name__)

Version = Literal["v1", "v2"]

CLASSES = (
    "airplane",
    "bridge",
    "storage-tank",
    "ship",
    "swimming-pool",
    "vehicle",
    "person",
    "wind-mill",
)
SPLITS = ("train", "val", "trainval", "test")
EXPECTED: dict[str, dict[str, Counts]] = {
    "v1": {
        "train": Counts(11_214),
        "val": Counts(2_804),
        "trainval": Counts(14_018, 353_004),
        "test": Counts(14_018, 347_617),
    },
    "v2": {
        "train": Counts(11_214),
        "val": Counts(2_804),
        "trainval": Counts(14_018),
        "test": Counts(14_018),
    },
}
"""Published counts; v2's 752,754 boxes are known for both parts together only."""

V2_BOXES = 752_754

MARK = "images/.channels"
"""Where the order of the channels of tiles is kept while there may be some."""

WHERE = """Where it is to be had:
  annotations and AI-TOD_wo_xview images: links on https://github.com/jwwangchn/AI-TOD (v1) and
    https://chasel-tsui.github.io/AI-TOD-v2/ (v2, same images)
  xView training scenes (NUMBER.tif) and xView_train.geojson: http://xviewdataset.org, free, after
    registering
Put what you have anywhere under the folder of parts and run the same command again; what is done
is kept. With --allow-missing a smaller set is made, whose numbers cannot be compared."""


def annotation_names(version: str, split: str) -> tuple[str, ...]:
    """The file names under which a split's annotations were released, the latest first."""
    if version == "v2":
        return (
            f"aitodv2_{split}.json",
            f"small_{split}_v2_2.0.json",
            f"aitod_{split}_v2_2.0.json",
            f"aitod_{split}_v2.json",
        )
    return (
        f"aitod_{split}_v1_1.0.json",
        f"aitod_{split}.json",
        f"small_{split}_v1_1.0.json",
        f"aitod_{split}_v1.json",
    )


def prepare_aitod(
    parts: Path | str,
    out: Path | str,
    *,
    version: Version = "v1",
    channels: Channels = "toolkit",
    allow_missing: bool = False,
    expected: Mapping[str, Counts] | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Make a COCO folder of AI-TOD out of the downloaded parts, or say what they lack.

    Args:
        parts: folder with the downloads, in any arrangement.
        out: folder to make: `{train,val,trainval,test}.json` and `images/{trainval,test}/`.
        version: annotations to use; the images are the same. Numbers of both must not be mixed.
        channels: red and blue exchanged in xView's tiles, as the published toolkit does it, or not.
        allow_missing: leave out images that are not there and accept other counts.
        expected: counts to insist on in place of the published ones.

    A second run goes on where the first stopped. Annotations appear under their names only when
    every image is there and whole.

    Raises:
        UsageError: the folder of parts is not there, or `out` holds the other version, or tiles
            with other `channels`.
        DataError: something is missing, damaged, or differs from the published counts.
    """
    parts, out = Path(parts), Path(out)
    title = f"AI-TOD {version}"
    if version not in EXPECTED:
        raise UsageError(f"AI-TOD's versions are v1 and v2, not {version!r}")
    if not parts.is_dir():
        raise UsageError(f"folder of parts not found: {parts}; give the folder of your downloads")
    require_same_version(out, title)
    _require_same_channels(out, channels)
    held = _Parts(parts, out)
    contents, sources, lacking = _annotations(held, version)
    wanted = EXPECTED[version] if expected is None else expected
    if not contents or (lacking and not allow_missing):
        refuse_missing(title, {"annotation files": lacking}, WHERE)
    for split, content in contents.items():
        _check_content(split, content, sources[split])
        if not allow_missing:
            counts = Counts(len(content["images"]), len(content["annotations"]))
            check_counts(split, counts, wanted, str(sources[split]))
    if version == "v2" and expected is None and not allow_missing:
        both = sum(len(contents[split]["annotations"]) for split in ("trainval", "test"))
        check_counts("v2", Counts(None, both), {"v2": Counts(None, V2_BOXES)}, str(parts))

    missing = _place_images(
        held, contents, out, channels=channels, allow_missing=allow_missing, progress=progress
    )
    for split, content in contents.items():
        contents[split] = _with_folders(split, content, missing)
    progress("reading back", 0, len(contents))
    record = {
        "version": title,
        "channels": channels,
        "missing_images": len(missing),
        "licence": "CC BY-NC-SA 4.0",
        "sources": {
            split: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for split, path in sources.items()
        },
    }
    splits = publish(out, contents, record)
    return Prepared(folder=out, version=title, splits=splits, missing=len(missing))


class _Parts:
    """Every file under the folder of parts, by name; `out`, should it lie inside, is passed by."""

    def __init__(self, root: Path, out: Path) -> None:
        self.paths: defaultdict[str, list[Path]] = defaultdict(list)
        own = os.path.abspath(out)
        for folder, folders, names in os.walk(root, followlinks=True):
            folders[:] = sorted(
                each for each in folders if os.path.abspath(os.path.join(folder, each)) != own
            )
            for name in sorted(names):
                self.paths[name].append(Path(folder) / name)

    def first(self, *names: str) -> Path | None:
        return next((self.paths[name][0] for name in names if name in self.paths), None)

    def image(self, name: str, split: str) -> Path | None:
        """The image of this name, from a folder of the split where there are several."""
        found = self.paths.get(name, [])
        own = [path for path in found if path.parent.name in _folders(split)]
        return next(iter(own or found), None)


def _folders(split: str) -> tuple[str, ...]:
    return ("test",) if split == "test" else ("trainval", "train", "val")


def _annotations(
    held: _Parts, version: str
) -> tuple[dict[str, dict[str, Any]], dict[str, Path], list[str]]:
    """(content by split, file by split, names of the files that are needed and missing)."""
    contents: dict[str, dict[str, Any]] = {}
    sources: dict[str, Path] = {}
    objects = None
    for split in SPLITS:
        path = held.first(*annotation_names(version, split))
        if path is not None:
            contents[split], sources[split] = _read(path), path
            continue
        # The older release: the rest's annotations, a list of tiles, and xView's own annotations.
        rest = held.first(f"aitod_wo_xview_{split}.json") if version == "v1" else None
        tiles, own = held.first(f"aitod_xview_{split}.txt"), held.first("xView_train.geojson")
        if rest is not None and tiles is not None and own is not None:
            objects = read_geojson(own) if objects is None else objects
            content = _read(rest)
            add_tiles(content, _read_tiles(tiles), objects)
            contents[split], sources[split] = content, rest
    lacking = []
    if "test" not in contents:
        lacking.append(annotation_names(version, "test")[0])
    if "trainval" not in contents:
        lacking.append(annotation_names(version, "trainval")[0])
    return contents, sources, lacking


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        if not all(isinstance(content[key], list) for key in ("images", "annotations")):
            raise TypeError("no lists of images and annotations")
        names = [each["name"] for each in content["categories"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error!r}); download it again") from error
    if sorted(names) != sorted(CLASSES):
        raise DataError(f"{path}: has the classes {names}, AI-TOD has {list(CLASSES)}")
    return dict(content)


def _read_tiles(path: Path) -> list[str]:
    """A list of tiles as the toolkit has it (a Python list), or one name a line."""
    text = path.read_text(encoding="utf-8").strip()
    if not text.startswith("["):
        return text.split()
    try:
        return [str(name) for name in ast.literal_eval(text)]
    except (ValueError, SyntaxError) as error:
        raise DataError(f"{path}: not a list of tile names; download it again") from error


def _check_content(split: str, content: dict[str, Any], source: Path) -> None:
    names = [str(each.get("file_name")) for each in content["images"]]
    if len(set(names)) < len(names):
        raise DataError(f"{source}: '{split}' lists images twice; download it again")
    unsafe = [name for name in names if "/" in name or "\\" in name or name.startswith(".")]
    if unsafe:
        raise DataError(f"{source}: image names must be plain, not {unsafe[0]!r}")


def _place_images(
    held: _Parts,
    contents: Mapping[str, dict[str, Any]],
    out: Path,
    *,
    channels: Channels,
    allow_missing: bool,
    progress: Progress,
) -> set[tuple[str, str]]:
    """Link, copy or cut every image; (folder, name) of those that are missing."""
    wanted = {
        (_folders(split)[0], str(each["file_name"])): split
        for split, content in contents.items()
        for each in content["images"]
    }
    size = (TILE_PX, TILE_PX)
    cuts: defaultdict[tuple[Path, str], list[tuple[int, int]]] = defaultdict(list)
    copies: list[tuple[Path, Path]] = []
    lacking: defaultdict[str, set[str]] = defaultdict(set)
    missing: set[tuple[str, str]] = set()
    for (folder, name), split in wanted.items():
        match = TILE_NAME.match(name)
        if is_whole(out / "images" / folder / name, size):
            continue
        source = held.image(name, split)
        scene = held.first(f"{match[1]}.tif") if match else None
        if source is not None and is_whole(source, size):
            copies.append((source, out / "images" / folder / name))
        elif match and scene is not None:
            cuts[scene, folder].append((int(match[2]), int(match[3])))
        else:
            missing.add((folder, name))
            if source is not None:
                kind, each = "images damaged or not 800 x 800", name
            elif match:
                kind, each = "xView scenes", f"{match[1]}.tif"
            else:
                kind, each = "images of AI-TOD_wo_xview", name
            lacking[kind].add(each)
    if not allow_missing:
        refuse_missing("AI-TOD", {kind: sorted(names) for kind, names in lacking.items()}, WHERE)
    if cuts:
        # Before the first tile: a cut that is interrupted must not go on with other channels.
        files.write_bytes(out / MARK, channels.encode())
    for done, (source, target) in enumerate(copies):
        progress("images", done, len(copies))
        place_file(source, target, link=True)
    for done, ((scene, folder), starts) in enumerate(sorted(cuts.items())):
        progress("xView scenes", done, len(cuts))
        cut_tiles(scene, starts, out / "images" / folder, channels=channels)
    return missing


def _require_same_channels(out: Path, channels: Channels) -> None:
    """Tiles that are there are kept, so with other channels they would not be what is asked for."""
    there: str = channels
    if (out / MARK).is_file():
        there = (out / MARK).read_text()
    elif (out / RECORD).is_file():  # of earlier versions
        there = json.loads((out / RECORD).read_bytes()).get("channels", channels)
    images = (out / "images").glob("*/*.png")
    if there != channels and any(TILE_NAME.match(path.name) for path in images):
        raise UsageError(
            f"{out} holds tiles with channels as '{there}', not '{channels}', and tiles that are "
            "there are kept: give another --out"
        )


def _on_tile(box_xywh: list[float]) -> bool:
    left, top, width, height = box_xywh
    inside = left < TILE_PX and top < TILE_PX and left + width >= 0 and top + height >= 0
    return inside and width >= 0 and height >= 0


def _with_folders(
    split: str, content: dict[str, Any], missing: set[tuple[str, str]]
) -> dict[str, Any]:
    """The content without missing images, its file names with their folder under images/."""
    folder = _folders(split)[0]
    images = [
        {**each, "file_name": f"{folder}/{each['file_name']}"}
        for each in content["images"]
        if (folder, each["file_name"]) not in missing
    ]
    there = {each["id"] for each in images}
    annotations = [
        each
        for each in content["annotations"]
        if each["image_id"] in there and _on_tile(each["bbox"])
    ]
    dropped = sum(not _on_tile(each["bbox"]) for each in content["annotations"])
    if dropped:
        log.warning("%s: %d boxes lie wholly outside their image: left out", split, dropped)
    return {"images": images, "annotations": annotations, "categories": content["categories"]}
