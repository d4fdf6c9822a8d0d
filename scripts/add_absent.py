"""Say of a partly labelled COCO set which further classes its images do not show.

    python scripts/add_absent.py --data DIR --absent scripts/tinyrs_absent.json --out DIR2

Where a class is neither labelled nor named absent, training learns nothing about it, and a model
may see vehicles on open water. The file names, for each split, sources and the classes that are
absent from all their images but those listed ("but", image ids). It may also name objects that the
labels lack, as [image id, class, x, y, width, height, iscrowd] in pixels; with iscrowd 1, regions
to ignore. An image that has some of a class knows it, whatever the rules say. DIR2 gets the
annotation files with these classes in `neg_category_ids`, and a link to DIR's images. Nothing else
changes; splits that the file does not name are copied. DIR2 may be the DIR of another such file.
With `--alone` DIR2 gets only the images that the file adds objects or regions to, and only the
splits that it names: a set of its own to measure on. With `--times N` those images stand in the
set N times, so that training sees a few new ones more often.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from rstinynet.files import write_bytes, write_json


def add_absent(coco: dict[str, Any], rules: list[dict[str, Any]], path: Path) -> int:
    """Change `coco` in place; how many classes were added to images.

    Raises SystemExit where a rule names what is not there, or a class that an image has, and where
    the set is wholly labelled: one image with `neg_category_ids` would make the others partial.
    """
    if not any("neg_category_ids" in image for image in coco["images"]):
        raise SystemExit(f"{path}: no image has neg_category_ids, so that every class is known")
    ids = {category["name"]: category["id"] for category in coco["categories"]}
    there: dict[int, set[int]] = {}
    for annotation in coco["annotations"]:
        there.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
    added = 0
    for rule in rules:
        images = [image for image in coco["images"] if image.get("source") == rule["source"]]
        but = set(rule.get("but", ()))
        # Copies that --times made are excepted as their originals are.
        but |= {image["id"] for image in images if image.get("copy_of") in but}
        strange = but - {image["id"] for image in images}
        unknown = set(rule["absent"]) - set(ids)
        if not images or strange or unknown:
            raise SystemExit(
                f"{path}: no image of source {rule['source']!r}"
                if not images
                else f"{path}: not in source {rule['source']!r}: images {sorted(strange)}, "
                f"classes {sorted(unknown)}"
            )
        absent = {ids[name] for name in rule["absent"]}
        for image in images:
            if image["id"] in but:
                continue
            both = absent & there.get(image["id"], set())
            if both:
                raise SystemExit(
                    f"{path}: image {image['id']} has objects of classes {sorted(both)}, which the "
                    "rules call absent"
                )
            known = set(image.get("neg_category_ids", ()))
            added += len(absent - known)
            image["neg_category_ids"] = sorted(known | absent)
    return added


def add_objects(coco: dict[str, Any], objects: list[list[Any]], path: Path) -> int:
    """Change `coco` in place; how many objects and regions were added.

    Raises SystemExit where an image or class is not there, or a box not in its image.
    """
    ids = {category["name"]: category["id"] for category in coco["categories"]}
    images: dict[int, list[dict[str, Any]]] = {}
    for image in coco["images"]:
        # Copies that --times made show what their originals show.
        images.setdefault(image.get("copy_of", image["id"]), []).append(image)
    number = max((annotation["id"] for annotation in coco["annotations"]), default=0)
    for image_id, name, x, y, width, height, crowd in objects:
        if image_id not in images or name not in ids:
            raise SystemExit(f"{path}: no image {image_id} or no class {name!r}")
        for image in images[image_id]:
            right, bottom = x + width, y + height
            inside = x >= 0 and y >= 0 and right <= image["width"] and bottom <= image["height"]
            if not inside or width <= 0 or height <= 0:
                raise SystemExit(f"{path}: {[x, y, width, height]} is not in image {image_id}")
            number += 1
            coco["annotations"].append(
                {"id": number, "image_id": image["id"], "category_id": ids[name]}
                | {"iscrowd": crowd, "bbox": [x, y, width, height], "area": width * height}
            )
            known = image.get("neg_category_ids", ())
            image["neg_category_ids"] = [known_id for known_id in known if known_id != ids[name]]
    return len(objects)


def keep_alone(coco: dict[str, Any], objects: list[list[Any]]) -> None:
    """Change `coco` in place: only images that `objects` names stay, with all they have."""
    named = {image_id for image_id, *_ in objects}
    coco["images"] = [image for image in coco["images"] if image["id"] in named]
    coco["annotations"] = [each for each in coco["annotations"] if each["image_id"] in named]


def repeat(coco: dict[str, Any], objects: list[list[Any]], times: int) -> None:
    """Change `coco` in place: images that `objects` names stand in it so many times in all."""
    named = {image_id for image_id, *_ in objects}
    if not named:
        return
    images = [image for image in coco["images"] if image["id"] in named]
    annotations = [each for each in coco["annotations"] if each["image_id"] in named]
    for _ in range(times - 1):
        image_id = max(image["id"] for image in coco["images"])
        last = max(each["id"] for each in coco["annotations"])
        ids = {image["id"]: image_id + n for n, image in enumerate(images, 1)}
        coco["images"] += [
            image | {"id": ids[image["id"]], "copy_of": image["id"]} for image in images
        ]
        coco["annotations"] += [
            each | {"id": last + n, "image_id": ids[each["image_id"]]}
            for n, each in enumerate(annotations, 1)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train.json, val.json")
    parser.add_argument("--absent", type=Path, required=True, help="JSON file of rules by split")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--alone", action="store_true", help="only images that get objects")
    parser.add_argument("--times", type=int, default=1, help="how often those stand in the set")
    options = parser.parse_args()
    if options.times < 1:
        parser.error(f"--times must be at least 1, not {options.times}")
    pictures = options.data / "images"
    for needed in (options.absent, pictures):
        if not needed.exists():
            raise SystemExit(f"{needed}: no such file or folder")
    told = json.loads(options.absent.read_text())
    by_split, objects = told["splits"], told.get("objects", {})
    lost = sorted(split for split in objects.keys() - by_split.keys() if objects[split])
    if lost:
        raise SystemExit(
            f"{options.absent}: has objects of {', '.join(lost)}, of which 'splits' says nothing: "
            "name the split there, with [] for no rules"
        )
    if options.out.resolve() == options.data.resolve():
        raise SystemExit("--out is --data, whose labels would be lost; give another folder")
    link = options.out / "images"
    if os.path.lexists(link) and link.resolve() != pictures.resolve():
        raise SystemExit(f"{link} is there and is not {pictures}: give another --out")
    options.out.mkdir(parents=True, exist_ok=True)
    for split, rules in by_split.items():
        path = options.data / f"{split}.json"
        if not path.is_file():
            raise SystemExit(f"{path}: no such file; --data names the folder that holds it")
        coco = json.loads(path.read_text())
        added = add_absent(coco, rules, path)
        more = add_objects(coco, objects.get(split, []), path)
        if options.alone:
            keep_alone(coco, objects.get(split, []))
        repeat(coco, objects.get(split, []), options.times)
        write_json(options.out / f"{split}.json", coco)
        print(
            f"{split}: {added} classes said to be absent, on {len(coco['images'])} images; "
            f"{more} objects and regions added"
        )
    others = set() if options.alone else {"train", "val", "test"} - by_split.keys()
    for split in others:
        other = options.data / f"{split}.json"
        if other.is_file():
            write_bytes(options.out / other.name, other.read_bytes())
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(pictures.resolve(), options.out.resolve()))


if __name__ == "__main__":
    main()
