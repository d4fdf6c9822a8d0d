"""`rstinynet data` end to end on made data: exit codes, JSON, files."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest

from rstinynet.cli import main as program
from rstinynet.data.convert import open_any, splits_of_any
from rstinynet.data.folder import open_split
from rstinynet.data.synthetic import make_synthetic


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "made"
    make_synthetic(folder, images=4, size=96)
    make_synthetic(folder, images=2, size=96, split="val")
    return folder


def run(capsys, *arguments):
    code = program.run(["data", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize("verb", ["prepare", "check", "convert", "split", "stats"])
def test_every_verb_has_help(verb, capsys):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert f"rstinynet data {verb}" in out


def test_an_unknown_verb_is_suggested_one(capsys):
    code, _, err = run(capsys, "chek")
    assert code == 2
    assert "no such command: chek; did you mean check?" in err


def test_check_exits_with_3_when_a_run_would_be_spoilt(folder, tmp_path, capsys):
    code, out, _ = run(capsys, "check", folder, "--json")
    assert code == 0
    assert json.loads(out)["errors"] == 0
    cv2.imwrite(str(folder / "images" / "val_0000.png"), np.zeros((40, 40, 3), np.uint8))
    page = tmp_path / "page.html"
    code, out, err = run(capsys, "check", folder, "--json", "--html", page)
    assert code == 3
    assert json.loads(out)["findings"][-1]["kind"] == "mis-sized images"
    assert "would spoil a training run" in err
    assert "40 x 40" in page.read_text()
    code, out, _ = run(capsys, "check", folder)
    assert code == 3
    assert "error: val: 1 images are of another size" in out
    assert run(capsys, "check", folder, "--split", "train")[0] == 0


def test_stats_count_by_class_and_size(folder, capsys):
    code, out, _ = run(capsys, "stats", folder, "--json")
    found = json.loads(out)
    boxes = sum(len(image.boxes) for image in open_split(folder, "train").images)
    assert code == 0
    assert set(found) == {"train", "val"}
    assert sum(found["train"]["classes"].values()) == boxes
    code, out, _ = run(capsys, "stats", folder, "--split", "val")
    assert code == 0
    assert "very tiny" in out


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc", "dota"])
def test_convert_there_and_back(folder, tmp_path, kind, capsys):
    code, out, _ = run(capsys, "convert", folder, "--out", tmp_path / kind, "--to", kind, "--json")
    assert code == 0
    lost = json.loads(out)["lost"]
    assert set(lost) == {"train", "val"}
    assert bool(lost["train"]) == (kind != "coco")  # the made set's category ids are 1 and 4
    back = tmp_path / "back"
    code, _, _ = run(capsys, "convert", tmp_path / kind, "--out", back, "--to", "coco", "--link")
    assert code == 0
    for split in ("train", "val"):
        before, after = open_split(folder, split), open_split(back, split)
        assert after.names == before.names
        for one, other in zip(before.images, after.images, strict=True):
            np.testing.assert_allclose(other.boxes, one.boxes, atol=1e-3)
            np.testing.assert_array_equal(other.labels, one.labels)


def test_split_by_prefix_is_reproducible(folder, tmp_path, capsys):
    options = ("--shares", "train=3,test=1", "--seed", "5", "--prefix", "10", "--json")
    code, out, _ = run(capsys, "split", folder, "--out", tmp_path / "a", *options)
    assert code == 0
    assert json.loads(out)["splits"] == {
        "train": {"images": 3, "groups": 3},
        "test": {"images": 1, "groups": 1},
    }
    run(capsys, "split", folder, "--out", tmp_path / "b", *options)
    for split in ("train", "test"):
        one, other = (open_split(tmp_path / name, split) for name in "ab")
        assert [i.id for i in one.images] == [i.id for i in other.images]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--shares", "train"), "like train=0.8"),
        (("--shares", "train=0.5,extra=0.5"), "not 'extra'"),
        (("--prefix", "3", "--block", "9"), "one of --group"),
        (("--shares", "train=0.5,train=0.5"), "'train' twice"),
    ],
)
def test_split_options_that_make_no_sense(folder, tmp_path, arguments, says, capsys):
    code, _, err = run(capsys, "split", folder, "--out", tmp_path / "out", *arguments)
    assert code == 2
    assert says in err


def test_prepare_names_what_is_missing(tmp_path, capsys):
    (tmp_path / "parts").mkdir()
    for arguments in (
        ("aitod", "--parts", tmp_path / "parts"),
        ("dior", "--root", tmp_path / "parts"),
    ):
        code, _, err = run(capsys, "prepare", *arguments, "--out", tmp_path / "out")
        assert code == 3
        assert "cannot be prepared yet" in err
        assert "Where it is to be had" in err
    assert not (tmp_path / "out").exists()


def test_prepare_dior_end_to_end(tmp_path, capsys):
    root = tmp_path / "DIOR"
    for folder in ("JPEGImages-trainval", "JPEGImages-test", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, split in (("1", "train"), ("2", "val"), ("3", "test")):
        folder = "JPEGImages-test" if split == "test" else "JPEGImages-trainval"
        cv2.imwrite(str(root / folder / f"{name}.jpg"), np.zeros((800, 800, 3), np.uint8))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{name}\n")
        corners = "<xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>36</ymax>"
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><object><name>Ship</name><bndbox>{corners}</bndbox></object></annotation>"
        )
    arguments = ("prepare", "dior", "--root", root, "--out", tmp_path / "out")
    code, _, err = run(capsys, *arguments)
    assert code == 3
    assert "the published set has 5862" in err
    code, out, _ = run(capsys, *arguments, "--allow-missing", "--json")
    assert code == 0
    assert json.loads(out)["splits"]["trainval"] == {"images": 2, "boxes": 2}
    assert run(capsys, "check", tmp_path / "out", "--no-images")[0] == 0


def test_no_split_at_all(tmp_path, capsys):
    code, _, err = run(capsys, "stats", tmp_path)
    assert code == 3
    assert "no train, val or test" in err


def test_check_asks_for_the_anchors_of_named_models(folder, capsys):
    _, out, _ = run(
        capsys, "check", folder, "--json", "--model", "yolo11n", "--model", "yolo11n-p2"
    )
    shares = json.loads(out)["stats"]["train"]["no_anchor"]
    assert list(shares) == ["yolo11n", "yolo11n-p2"]
    assert shares["yolo11n"] >= shares["yolo11n-p2"]
    code, _, err = run(capsys, "check", folder, "--model", "yolo11q")
    assert code == 2
    assert "did you mean yolo11" in err


@pytest.mark.parametrize(
    "verb", [("convert", "--to", "coco"), ("split", "--seed", "1"), ("tile", "--overlap", "20")]
)
def test_no_verb_writes_over_the_data_that_it_reads(folder, verb, capsys):
    before = (folder / "train.json").read_bytes()
    code, _, err = run(capsys, verb[0], folder, "--out", folder / "images" / "..", *verb[1:])
    assert code == 2
    assert "another folder" in err
    assert (folder / "train.json").read_bytes() == before


WRITERS = [
    *(("convert", "--to", kind) for kind in ("coco", "yolo", "voc", "dota", "csv")),
    ("split", "--prefix", "10"),
    ("tile", "--tile", "64", "--overlap", "0"),
]


@pytest.mark.parametrize("verb", WRITERS, ids=lambda verb: " ".join(verb))
def test_a_folder_with_labels_of_another_split_is_refused(folder, tmp_path, verb, capsys):
    out = tmp_path / "out"
    arguments = (verb[0], folder, "--out", out, *verb[1:])
    assert run(capsys, *arguments)[0] == 0
    first = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run(capsys, *arguments)[0] == 0  # again is no fault
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == first
    for old in ("test.json", "annotations/extra.csv", "test/labelTxt/a.txt"):
        (out / old).parent.mkdir(parents=True, exist_ok=True)
        (out / old).write_text("")
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert f"{out} holds a data set" in err
        assert old in err
        assert "new folder" in err
        (out / old).unlink()


@pytest.mark.parametrize("kind", ["yolo", "dota"])
def test_images_that_would_count_as_labelled_are_refused(folder, tmp_path, kind, capsys):
    out = tmp_path / "out"
    old = out / {"yolo": "images/val", "dota": "val/images"}[kind] / "old.png"
    old.parent.mkdir(parents=True)
    cv2.imwrite(str(old), np.zeros((9, 9, 3), np.uint8))
    code, _, err = run(capsys, "convert", folder, "--out", out, "--to", kind)
    assert code == 2
    assert str(old.relative_to(out)) in err


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc", "dota", "csv"])
@pytest.mark.parametrize("early", [True, False])
def test_a_conversion_that_fails_leaves_no_set(folder, tmp_path, kind, early, capsys):
    if early:  # in reading
        (folder / "val.json").write_text("{}")
    else:  # in writing
        out = {"voc": "JPEGImages", "dota": "val/images"}.get(kind, "images/val")
        (tmp_path / "out" / out).mkdir(parents=True)
        (tmp_path / "out" / out / "val_0000.png").write_bytes(b"another")
    code, _, _ = run(capsys, "convert", folder, "--out", tmp_path / "out", "--to", kind)
    assert code == 3
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.suffix for path in left} <= {".png"}
    assert splits_of_any(tmp_path / "out") == []


def test_tiles_without_their_last_split_are_no_set(folder, tmp_path, capsys):
    (folder / "val.json").write_text("{}")
    out = tmp_path / "out"
    code, _, _ = run(capsys, "tile", folder, "--out", out, "--tile", "64", "--overlap", "0")
    assert code == 3
    assert not list(out.rglob("*.json"))


def test_a_page_that_cannot_be_written_is_told_by_its_name(folder, capsys):
    code, _, err = run(capsys, "check", folder, "--no-images", "--html", folder)
    assert code == 2
    assert f"--html {folder} is a folder" in err


PLACES = [
    ("convert", "--to", "coco"),
    ("split",),
    ("tile",),
    ("prepare", "dior", "--root"),
    ("prepare", "aitod", "--parts"),
]


@pytest.mark.parametrize("verb", PLACES, ids=lambda verb: " ".join(verb))
@pytest.mark.parametrize("place", ["file", "file/deeper"])
def test_places_that_cannot_be_written_are_told_first(folder, tmp_path, verb, place, capsys):
    (tmp_path / "file").write_text("mine")
    arguments = (*verb, folder) if verb[0] == "prepare" else (verb[0], folder, *verb[1:])
    code, _, err = run(capsys, *arguments, "--out", tmp_path / place)
    assert code == 2
    assert f"--out {tmp_path / place} cannot be written: {tmp_path / 'file'} is a file" in err
    code, out, err = run(capsys, "check", folder, "--html", tmp_path / "file" / "page.html")
    assert code == 2
    assert "--html" in err
    assert not out


@pytest.mark.parametrize("kind", ["coco", "yolo", "dota", "voc", "csv"])
def test_images_with_names_of_any_bytes(folder, tmp_path, kind, capsys):
    content = json.loads((folder / "train.json").read_text())
    odd = os.fsdecode(b"caf\xe9.png")
    (folder / "images" / content["images"][0]["file_name"]).rename(folder / "images" / odd)
    content["images"][0]["file_name"] = odd
    (folder / "train.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    code, _, err = run(capsys, "convert", folder, "--out", out, "--to", kind)
    if kind in ("voc", "csv"):
        assert code == 3
        assert r"caf\udce9.png': the name is not UTF-8" in err
    else:
        assert code == 0
        assert odd in {image.path.name for image in open_any(out, "train").images}
    assert run(capsys, "split", folder, "--prefix", "3", "--out", tmp_path / "parts")[0] == 0


def test_a_seed_below_0(folder, tmp_path, capsys):
    for seed, right in (("-1", 2), ("9" * 40, 0)):
        code, _, err = run(capsys, "split", folder, "--out", tmp_path / seed, "--seed", seed)
        assert code == right
        assert right == 0 or "seed must be 0 or more, not -1" in err


@pytest.mark.parametrize("group", [(), ("prepare",)])
def test_a_missing_command_is_told(group, capsys):
    code, out, err = run(capsys, *group)
    assert code == 2
    assert "a command is missing, one of" in err
    assert ("aitod, dior" if group else "check, stats") in err
    assert not out


def test_what_is_not_there_is_told_with_its_place(folder, tmp_path, capsys):
    code, _, err = run(capsys, "stats", tmp_path / "nope")
    assert code == 3
    assert f"data not found: {tmp_path / 'nope'}" in err
    code, _, err = run(capsys, "stats", tmp_path)
    assert code == 3
    assert "looked for train.json" in err
    assert "found made" in err
    listed = folder / "data.yaml"
    for path, told in (
        ("lost", f"'path' leads to {folder / 'lost'}, where there is no folder"),
        (".", f"'train' leads to {folder / 'a/train'}, where there is nothing"),
    ):
        listed.write_text(f"path: {path}\ntrain: a/train\nval: val.json\nnames: [ship]\n")
        code, _, err = run(capsys, "stats", listed)
        assert code == 3
        assert f"{listed}: {told}" in err


@pytest.mark.parametrize("kind", ["yolo", "voc", "dota", "csv"])
def test_check_reads_every_format(folder, kind, tmp_path, capsys):
    assert run(capsys, "convert", folder, "--out", tmp_path / kind, "--to", kind)[0] == 0
    code, out, _ = run(capsys, "check", tmp_path / kind, "--json")
    assert code == 0
    assert set(json.loads(out)["stats"]) == {"train", "val"}


def test_check_calls_endlessly_nested_json_unusable(folder, capsys):
    (folder / "val.json").write_text("[" * 200_000)
    code, out, _ = run(capsys, "check", folder, "--no-images")
    assert code == 3
    assert "unusable annotations" in out or "not valid JSON" in out
