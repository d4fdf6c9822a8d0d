"""DIOR from a miniature look-alike of its folders."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from rstinynet.data.catalog import dior
from rstinynet.data.catalog.dior import prepare_dior
from rstinynet.data.catalog.prepared import Counts
from rstinynet.data.folder import open_split
from rstinynet.errors import DataError

EXPECTED = {"train": Counts(1), "val": Counts(1), "test": Counts(2), "all": Counts(4, 8)}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "DIOR"
    annotations = root / "Annotations" / "Horizontal Bounding Boxes"
    annotations.mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    split_of = {"00001": "train", "00002": "val", "11726": "test", "11727": "test"}
    for number, (name, split) in enumerate(split_of.items()):
        folder = root / ("JPEGImages-test" if split == "test" else "JPEGImages-trainval")
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{name}.jpg"), np.full((800, 800, 3), 30 * number, np.uint8))
        with (root / "ImageSets" / "Main" / f"{split}.txt").open("a") as file:
            file.write(f"{name}\n")
        objects = "".join(
            f"<object><name>{kind}</name><difficult>{number % 2}</difficult><bndbox>"
            f"<xmin>{x}</xmin><ymin>20</ymin><xmax>{x + 30}</xmax><ymax>40</ymax></bndbox></object>"
            for kind, x in (("Airplane", 10), ("expressway-toll-station", 100))
        )
        (annotations / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    return root


def test_the_folders_become_a_coco_folder(root, tmp_path):
    made = prepare_dior(root, tmp_path / "out", expected=EXPECTED)
    assert {name: each.images for name, each in made.splits.items()} == {
        "train": 1,
        "val": 1,
        "test": 2,
        "trainval": 2,
    }
    labelled = open_split(tmp_path / "out", "train")
    assert labelled.names == dior.CLASSES
    assert [labelled.names[label] for label in labelled.images[0].labels] == [
        "airplane",
        "Expressway-toll-station",
    ]
    np.testing.assert_allclose(labelled.images[0].boxes[0], [10, 20, 40, 40])
    assert open_split(tmp_path / "out", "val").images[0].crowd.all()  # difficult


def test_a_second_run_gives_the_same(root, tmp_path):
    first = prepare_dior(root, tmp_path / "out", expected=EXPECTED)
    before = (tmp_path / "out" / "train.json").read_bytes()
    assert prepare_dior(root, tmp_path / "out", expected=EXPECTED) == first
    assert (tmp_path / "out" / "train.json").read_bytes() == before


def test_what_is_missing_is_named(root, tmp_path):
    (root / "JPEGImages-test" / "11727.jpg").unlink()
    (root / "Annotations" / "Horizontal Bounding Boxes" / "00002.xml").unlink()
    whole = root / "JPEGImages-trainval" / "00001.jpg"
    whole.write_bytes(whole.read_bytes()[:-2])
    with pytest.raises(DataError) as caught:
        prepare_dior(root, tmp_path / "out", expected=EXPECTED)
    said = str(caught.value)
    for line in ("1 images: 11727.jpg", "1 annotations: 00002.xml", "800: 00001.jpg", "mirrors"):
        assert line in said
    assert not (tmp_path / "out").exists()
    made = prepare_dior(root, tmp_path / "out", allow_missing=True)
    assert made.missing == 3
    assert made.splits["test"] == Counts(1, 2)


def test_missing_lists_and_folders_are_named(tmp_path):
    (tmp_path / "DIOR").mkdir()
    with pytest.raises(DataError, match=r"ImageSets/Main/train\.txt"):
        prepare_dior(tmp_path / "DIOR", tmp_path / "out")


def test_the_published_counts_are_insisted_on(root, tmp_path):
    with pytest.raises(DataError, match="'train' has 1 images, the published set has 5862"):
        prepare_dior(root, tmp_path / "out")
    with pytest.raises(DataError, match="'all' has 8 boxes, the published set has 9"):
        prepare_dior(root, tmp_path / "out", expected={"all": Counts(4, 9)})
    assert len(dior.CLASSES) == 20
