"""CSV tables and map features over scenes: there and back, what is lost, what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS

from rstinynet.data.annotations import Category, LabelledSet
from rstinynet.data.convert import open_any, write_all, write_as
from rstinynet.data.folder import open_split, splits_of
from rstinynet.data.formats.common import labelled_image
from rstinynet.data.formats.table import read_table
from rstinynet.data.formats.vector import read_vector
from rstinynet.errors import DataError
from rstinynet.scenes.qgis import embed

UTM = Affine(0.5, 0, 300000, 0, -0.5, 4000000)
ROTATED = UTM @ Affine.rotation(30)
SOUTH_UP = Affine(0.5, 0, 300000, 0, 0.5, 4000000)
DEGREES = Affine(5e-6, 0, 10.0, 0, -5e-6, 45.0)


def make_scene(path, *, transform=UTM, crs="EPSG:32632", width=90, height=60, bands=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(1).integers(0, 255, (bands, height, width), np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=bands, dtype="uint8",
        crs=None if crs is None else CRS.from_string(crs), transform=transform,
    ) as raster:  # fmt: skip
        raster.write(pixels)
    return path


def make_set(paths):
    rows = [(1, (3.25, 4.5, 9.75, 12.0), False), (0, (50, 20, 61, 33.5), True)]
    images = [
        labelled_image(path, number, (90, 60), rows if number == 1 else [], classes=2, where=path)
        for number, path in enumerate(paths, 1)
    ]
    images[0].areas[0] = 37.5
    return LabelledSet(
        images=tuple(images), categories=(Category(3, "ship"), Category(8, "car")), fingerprint=""
    )


def assert_same(before, after, *, atol):
    assert after.categories == before.categories
    assert [each.path.name for each in after.images] == [each.path.name for each in before.images]
    for old, new in zip(before.images, after.images, strict=True):
        assert (new.width, new.height) == (old.width, old.height)
        np.testing.assert_allclose(new.boxes, old.boxes, atol=atol)
        np.testing.assert_array_equal(new.labels, old.labels)
        np.testing.assert_array_equal(new.crowd, old.crowd)
        np.testing.assert_allclose(new.areas, old.areas, rtol=1e-5)


@pytest.mark.parametrize("kind", ["csv", "gpkg", "geojson"])
@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (UTM, "EPSG:32632"),
        (ROTATED, "EPSG:32632"),
        (SOUTH_UP, "EPSG:32632"),
        (DEGREES, "EPSG:4326"),
    ],
)
def test_there_and_back(tmp_path, kind, transform, crs):
    scenes = [
        make_scene(tmp_path / f"{name}.tif", transform=transform, crs=crs) for name in ("a", "b")
    ]
    labelled = make_set(scenes)
    out = tmp_path / "out!"  # where pyogrio would look for an archive
    assert write_as(labelled, out, kind=kind, split="train") == []
    assert splits_of(out) == ["train"]
    # GeoJSON has 9 decimals of a degree; a pixel of half a metre is 5e-6 degrees.
    assert_same(labelled, open_any(out, "train"), atol=1e-5 if kind != "geojson" else 2e-3)


def test_scenes_of_two_zones_share_one_file(tmp_path):
    scenes = [
        make_scene(tmp_path / "a.tif"),
        make_scene(tmp_path / "b.tif", crs="EPSG:32633"),
    ]
    first, second = make_set(scenes).images
    second = replace(second, **{
        name: getattr(first, name) for name in ("boxes", "labels", "areas", "crowd")
    })  # fmt: skip
    labelled = replace(make_set(scenes), images=(first, second))
    write_as(labelled, tmp_path / "out", kind="gpkg", split="val")
    assert pyogrio.read_info(tmp_path / "out" / "val.gpkg")["crs"] == "EPSG:4326"
    assert_same(labelled, open_split(tmp_path / "out", "val"), atol=1e-3)


def test_a_feature_in_another_crs_lands_on_its_pixels(tmp_path):
    make_scene(tmp_path / "images" / "a.tif")
    to_lonlat = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    x, y = to_lonlat.transform(
        300000 + 0.5 * np.array([10, 20, 20, 10]), 4000000 - 0.5 * np.array([30, 30, 44, 44])
    )
    ring = [*zip(x.tolist(), y.tolist(), strict=True)]
    feature = {
        "type": "Feature",
        "properties": {"type": "boat"},
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
    }
    (tmp_path / "train.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [feature]})
    )
    found = open_split(tmp_path, "train")
    assert found.names == ("boat",)
    np.testing.assert_allclose(found.images[0].boxes, [[10, 30, 20, 44]], atol=1e-3)


def test_a_box_without_area_leaves_the_others_theirs(tmp_path):
    make_scene(tmp_path / "images" / "a.tif")
    rows = ("a.tif,5,6,9,11,car,12.5", "a.tif,5,6,5,11,car,3", "a.tif,20,6,24,11,car,")
    (tmp_path / "train.csv").write_text("\n".join(("image,xmin,ymin,xmax,ymax,label,area", *rows)))
    np.testing.assert_array_equal(open_split(tmp_path, "train").images[0].areas, [12.5, 20])


def test_a_feature_too_thin_for_a_box_leaves_the_others_their_areas(tmp_path):
    make_scene(tmp_path / "images" / "a.tif", width=200_000, height=8, bands=1)
    sides = ((149_999.994, 150_000.006), (20, 24))  # no float32 lies between the first two
    shapes = [shapely.box(3e5 + x0 / 2, 4e6 - 3, 3e5 + x1 / 2, 4e6 - 1) for x0, x1 in sides]
    write_features(tmp_path / "train.gpkg", shapes, label=["car", "car"], area_px=[3.0, 12.5])
    (image,) = open_split(tmp_path, "train").images
    np.testing.assert_allclose(image.boxes, [[20, 2, 24, 6]], atol=1e-4)
    np.testing.assert_array_equal(image.areas, [12.5])


def test_own_results_can_be_labels(tmp_path):
    make_scene(tmp_path / "images" / "a.tif")
    (tmp_path / "train.csv").write_text(
        "class_id,class_name,score,px_xmin,px_ymin,px_xmax,px_ymax,source\n"
        "6,car,0.9,5,6,9,11,a.tif\n"
    )
    found = open_split(tmp_path, "train")
    np.testing.assert_array_equal(found.images[0].boxes, [[5, 6, 9, 11]])
    assert found.categories == (Category(6, "car"),)


def test_classes_without_an_object_are_said_lost(tmp_path):
    scene = make_scene(tmp_path / "a.tif")
    labelled = replace(
        make_set([scene]),
        categories=(Category(3, "ship"), Category(8, "car"), Category(9, "plane")),
    )
    for kind in ("csv", "gpkg"):
        lost = write_as(labelled, tmp_path / kind, kind=kind, split="train")
        assert lost == ["the classes without an object: plane"]


HEAD = "image,xmin,ymin,xmax,ymax,label\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,xmin,ymin,xmax,label\n", "no column ymax"),
        (HEAD, "no rows"),
        (HEAD + "a.tif,,,,,\n", "not one box"),
        (HEAD + ",1,1,2,2,car\n", "line 2: the column 'image' is empty"),
        (HEAD + "a.tif,1,1,2,2,\n", "line 2: a box without a label"),
        (HEAD + "a.tif,1,one,2,2,car\n", "line 2: a number is needed where 'one'"),
        (HEAD + "a.tif,1,nan,2,2,car\n", "finite number"),
        (HEAD + "a.tif,5,1,2,2,car\n", "negative side"),
        (HEAD + "a.tif,500,1,502,2,car\n", "wholly outside"),
        (HEAD + "../a.tif,1,1,2,2,car\n", "leads out of"),
        (HEAD + "/etc/a.tif,1,1,2,2,car\n", "leads out of"),
        (HEAD + "z.tif,1,1,2,2,car\n", "'z.tif' is missing"),
        (HEAD[:-1] + ",iscrowd\na.tif,1,1,2,2,car,maybe\n", "must be 0 or 1"),
        (HEAD[:-1] + ",area\na.tif,1,1,2,2,car,-3\n", "square pixels"),
        (HEAD[:-1] + ",category_id\na.tif,1,1,2,2,car,1\na.tif,1,1,2,2,car,2\n", "can have one"),
        (HEAD[:-1] + ",category_id\na.tif,1,1,2,2,car,1\na.tif,1,1,2,2,bus,1\n", "id of its own"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, message):
    make_scene(tmp_path / "images" / "a.tif")
    table = tmp_path / "train.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(table, [tmp_path / "images"])


def write_features(path, shapes, *, crs="EPSG:32632", **columns):
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array(shapes, object)),
        [np.array(values, object) for values in columns.values()],
        list(columns),
        driver="GPKG",
        geometry_type="Unknown",
        crs=crs,
    )


ON = shapely.box(300005, 3999990, 300010, 3999995)


@pytest.mark.parametrize(
    ("shapes", "columns", "message"),
    [
        ([shapely.Point(300005, 3999990)], {"label": ["car"]}, "has no area"),
        ([ON], {"colour": ["red"]}, "no column with classes"),
        ([ON], {"label": [""]}, "has no class"),
        ([shapely.box(0, 0, 1, 1)], {"label": ["car"]}, "lie on no scene"),
        ([ON], {"label": ["car"], "source": ["b.tif"]}, "number 1 of 'b.tif'"),
        ([ON, ON], {"label": ["car", "car"], "class_id": [1, 2]}, "id of its own"),
    ],
)
def test_bad_features_are_refused(tmp_path, shapes, columns, message):
    make_scene(tmp_path / "images" / "a.tif")
    write_features(tmp_path / "train.gpkg", shapes, **columns)
    with pytest.raises(DataError, match=message):
        read_vector(tmp_path / "train.gpkg", tmp_path / "images")


def test_scenes_without_a_crs_are_refused(tmp_path, recwarn):
    make_scene(tmp_path / "images" / "a.png.tif", crs=None, transform=Affine.identity())
    write_features(tmp_path / "train.gpkg", [ON], label=["car"])
    with pytest.raises(DataError, match="has no CRS"):
        open_split(tmp_path, "train")
    labelled = make_set([tmp_path / "images" / "a.png.tif"])
    with pytest.raises(DataError, match="cannot be map features"):
        write_as(labelled, tmp_path / "out", kind="geojson", split="train")
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_refused(tmp_path):
    make_scene(tmp_path / "images" / "a.tif")
    (tmp_path / "train.geojson").write_text('{"type": "FeatureCollection", "features": [')
    with pytest.raises(DataError, match="not a readable vector file"):
        open_split(tmp_path, "train")


BOX = shapely.box(300001, 3999990, 300004, 3999996)
OTHER = shapely.box(300010, 3999980, 300014, 3999984)


def test_objects_drawn_by_hand_need_not_fill_every_column(tmp_path):
    """In QGIS a new feature beside those of `predict` has nothing but its class."""
    make_scene(tmp_path / "images" / "a.tif")
    write_features(
        tmp_path / "train.gpkg", [BOX, OTHER, OTHER],
        class_name=np.array(["car", "car", "ship"], object),
        class_id=np.array([4.0, np.nan, np.nan]),
        source=np.array(["a.tif", None, None], object), iscrowd=np.array([1.0, np.nan, np.nan]),
        area_px=np.array([7.0, np.nan, np.nan]),
    )  # fmt: skip
    labelled = open_split(tmp_path, "train")
    assert labelled.categories == (Category(4, "car"), Category(5, "ship"))
    assert labelled.images[0].labels.tolist() == [0, 0, 1]
    assert labelled.images[0].crowd.tolist() == [True, False, False]
    assert labelled.images[0].areas.tolist() == [7, 64, 64]


def test_scenes_may_be_numbers_and_be_left_out(tmp_path):
    make_scene(tmp_path / "images" / "12.tif")
    pyogrio.raw.write(
        tmp_path / "train.gpkg", shapely.to_wkb(np.array([BOX, OTHER], object)),
        [np.array(["car", "car"], object), np.array([12, 0])], ["label", "scene"],
        field_mask=[None, np.array([False, True])],
        driver="GPKG", geometry_type="Polygon", crs="EPSG:32632",
    )  # fmt: skip
    assert len(open_split(tmp_path, "train").images[0].boxes) == 2


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("class_id", "a", "'class_id' must be a number"),
        ("class_id", "1.5", "id of its own"),
        ("iscrowd", "maybe", "'iscrowd' must be 0 or 1"),
        ("area_px", "x", "'area_px' must be a number"),
        ("area_px", "-5", "'area_px' must be a number from 0; feature 1"),
    ],
)
def test_columns_that_are_no_numbers_are_refused(tmp_path, column, value, message):
    make_scene(tmp_path / "images" / "a.tif")
    columns = {"label": np.array(["car"], object), column: np.array([value], object)}
    write_features(tmp_path / "train.gpkg", [BOX], **columns)
    with pytest.raises(DataError, match=message):
        open_split(tmp_path, "train")


def test_text_flags_are_read_as_numbers(tmp_path):
    make_scene(tmp_path / "images" / "a.tif")
    flags = np.array(["0", "1"], object)
    write_features(
        tmp_path / "train.gpkg", [BOX, OTHER], label=np.array(["car"] * 2, object), iscrowd=flags
    )
    assert open_split(tmp_path, "train").images[0].crowd.tolist() == [False, True]


def test_a_layer_of_styles_is_passed_over_and_two_of_outlines_are_refused(tmp_path):
    """`predict` embeds its style as a layer of its own."""
    make_scene(tmp_path / "images" / "a.tif")
    path = tmp_path / "train.gpkg"
    write_features(path, [BOX], label=np.array(["car"], object))
    embed(path, "train", ["car"])
    assert open_split(tmp_path, "train").names == ("car",)
    geometry = shapely.to_wkb(np.array([BOX], object))
    label = np.array(["car"], object)
    pyogrio.raw.write(
        str(path), geometry, [label], ["label"], layer="more", driver="GPKG",
        geometry_type="Polygon", crs="EPSG:32632", append=True,
    )  # fmt: skip
    with pytest.raises(DataError, match="has the layers train, more"):
        open_split(tmp_path, "train")


def write_geojson(path, *rings, label="car"):
    features = [
        {
            "type": "Feature",
            "properties": {"label": label},
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        }
        for ring in rings
    ]
    content = {"type": "FeatureCollection", "features": features}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="latin-1")


RING = [[9, 50], [9.1, 50], [9.1, 50.1], [9, 50]]


@pytest.mark.parametrize(
    "ring",
    [
        [[0, 0], [1, 1]],
        [[9, math.nan], [9.1, 50], [9.1, 50.1], [9, math.nan]],
        [[9, math.inf], [9.1, 50], [9.1, 50.1], [9, math.inf]],
    ],
)
def test_outlines_that_are_none_are_refused(tmp_path, ring):
    make_scene(tmp_path / "images" / "a.tif")
    write_geojson(tmp_path / "train.geojson", RING, ring)
    with pytest.raises(DataError, match=r"train\.geojson: feature 2 has no closed outline"):
        open_split(tmp_path, "train")


def test_outlines_as_wide_as_numbers_go_are_refused(tmp_path):
    make_scene(tmp_path / "images" / "a.tif")
    write_features(tmp_path / "train.gpkg", [shapely.box(-1e308, 0, 1e308, 1e9)], label=["car"])
    with pytest.raises(DataError, match="lie on no scene"):
        open_split(tmp_path, "train")


def test_text_that_is_not_utf8_is_told_by_its_line(tmp_path):
    make_scene(tmp_path / "images" / "a.tif")
    write_geojson(tmp_path / "train.geojson", RING, label="caf\u00e9")
    with pytest.raises(DataError, match=r"train\.geojson: .*line 7 is not UTF-8 \(byte 0xe9\)"):
        open_split(tmp_path, "train")
    table = tmp_path / "train.csv"
    table.write_bytes(b"image,xmin,ymin,xmax,ymax,label\na.tif,1,2,3,4,caf\xe9\n")
    with pytest.raises(DataError, match=r"train\.csv: line 2 is not UTF-8 \(byte 0xe9\)"):
        open_split(tmp_path, "train")


def test_a_folder_is_no_label_file(tmp_path):
    for name, read, told in (
        ("a.geojson", read_vector, "is a folder; give a file"),
        ("a.csv", lambda path, images: read_table(path, [images]), "Is a directory"),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=f"{name}.*{told}"):
            read(tmp_path / name, tmp_path)


def test_class_ids_of_more_than_64_bits_are_refused(tmp_path):
    make_scene(tmp_path / "images" / "a.tif")
    table = tmp_path / "train.csv"
    table.write_text("image,xmin,ymin,xmax,ymax,label,class_id\na.tif,1,2,3,4,car,1e30\n")
    with pytest.raises(DataError, match=r"line 2: 'category_id' .* below 2"):
        open_split(tmp_path, "train")
    table.unlink()
    ids = np.array([1e30])
    write_features(tmp_path / "train.gpkg", [BOX], label=np.array(["car"], object), class_id=ids)
    with pytest.raises(DataError, match=r"'class_id' .* feature 1"):
        open_split(tmp_path, "train")


@pytest.mark.parametrize("name", ["a" * 5000, '"' + "x" * 200_000])
def test_endless_fields_of_a_table_are_refused(tmp_path, name):
    (tmp_path / "images").mkdir()
    table = tmp_path / "train.csv"
    table.write_text(f"image,xmin,ymin,xmax,ymax,label\n{name},1,2,3,4,car\n")
    with pytest.raises(DataError, match=r"is missing|, line 2: not a row of a CSV"):
        read_table(table, [tmp_path / "images"])


def test_an_endless_heading_of_a_table_is_refused(tmp_path):
    table = tmp_path / "train.csv"
    table.write_text(f"{'x' * 200_000},xmin,ymin,xmax,ymax,label\na.tif,1,2,3,4,car\n")
    with pytest.raises(DataError, match=r"train\.csv, line 1: not a heading"):
        read_table(table, [tmp_path])


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("kind", ["csv", "gpkg"])
def test_a_split_knows_the_classes_of_the_others(tmp_path, kind, ids):
    labelled = make_set([make_scene(tmp_path / "a.tif")])
    write_as(labelled, tmp_path / "out", kind=kind, split="train")
    (image,) = labelled.images
    cars = image.labels == 1
    few = replace(image, boxes=image.boxes[cars], labels=image.labels[cars],
                  areas=image.areas[cars], crowd=image.crowd[cars])  # fmt: skip
    write_as(replace(labelled, images=(few,)), tmp_path / "out", kind=kind, split="val")
    if not ids and kind == "csv":
        for path in (tmp_path / "out").glob("*.csv"):
            path.write_text(path.read_text().replace("category_id", "note"))
    train, val = (open_split(tmp_path / "out", split) for split in ("train", "val"))
    assert train.categories == val.categories
    assert [val.names[label] for image in val.images for label in image.labels] == ["car"]


@pytest.mark.parametrize("kind", ["csv", "gpkg", "geojson"])
def test_a_split_without_an_object_has_the_classes_of_the_others(tmp_path, kind):
    labelled = make_set([make_scene(tmp_path / "a.tif")])
    empty = replace(labelled, images=(_without_boxes(labelled.images[0]),))
    write_all({"train": labelled, "val": empty}, tmp_path / "out", kind=kind)
    train, val = (open_split(tmp_path / "out", split) for split in ("train", "val"))
    assert train.categories == val.categories == labelled.categories
    assert [len(image.boxes) for image in val.images] == [0]


@pytest.mark.parametrize("kind", ["csv", "gpkg", "geojson", "dota"])
def test_a_set_without_an_object_is_not_written_without_its_classes(tmp_path, kind):
    labelled = make_set([make_scene(tmp_path / "a.tif")])
    empty = replace(labelled, images=(_without_boxes(labelled.images[0]),))
    with pytest.raises(DataError, match=r"train, val: not one box.*write coco"):
        write_all({"train": empty, "val": empty}, tmp_path / "out", kind=kind)
    with pytest.raises(DataError, match="split 'test' has no images"):
        write_all({"test": replace(labelled, images=())}, tmp_path / "out", kind=kind)
    assert not (tmp_path / "out").exists()


def test_features_that_are_none_are_refused_where_no_split_has_classes(tmp_path):
    make_scene(tmp_path / "images" / "a.tif")
    write_features(tmp_path / "train.gpkg", [], label=[])
    with pytest.raises(DataError, match="no features"):
        open_split(tmp_path, "train")


def _without_boxes(image):
    none = {name: getattr(image, name)[:0] for name in ("boxes", "labels", "areas", "crowd")}
    return replace(image, **none)


def test_a_feature_that_ends_at_a_scenes_edge_is_no_object_of_its_neighbour(tmp_path):
    folder = tmp_path / "images"
    make_scene(folder / "west.tif")
    make_scene(folder / "east.tif", transform=UTM @ Affine.translation(90, 0))
    corner = shapely.box(300000 + 40, 4000000 - 10, 300000 + 45 + 1e-6, 4000000 - 5)
    across = shapely.box(300000 + 43, 4000000 - 20, 300000 + 47, 4000000 - 15)
    pyogrio.raw.write(
        str(tmp_path / "labels.gpkg"),
        shapely.to_wkb(np.array([corner, across])),
        [np.array(["car", "car"], object)],
        ["class_name"],
        geometry_type="Polygon",
        crs="EPSG:32632",
        driver="GPKG",
    )
    found = read_vector(tmp_path / "labels.gpkg", folder)
    assert {image.path.stem: len(image.boxes) for image in found.images} == {"east": 1, "west": 2}


def test_another_scene_in_the_folder_is_other_data(tmp_path):
    write_as(make_set([make_scene(tmp_path / "a.tif")]), tmp_path / "out", kind="gpkg", split="val")
    before = open_split(tmp_path / "out", "val").fingerprint
    make_scene(tmp_path / "out" / "images" / "val" / "b.tif")
    assert open_split(tmp_path / "out", "val").fingerprint != before


def test_a_sites_own_system_is_refused_in_words(tmp_path):
    site = 'LOCAL_CS["site grid",UNIT["metre",1]]'
    labelled = make_set([make_scene(tmp_path / "a.tif", crs=site)])
    with pytest.raises(DataError, match="no way leads from its coordinate system"):
        write_as(labelled, tmp_path / "out", kind="geojson", split="train")
