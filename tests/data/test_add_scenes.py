"""scripts/add_scenes.py: tiles of marked scenes beside a set's own images, and what it refuses."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from rstinynet.data.folder import open_split

SCENE = {
    "file": "town.tif",
    "source": "town",
    "factor": 2,
    "tile": 60,
    "overlap": 20,
    "absent": ["ship"],
    "objects": {"vehicle": [[50, 10, 8, 4], [58, 30, 8, 4]]},
    "ignore": {"vehicle": [[5, 70, 10, 10]]},
}


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("scripts/add_scenes.py")


@pytest.fixture
def data(partly_labelled, tmp_path):
    """Two images, one with a vehicle. Beside them a scene of 100 by 100 px."""
    folder = partly_labelled([(1, 6)], images=2)
    band = np.linspace(100, 2000, 100 * 100).reshape(100, 100).astype(np.uint16)
    profile = {"driver": "GTiff", "width": 100, "height": 100, "count": 1, "dtype": "uint16"}
    profile |= {"crs": "EPSG:32631", "transform": Affine(0.5, 0, 593270, 0, -0.5, 5747657)}
    with rasterio.open(tmp_path / "town.tif", "w", **profile) as raster:
        raster.write(band, 1)
    return folder


def run(script, monkeypatch, data, scene, *more):
    told = {"licence": {"name": "CC BY-SA 4.0", "url": ""}, "scenes": [scene]}
    (data.parent / "scenes.json").write_text(json.dumps(told))
    arguments = ["--data", data, "--scenes", data.parent / "scenes.json"]
    arguments += ["--rasters", data.parent, "--out", data.parent / "out", *more]
    monkeypatch.setattr(sys, "argv", ["add_scenes.py", *map(str, arguments)])
    script.main()
    return data.parent / "out"


def test_tiles_stand_beside_the_images(script, data, monkeypatch, capsys):
    out = run(script, monkeypatch, data, SCENE)
    # The first vehicle is whole in both upper tiles; the left one holds a quarter of the second.
    assert "train: 4 tiles with 3 objects added" in capsys.readouterr().out
    coco = json.loads((out / "train.json").read_text())
    tiles = {image["file_name"]: image for image in coco["images"] if image.get("source") == "town"}
    assert sorted(tiles) == [f"town_{x}_{y}.png" for x in (0, 40) for y in (0, 40)]
    boxes = {
        name: [
            (annotation["bbox"], annotation["iscrowd"])
            for annotation in coco["annotations"]
            if annotation["image_id"] == image["id"]
        ]
        for name, image in tiles.items()
    }
    assert boxes["town_0_0.png"] == [([100, 20, 16, 8], 0), ([116, 60, 4, 8], 1)]
    assert boxes["town_40_0.png"] == [([20, 20, 16, 8], 0), ([36, 60, 16, 8], 0)]
    assert boxes["town_0_40.png"] == [([10, 60, 20, 20], 1)]
    assert boxes["town_40_40.png"] == []
    assert tiles["town_40_40.png"]["neg_category_ids"] == [4, 6]
    assert tiles["town_0_0.png"]["neg_category_ids"] == [4]
    with Image.open(out / "images" / "town_40_40.png") as picture:
        assert (picture.size, picture.mode) == ((120, 120), "RGB")
        # Stretched: the brightest per cent of the scene, in its last row, is white.
        assert picture.getpixel((119, 119)) == (255, 255, 255)
    labelled = open_split(out, "train")
    assert [image.path.is_file() for image in labelled.images] == [True] * 6
    # Ships and vehicles are known on every tile, also where only a region is to be ignored.
    assert all(image.known.all() for image in labelled.images[2:])
    assert (out / "val.json").read_bytes() == (data / "val.json").read_bytes()
    assert len({annotation["id"] for annotation in coco["annotations"]}) == len(coco["annotations"])


def test_tiles_alone_are_a_split_to_measure_on(script, data, monkeypatch, capsys):
    (data / "val.json").write_bytes((data / "train.json").read_bytes())
    out = run(script, monkeypatch, data, SCENE, "--split", "val", "--alone")
    assert "val: 4 tiles with 3 objects added" in capsys.readouterr().out
    labelled = open_split(out, "val")
    assert len(labelled.images) == len(list((out / "images").iterdir())) == 4
    assert not (out / "train.json").exists()


def test_only_the_marked_part_is_cut(script, data, monkeypatch):
    part = {"part": [40, 5, 60, 50], "ignore": {"vehicle": []}}
    out = run(script, monkeypatch, data, SCENE | part)
    coco = json.loads((out / "train.json").read_text())
    (tile,) = (image for image in coco["images"] if image.get("source") == "town")
    assert tile["file_name"] == "town_40_5.png"
    boxes = [each["bbox"] for each in coco["annotations"] if each["image_id"] == tile["id"]]
    assert boxes == [[20, 10, 16, 8], [36, 50, 16, 8]]
    with Image.open(out / "images" / "town_40_5.png") as picture:
        assert picture.size == (120, 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "city.tif"}, "no such file"),
        ({"absent": ["submarine"]}, "no such classes"),
        ({"overlap": 60}, "overlap 60"),
        ({"ignore": {"vehicle": [[95, 95, 10, 4]]}}, "is not in 100 by 100 px"),
        ({"objects": {"vehicle": [[5, 5, 0, 4]]}}, "is not in 100 by 100 px"),
        ({"part": [40, 40, 61, 60]}, "61, 60. is not in 100 by 100 px"),
        ({"part": [0, 5, 100, 70]}, "5, 70, 10, 10. is not in 100 by 70 px at 0, 5"),
    ],
)
def test_what_cannot_be_added_is_refused_before_anything_is_written(
    script, data, monkeypatch, change, message
):
    with pytest.raises(SystemExit, match=message):
        run(script, monkeypatch, data, SCENE | change)
    assert not (data.parent / "out").exists()


def test_what_is_there_is_kept(script, data, monkeypatch):
    (data.parent / "out").mkdir()
    with pytest.raises(SystemExit, match="is there"):
        run(script, monkeypatch, data, SCENE)


def test_a_wholly_labelled_set_is_not_made_a_partly_labelled_one(script, data, monkeypatch):
    content = json.loads((data / "train.json").read_text())
    for image in content["images"]:
        del image["neg_category_ids"]
    (data / "train.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="wholly labelled"):
        run(script, monkeypatch, data, SCENE)
    assert not (data.parent / "out").exists()
    run(script, monkeypatch, data, SCENE, "--alone")
