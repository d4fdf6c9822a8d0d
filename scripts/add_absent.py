"""Say of a partly labelled COCO set which further classes its images do not show.

    python scripts/add_absent.py --data DIR --absent scripts/tinyrs_absent.json --out DIR2

Where a class is neither labelled nor named absent, training learns nothing about it, and a model
may see vehicles on open water. The file names, for each split, sources and the classes that are
absent from all their images but those listed ("but", image ids). DIR2 gets the annotation files
with these classes in `neg_category_ids`, and a link to DIR's images. Nothing else changes.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from rstinynet.files import write_json


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train.json, val.json")
    parser.add_argument("--absent", type=Path, required=True, help="JSON file of rules by split")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    pictures = options.data / "images"
    for needed in (options.absent, pictures):
        if not needed.exists():
            raise SystemExit(f"{needed}: no such file or folder")
    by_split = json.loads(options.absent.read_text())["splits"]
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
        write_json(options.out / f"{split}.json", coco)
        print(f"{split}: {added} classes said to be absent, on {len(coco['images'])} images")
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(pictures.resolve(), options.out.resolve()))


if __name__ == "__main__":
    main()
