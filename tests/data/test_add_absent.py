"""scripts/add_absent.py: classes that images are said not to show, and what it refuses."""

from __future__ import annotations

import json
import sys

import pytest

from rstinynet.data.folder import open_split

STREET = {"source": "street", "absent": ["ship"]}


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("scripts/add_absent.py")


@pytest.fixture
def data(partly_labelled):
    """Three images: 1 and 2 of streets, 3 of a harbour; vehicles are known on 1, ships on 3."""
    return partly_labelled([(1, 6), (3, 4)], images=3, sources=["street", "street", "harbour"])


def run(script, monkeypatch, data, rules, out="out", objects=(), more=()):
    told = {"splits": rules, "objects": {"train": list(objects)}}
    (data / "rules.json").write_text(json.dumps(told))
    arguments = ["--data", data, "--absent", data / "rules.json", "--out", data.parent / out, *more]
    monkeypatch.setattr(sys, "argv", ["add_absent.py", *map(str, arguments)])
    script.main()
    return data.parent / out


def test_classes_become_known_but_on_listed_images(script, data, monkeypatch, capsys):
    assert [image.known.tolist() for image in open_split(data, "train").images] == [
        [False, True],
        [False, False],
        [True, False],
    ]
    harbour = {"source": "harbour", "absent": ["vehicle"], "but": [3]}
    street = STREET | {"absent": ["ship"], "but": [2]}
    out = run(script, monkeypatch, data, {"train": [street, harbour]})
    assert "train: 1 classes said to be absent, on 3 images" in capsys.readouterr().out
    labelled = open_split(out, "train")
    assert [image.known.tolist() for image in labelled.images] == [
        [True, True],
        [False, False],
        [True, False],
    ]
    assert labelled.images[0].path.is_file()
    # A split that the rules do not name is there too, as it was.
    assert (out / "val.json").read_bytes() == (data / "val.json").read_bytes()
    again = run(script, monkeypatch, out, {"train": [street, harbour]}, out="again")
    assert json.loads((again / "train.json").read_text()) == json.loads(
        (out / "train.json").read_text()
    )


def test_objects_that_the_labels_lack_are_added(script, data, monkeypatch, capsys):
    harbour = {"source": "harbour", "absent": ["vehicle"]}
    more = [[2, "vehicle", 4, 5, 6, 7, 0], [2, "vehicle", 30, 30, 20, 20, 1]]
    more.append([3, "vehicle", 0, 0, 9, 9, 1])
    out = run(script, monkeypatch, data, {"train": [STREET, harbour]}, objects=more)
    assert "3 objects and regions added" in capsys.readouterr().out
    street, quay = open_split(out, "train").images[1:]
    assert street.known.tolist() == [True, True]
    assert street.boxes.tolist() == [[4, 5, 10, 12], [30, 30, 50, 50]]
    assert street.crowd.tolist() == [False, True]
    # Regions to ignore alone: the rest of the image is known to be without.
    assert quay.known.tolist() == [True, True]
    assert quay.crowd.tolist() == [False, True]


def test_alone_only_images_with_added_objects_stay(script, data, monkeypatch):
    more = [[2, "vehicle", 4, 5, 6, 7, 0], [3, "vehicle", 0, 0, 9, 9, 1]]
    out = run(script, monkeypatch, data, {"train": [STREET]}, objects=more, more=["--alone"])
    street, quay = open_split(out, "train").images
    assert street.boxes.tolist() == [[4, 5, 10, 12]]
    assert quay.known.tolist() == [True, True]
    assert set(quay.labels.tolist()) == {0, 1}
    assert not (out / "val.json").exists()


