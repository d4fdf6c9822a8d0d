"""Where a split is looked for, and what is said when it is not there."""

from __future__ import annotations

import pytest
import yaml

from rstinynet.data.folder import open_split
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import DataError


@pytest.fixture
def data(tmp_path):
    make_synthetic(tmp_path, images=2, size=64)
    return tmp_path


def test_a_folder_with_json_and_images(data):
    assert len(open_split(data, "train")) == 2


def test_annotations_and_images_in_folders_of_their_own(data):
    (data / "annotations").mkdir()
    (data / "train.json").rename(data / "annotations" / "train.json")
    (data / "images").rename(data / "train")
    (data / "images").mkdir()
    (data / "train").rename(data / "images" / "train")
    labelled = open_split(data, "train")
    assert labelled.images[0].path.parent == data / "images" / "train"


@pytest.mark.parametrize(
    "names", [None, ["vehicle", "storage-tank"], {0: "storage-tank", 1: "vehicle"}]
)
def test_a_data_yaml(data, names):
    content = {"path": "..", "train": "train.json"}
    if names is not None:
        content["names"] = names
    (data / "conf").mkdir()
    path = data / "conf" / "data.yaml"
    path.write_text(yaml.safe_dump(content))
    assert open_split(path, "train").names == ("storage-tank", "vehicle")


def test_a_folder_whose_data_yaml_names_the_file(data):
    (data / "train.json").rename(data / "other.json")
    (data / "data.yaml").write_text("train: other.json\n")
    assert len(open_split(data, "train")) == 2


def test_the_error_names_what_was_looked_for_and_what_is_there(data):
    with pytest.raises(
        DataError, match=r"looked for val\.json, annotations/val\.json.*train\.json"
    ):
        open_split(data, "val")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- 1", "must be a mapping"),
        ("a: [", "cannot be read as YAML"),
        ("val: val.json", r"no entry 'train'; it has \['val'\]"),
        ("train: 3", "'train' must be a path"),
        ("train: images", "'names' must list the classes"),
        ("train: data.yaml", "must be a COCO JSON file"),
        ("train: gone.json", r"'train' leads to .*gone\.json, where there is nothing"),
        ("train: train.json\nnames: [ship]", "'names'"),
    ],
)
def test_a_broken_data_yaml(data, text, says):
    path = data / "data.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        open_split(path, "train")


def test_neither_folder_nor_yaml(data):
    with pytest.raises(DataError, match="data not found"):
        open_split(data / "none", "train")
    with pytest.raises(DataError, match=r"neither a data folder nor a data\.yaml"):
        open_split(data / "train.json", "train")
