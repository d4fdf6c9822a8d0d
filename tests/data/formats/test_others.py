"""YOLO, VOC and DOTA: there and back, what is lost, and every way a file can be broken."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml

from rstinynet.data.annotations import Category
from rstinynet.data.convert import open_any, write_as
from rstinynet.data.folder import open_split
from rstinynet.data.formats.common import image_size
from rstinynet.data.formats.dota import read_dota, write_dota
from rstinynet.data.formats.voc import parse_xml, read_voc_folder, write_voc
from rstinynet.data.formats.yolo import read_yolo, write_yolo
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import DataError


@pytest.fixture
def labelled(tmp_path):
    make_synthetic(tmp_path / "made", images=3, size=64)
    found = open_split(tmp_path / "made", "train")
    return replace(found, categories=(Category(1, "storage-tank"), Category(2, "vehicle")))


@pytest.fixture
def fine(labelled):
    """The set with fractions of a pixel in its boxes."""
    images = tuple(
        replace(
            each,
            boxes=each.boxes + np.float32(0.3),
            areas=np.prod(each.boxes[:, 2:] - each.boxes[:, :2], axis=1).astype(np.float64),
        )
        for each in labelled.images
    )
    return replace(labelled, images=images)


def write_and_read(kind, labelled, out):
    if kind == "yolo":
        return write_yolo(labelled, out), read_yolo(out / "data.yaml", "train")
    if kind == "voc":
        return write_voc(labelled, out), read_voc_folder(out, "train")
    return write_dota(labelled, out), read_dota(out)


@pytest.mark.parametrize("kind", ["yolo", "voc", "dota"])
def test_there_and_back_is_lossless(kind, labelled, tmp_path):
    lost, back = write_and_read(kind, labelled, tmp_path / "out")
    assert lost == []
    assert back.names == labelled.names
    assert len(back) == len(labelled)
    for before, after in zip(labelled.images, back.images, strict=True):
        assert (after.width, after.height) == (64, 64)
        np.testing.assert_allclose(after.boxes, before.boxes, atol=1e-4)
        np.testing.assert_array_equal(after.labels, before.labels)
        assert after.path.read_bytes() == before.path.read_bytes()


@pytest.mark.parametrize("kind", ["yolo", "voc", "dota"])
def test_fractions_of_a_pixel_come_back(kind, fine, tmp_path):
    lost, back = write_and_read(kind, fine, tmp_path / "out")
    np.testing.assert_allclose(
        back.images[0].boxes, np.minimum(fine.images[0].boxes, 64), atol=1e-3
    )
    assert any("fractions" in each for each in lost) == (kind == "voc")


@pytest.mark.parametrize("kind", ["yolo", "voc", "dota"])
def test_what_is_lost_is_said(kind, labelled, tmp_path):
    first, *rest = labelled.images
    crowd = np.zeros(len(first.boxes), np.bool_)
    crowd[0] = True
    known = np.array([True, False])
    broken = replace(first, crowd=crowd, areas=first.areas * 2, known=known, exhaustive=known)
    ids = (Category(4, "storage-tank"), Category(9, "vehicle"))
    marked = replace(labelled, images=(broken, *rest), categories=ids)
    lost, back = write_and_read(kind, marked, tmp_path / "out")
    said = " ".join(lost)
    for word in ("category ids", "1 crowd region", "partial labels of 1", "own area of"):
        assert word in said
    assert len(back.images[0].boxes) == len(first.boxes) - (kind == "yolo")
    assert int(back.images[0].crowd.sum()) == (kind != "yolo")


def test_two_splits_share_a_data_yaml_and_open_split_reads_it(labelled, tmp_path):
    write_yolo(labelled, tmp_path / "out", split="train")
    write_yolo(labelled, tmp_path / "out", split="val", link=True)
    for split in ("train", "val"):
        assert len(open_split(tmp_path / "out", split)) == 3
        assert len(open_split(tmp_path / "out" / "data.yaml", split)) == 3
    other = replace(labelled, categories=(Category(1, "a"), Category(2, "b")))
    with pytest.raises(DataError, match="has the classes"):
        write_yolo(other, tmp_path / "out", split="test")


def test_lists_of_images_and_of_folders(labelled, tmp_path):
    write_yolo(labelled, tmp_path, split="train")
    listed = sorted(path.name for path in (tmp_path / "images" / "train").iterdir())
    (tmp_path / "two.txt").write_text("".join(f"./images/train/{name}\n" for name in listed[:2]))
    path = tmp_path / "data.yaml"
    path.write_text("names: [storage-tank, vehicle]\ntrain: [two.txt]\nval: [images/train]\n")
    assert len(open_split(path, "train")) == 2
    assert len(read_yolo(path, "val")) == 3


def test_two_images_of_one_name_keep_both(labelled, tmp_path):
    first = labelled.images[0]
    (tmp_path / "other").mkdir()
    moved = tmp_path / "other" / first.path.name
    moved.write_bytes(labelled.images[1].path.read_bytes())
    twice = replace(labelled, images=(first, replace(first, id=77, path=moved)))
    write_yolo(twice, tmp_path / "out")
    back = read_yolo(tmp_path / "out" / "data.yaml", "train")
    assert len({image.path.read_bytes() for image in back.images}) == 2


@pytest.mark.parametrize("kind", ["yolo", "voc", "dota"])
def test_names_that_differ_in_case_or_suffix_alone_keep_their_labels(kind, labelled, tmp_path):
    images = []
    for number, (name, image) in enumerate(
        zip(["a.png", "a.tif", "A.png"], labelled.images, strict=True), 1
    ):
        path = tmp_path / str(number) / name
        path.parent.mkdir()
        cv2.imwrite(str(path), cv2.imread(str(image.path)))
        images.append(replace(image, path=path, id=number))
    clash = replace(images[0], path=tmp_path / "4" / "a_1.png", id=4)
    clash.path.parent.mkdir()
    clash.path.write_bytes(images[0].path.read_bytes())
    out = tmp_path / "out"
    _, back = write_and_read(kind, replace(labelled, images=(*images, clash)), out)
    stems = [image.path.stem.casefold() for image in back.images]
    assert len(set(stems)) == 4
    expected = sorted(image.boxes.tolist() for image in (*images, clash))
    found = sorted(image.boxes.round(3).tolist() for image in back.images)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0 0.5 0.5 x 0.1", "must be numbers"),
        ("0 0.5 0.5 0.1", "4 numbers; a line has"),
        ("7 0.5 0.5 0.1 0.1", "class 7 is not in 'names'"),
        ("0.5 0.5 0.5 0.1 0.1", r"class 0\.5 is not in 'names'"),
        ("0 20 20 5 5", "not shares of the image"),
        ("0 nan 0.5 0.1 0.1", "not shares of the image"),
    ],
)
def test_broken_yolo_lines_are_named(line, says, labelled, tmp_path):
    write_yolo(labelled, tmp_path)
    (tmp_path / "labels" / "train" / "train_0000.txt").write_text(f"\n{line}\n")
    with pytest.raises(DataError, match=rf"train_0000\.txt, line 2: .*{says}"):
        read_yolo(tmp_path / "data.yaml", "train")


@pytest.mark.parametrize("names", [["ship", "ship"], ["ship", ""], {0: "ship", 1: "ship"}])
def test_yolo_classes_are_told_apart(names, labelled, tmp_path):
    write_yolo(labelled, tmp_path)
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"names": names}))
    with pytest.raises(DataError, match=r"data\.yaml: 'names' must differ"):
        read_yolo(path, "train")


def test_a_polygon_becomes_its_upright_box_and_no_file_is_no_object(labelled, tmp_path):
    write_yolo(labelled, tmp_path)
    labels = tmp_path / "labels" / "train"
    (labels / "train_0000.txt").write_text("1 0.25 0.25 0.75 0.5 0.5 0.75\n")
    (labels / "train_0001.txt").unlink()
    back = read_yolo(tmp_path / "data.yaml", "train")
    np.testing.assert_allclose(back.images[0].boxes, [[16, 16, 48, 48]])
    assert len(back.images[1].boxes) == 0


BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>20</ymax></bndbox>"


def test_voc_counts_from_one_and_knows_difficult(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        f"<annotation><object><name>ship</name><difficult>1</difficult>{BOX}</object></annotation>"
    )
    assert parse_xml(path) == [("ship", (0, 1, 10, 20), True)]
    assert parse_xml(path, first_pixel=0) == [("ship", (1, 2, 10, 20), True)]


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]>'
    "<annotation>&y;</annotation>"
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "unsafe XML"),
        ("<annotation><object>", "not readable as XML"),
        (f"<annotation><object>{BOX}</object></annotation>", "object 1: has no 'name'"),
        ("<annotation><object><name>a</name></object></annotation>", "'xmin' must be a number"),
        (
            "<annotation><object><name>a</name>"
            + BOX.replace("10<", "0<")
            + "</object></annotation>",
            "inside out",
        ),
    ],
)
def test_broken_xml_is_named(text, says, tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        parse_xml(path)


def test_a_voc_list_cannot_lead_out_of_its_folder(labelled, tmp_path):
    write_voc(labelled, tmp_path)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("../secret\n")
    with pytest.raises(DataError, match="not the plain name"):
        read_voc_folder(tmp_path, "train")


def test_dota_takes_the_upright_box_of_four_corners(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labelTxt").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "P1.png"), np.zeros((40, 50, 3), np.uint8))
    text = "imagesource:x\ngsd:0.3\n10 5 20 15 10 25 0 15 ship 1\n"
    (tmp_path / "labelTxt" / "P1.txt").write_text(text)
    (image,) = read_dota(tmp_path).images
    np.testing.assert_allclose(image.boxes, [[0, 5, 20, 25]])
    assert image.crowd.tolist() == [True]
    (tmp_path / "labelTxt" / "P1.txt").write_text(text + "1 2 3 ship 0\n")
    with pytest.raises(DataError, match=r"P1\.txt, line 4: 8 coordinates"):
        read_dota(tmp_path)
    for line, says in (
        ("1 1 nan 1 9 9 1 9 ship 0", "must be finite"),
        ("1 1 9 1 9 9 1 9 ship x", "'difficult' must be 0, 1 or 2"),
    ):
        (tmp_path / "labelTxt" / "P1.txt").write_text(line)
        with pytest.raises(DataError, match=says):
            read_dota(tmp_path)
    (tmp_path / "labelTxt" / "P1.txt").write_text("90 5 99 5 99 9 90 9 ship 0\n")
    with pytest.raises(DataError, match="wholly outside"):
        read_dota(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_image_sizes_are_read_from_the_file(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.zeros((7, 9, 3), np.uint8))
    assert image_size(path) == (9, 7)
    with pytest.raises(DataError, match="image not found"):
        image_size(tmp_path / "none.png")


def test_voc_keeps_the_labels_of_two_splits_apart(labelled, tmp_path):
    write_voc(labelled, tmp_path, split="train")
    before = (tmp_path / "Annotations" / f"{labelled.images[0].path.stem}.xml").read_bytes()
    moved = []
    for image in labelled.images:
        path = image.path.with_suffix(".bmp")
        assert cv2.imwrite(str(path), cv2.imread(str(image.path)))
        moved.append(replace(image, path=path, boxes=image.boxes[:0], labels=image.labels[:0],
                             areas=image.areas[:0], crowd=image.crowd[:0]))  # fmt: skip
    other = replace(labelled, images=tuple(moved))
    with pytest.raises(DataError, match="'val' and 'train' both have images named"):
        write_voc(other, tmp_path, split="val")
    path = tmp_path / "Annotations" / f"{labelled.images[0].path.stem}.xml"
    assert path.read_bytes() == before
    write_voc(labelled, tmp_path, split="train")  # the same again is no trouble


def test_voc_takes_images_only_their_own_size_and_one_spelling_of_a_class(labelled, tmp_path):
    write_voc(labelled, tmp_path)
    first, second = (image.path.stem for image in labelled.images[:2])
    (tmp_path / "JPEGImages" / f"{first}.aaa").write_text("a world file")
    (tmp_path / "JPEGImages" / f"{first}.zzz").write_text("a world file")
    xml = tmp_path / "Annotations" / f"{second}.xml"
    text = xml.read_text().replace("<width>64<", "<width>200<")
    xml.write_text(text.replace("<name>vehicle<", "<name>Vehicle<"))
    back = read_voc_folder(tmp_path, "train")
    assert sorted(name.lower() for name in back.names) == ["storage-tank", "vehicle"]
    assert [image.width for image in back.images] == [64, 200, 64]


@pytest.mark.parametrize("kind", ["yolo", "dota", "csv"])
def test_images_of_another_size_than_labelled_are_not_written_without_sizes(
    kind, labelled, tmp_path
):
    first = replace(labelled.images[0], width=96)
    wrong = replace(labelled, images=(first, *labelled.images[1:]))
    with pytest.raises(DataError, match="is 64 x 64 pixels, but its labels say 96 x 64"):
        write_as(wrong, tmp_path / "out", kind=kind, split="train")
    assert not (tmp_path / "out").exists()
    write_as(wrong, tmp_path / "coco", kind="coco", split="train")
    assert open_any(tmp_path / "coco", "train").images[0].width == 96  # as it was


def test_voc_lists_names_with_blanks(labelled, tmp_path):
    images = []
    for name, image in zip(["a b", "a", "a 1"], labelled.images, strict=True):
        path = image.path.with_name(f"{name}.png")
        path.write_bytes(image.path.read_bytes())
        images.append(replace(image, path=path))
    out = tmp_path / "out"
    _, back = write_and_read("voc", replace(labelled, images=tuple(images)), out)
    for before, after in zip(images, back.images, strict=True):
        assert after.path.name == before.path.name
        np.testing.assert_allclose(after.boxes, before.boxes, atol=1e-4)
    with pytest.raises(DataError, match="both have images named a 1"):
        write_voc(replace(labelled, images=(images[2],)), out, split="val")
    listed = out / "ImageSets" / "Main" / "train.txt"
    listed.write_text("a b  1\na -1\na 1\n", encoding="utf-8-sig")
    names = [image.path.stem for image in read_voc_folder(out, "train").images]
    assert names == ["a b", "a", "a 1"]


def test_voc_refuses_classes_that_it_would_take_for_one(labelled, tmp_path):
    names = (Category(1, "Ship"), Category(2, "ship"))
    with pytest.raises(DataError, match="rename or merge Ship, ship"):
        write_voc(replace(labelled, categories=names), tmp_path)
    assert not list(tmp_path.glob("*/*.xml"))


@pytest.mark.parametrize("kind", ["voc", "dota"])
def test_a_class_without_an_object_is_said_lost(kind, labelled, tmp_path):
    more = replace(labelled, categories=(*labelled.categories, Category(3, "wharf")))
    lost, _ = write_and_read(kind, more, tmp_path / "out")
    assert "the classes without an object: wharf" in lost


def test_a_split_of_dota_knows_the_classes_of_the_others(labelled, tmp_path):
    few = replace(
        labelled,
        images=tuple(
            replace(image, boxes=image.boxes[kept], labels=image.labels[kept],
                    areas=image.areas[kept], crowd=image.crowd[kept])
            for image in labelled.images for kept in [image.labels == 1]
        ),
    )  # fmt: skip
    write_as(labelled, tmp_path, kind="dota", split="train")
    write_as(few, tmp_path, kind="dota", split="val")
    train, val = (open_any(tmp_path, split) for split in ("train", "val"))
    assert train.categories == val.categories
    assert {int(label) for image in val.images for label in image.labels} == {1}