def test_images_with_added_objects_may_stand_in_the_set_more_often(script, data, monkeypatch):
    more = [[2, "vehicle", 4, 5, 6, 7, 0], [2, "vehicle", 30, 30, 20, 20, 1]]
    out = run(script, monkeypatch, data, {"train": [STREET]}, objects=more, more=["--times", 3])
    images = open_split(out, "train").images
    streets = [image for image in images if image.path == images[1].path]
    assert len(images) == 5
    assert len({image.id for image in images}) == 5
    assert [image.boxes.tolist() for image in streets] == 3 * [[[4, 5, 10, 12], [30, 30, 50, 50]]]
    assert [image.crowd.tolist() for image in streets] == 3 * [[False, True]]
    with pytest.raises(SystemExit):
        run(script, monkeypatch, data, {"train": [STREET]}, out="none", more=["--times", 0])


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ([9, "vehicle", 4, 5, 6, 7, 0], "no image 9"),
        ([1, "car", 4, 5, 6, 7, 0], "no class 'car'"),
        ([1, "vehicle", 60, 5, 6, 7, 0], r"\[60, 5, 6, 7\] is not in image 1"),
    ],
)
def test_objects_that_cannot_be_are_refused(script, data, monkeypatch, added, message):
    with pytest.raises(SystemExit, match=message):
        run(script, monkeypatch, data, {"train": [STREET]}, objects=[added])
    assert not (data.parent / "out" / "train.json").exists()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"train": [STREET | {"absent": ["vehicle"]}]}, "image 1 has objects"),
        ({"train": [STREET | {"source": "moon"}]}, "no image of source 'moon'"),
        ({"train": [STREET | {"but": [3]}]}, r"not in source 'street': images \[3\]"),
        ({"train": [STREET | {"absent": ["car"]}]}, r"classes \['car'\]"),
        ({"test": [STREET]}, "test.json: no such file"),
    ],
)
def test_rules_that_contradict_the_labels_are_refused(script, data, monkeypatch, rules, message):
    with pytest.raises(SystemExit, match=message):
        run(script, monkeypatch, data, rules)
    assert not (data.parent / "out" / "train.json").exists()


def test_the_labels_given_are_not_overwritten(script, data, monkeypatch):
    with pytest.raises(SystemExit, match="--out is --data"):
        run(script, monkeypatch, data, {"train": [STREET]}, out=data.name)


def test_a_wholly_labelled_set_is_refused(script, data, monkeypatch):
    whole = json.loads((data / "train.json").read_text())
    for image in whole["images"]:
        del image["neg_category_ids"]
    (data / "train.json").write_text(json.dumps(whole))
    with pytest.raises(SystemExit, match="every class is known"):
        run(script, monkeypatch, data, {"train": [STREET]})
    assert not (data.parent / "out" / "train.json").exists()


def test_images_of_another_set_are_not_kept(script, data, monkeypatch, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "images").symlink_to(tmp_path)
    with pytest.raises(SystemExit, match="is there and is not"):
        run(script, monkeypatch, data, {"train": [STREET]})
    assert not (out / "train.json").exists()
    (data / "images").unlink()
    with pytest.raises(SystemExit, match="images: no such file or folder"):
        run(script, monkeypatch, data, {"train": [STREET]}, out="other")


def test_copies_are_excepted_as_their_originals_are(script, data, monkeypatch):
    marks = [[2, "vehicle", 5, 5, 4, 4, 0]]
    out = run(script, monkeypatch, data, {"train": []}, objects=marks, more=["--times", "3"])
    rules = {"train": [STREET | {"absent": ["ship", "vehicle"], "but": [1, 2]}]}
    again = run(script, monkeypatch, out, rules, out="again")
    known = [image["neg_category_ids"] for image in images_of(again)]
    assert known == [image["neg_category_ids"] for image in images_of(out)]


def test_copies_get_objects_as_their_originals_do(script, data, monkeypatch):
    marks = [[2, "vehicle", 5, 5, 4, 4, 0]]
    out = run(script, monkeypatch, data, {"train": []}, objects=marks, more=["--times", "2"])
    ships = [[2, "ship", 20, 20, 6, 3, 0]]
    again = run(script, monkeypatch, out, {"train": [STREET]}, out="again", objects=ships)
    two = [image for image in open_split(again, "train").images if image.id in (2, 4)]
    assert [image.labels.tolist() for image in two] == [[1, 0], [1, 0]]
    assert [image["neg_category_ids"] for image in images_of(again)][1::2] == [[], []]
    annotations = json.loads((again / "train.json").read_text())["annotations"]
    assert len({each["id"] for each in annotations}) == len(annotations)


def images_of(folder):
    return json.loads((folder / "train.json").read_text())["images"]


def test_a_split_without_labels_is_no_trouble_and_one_without_rules_is_said(
    script, data, monkeypatch
):
    content = json.loads((data / "val.json").read_text())
    for image in content["images"]:
        image["neg_category_ids"] = [4]
    (data / "val.json").write_text(json.dumps(content | {"annotations": []}))
    marks = [[2, "vehicle", 5, 5, 4, 4, 0]]
    rules = {"train": [], "val": []}
    out = run(script, monkeypatch, data, rules, objects=marks, more=["--times", "2"])
    assert len(images_of(out)) == 4
    with pytest.raises(SystemExit, match="has objects of train, of which 'splits' says nothing"):
        run(script, monkeypatch, data, {"val": []}, objects=marks, out="other")
