"""AI-TOD from a miniature look-alike of its downloads."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
import rasterio

from rstinynet.data.catalog import aitod, xview
from rstinynet.data.catalog.aitod import prepare_aitod
from rstinynet.data.catalog.prepared import Counts
from rstinynet.data.folder import open_split
from rstinynet.errors import DataError, UsageError

EXPECTED = {
    "train": Counts(2, 2),
    "val": Counts(1, 1),
    "trainval": Counts(3, 3),
    "test": Counts(2, 4),
}


def test_the_parts_become_a_coco_folder(parts, tmp_path):
    made = prepare_aitod(parts, tmp_path / "out", expected=EXPECTED)
    assert made.splits == EXPECTED
    for split, counts in EXPECTED.items():
        labelled = open_split(tmp_path / "out", split)
        assert (len(labelled), labelled.names) == (counts.images, aitod.CLASSES)
    record = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert record["version"] == "AI-TOD v1"
    assert record["sources"]["test"]["file"] == "aitod_test_v1_1.0.json"
    # The image ids of the files are kept, and train's images are trainval's.
    assert [image.id for image in open_split(tmp_path / "out", "trainval").images] == [7, 8, 9]
    train = open_split(tmp_path / "out", "train").images[0].path
    assert train == tmp_path / "out" / "images" / "trainval" / "P1.png"


@pytest.mark.parametrize(("channels", "order"), [("toolkit", [0, 1, 2]), ("rgb", [2, 1, 0])])
def test_xview_scenes_are_cut_where_their_names_say(parts, tmp_path, scene, channels, order):
    prepare_aitod(parts, tmp_path / "out", expected=EXPECTED, channels=channels)
    cut = cv2.imread(str(tmp_path / "out" / "images" / "trainval" / "5__0_300.png"))
    np.testing.assert_array_equal(cut, scene[300:1100, :800][..., order])


def test_windows_begin_where_the_published_names_begin():
    # Scenes of the published lists: tiles 2509__600_2396, 2509__2400_2400 and 1460__2269_1800.
    assert xview.window_starts(3196) == [0, 600, 1200, 1800, 2400, 2396]
    assert xview.window_starts(3069) == [0, 600, 1200, 1800, 2400, 2269]
    assert xview.window_starts(800) == [0, 0]
    assert xview.window_starts(500) == [0]


def test_a_window_over_the_edge_is_black_there(parts, tmp_path, scene):
    tif = parts / "xview" / "train_images" / "5.tif"
    (path,) = xview.cut_tiles(tif, [(600, 0)], tmp_path)
    assert cv2.imread(str(path)).shape == (800, 800, 3)
    wide = tmp_path / "6.tif"
    options = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:4326"}
    place = rasterio.Affine(1e-5, 0, 10, 0, -1e-5, 50)
    with rasterio.open(wide, "w", width=1990, height=810, transform=place, **options) as file:
        file.write(np.full((3, 810, 1990), 9, np.uint8))
    # Windows at 0, 600, 1200 and 1190: the one at 1200 reaches ten pixels over the edge.
    (path,) = xview.cut_tiles(wide, [(1200, 0)], tmp_path)
    cut = cv2.imread(str(path))
    assert (cut[:, :790] == 9).all()
    assert (cut[:, 790:] == 0).all()


def test_sixty_classes_become_four():
    assert len(xview.CLASS_OF) + len(xview.OTHERS) == 62  # 60 names, one of them under three ids
    assert not xview.OTHERS & xview.CLASS_OF.keys()
    assert set(xview.CLASS_OF.values()) == {"airplane", "ship", "storage-tank", "vehicle"}
    assert [xview.CLASS_OF.get(id_) for id_ in (13, 18, 66, 52, 86, 15, 73)] == [
        "airplane",
        "vehicle",
        "vehicle",
        "ship",
        "storage-tank",
        None,
        None,
    ]


def test_version_2_has_its_own_boxes_and_is_never_mixed_in(parts, tmp_path):
    expected = {"trainval": Counts(3, 9), "test": Counts(2, 8)}
    made = prepare_aitod(parts, tmp_path / "out", version="v2", expected=expected)
    assert made.splits == expected
    with pytest.raises(UsageError, match="holds AI-TOD v2, not AI-TOD v1"):
        prepare_aitod(parts, tmp_path / "out", version="v1", expected=EXPECTED)


def stop_after_cutting(monkeypatch, parts, out):
    """Prepare AI-TOD, and be interrupted when the tiles are there and the labels are not."""

    def interrupted(*args, **kwargs):
        xview.cut_tiles(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(aitod, "cut_tiles", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_aitod(parts, out, expected=EXPECTED)


def test_tiles_of_one_folder_have_one_order_of_channels(parts, tmp_path, monkeypatch):
    out = tmp_path / "out"
    stop_after_cutting(monkeypatch, parts, out)
    monkeypatch.setattr(aitod, "cut_tiles", xview.cut_tiles)
    for _ in range(2):
        with pytest.raises(UsageError, match="channels as 'toolkit', not 'rgb'"):
            prepare_aitod(parts, out, expected=EXPECTED, channels="rgb")
        prepare_aitod(parts, out, expected=EXPECTED)


def test_all_that_is_missing_is_named_at_once_and_nothing_looks_whole(parts, tmp_path):
    (parts / "xview" / "train_images" / "5.tif").unlink()
    (parts / "aitod" / "images" / "test" / "P9.png").unlink()
    cut = parts / "aitod" / "images" / "trainval" / "P2.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    shutil.rmtree(parts / "aitod" / "images" / "val")
    with pytest.raises(DataError) as caught:
        prepare_aitod(parts, tmp_path / "out", expected=EXPECTED)
    said = str(caught.value)
    assert "1 xView scenes: 5.tif" in said
    assert "1 images of AI-TOD_wo_xview: P9.png" in said
    assert "1 images damaged or not 800 x 800: P2.png" in said
    assert "xviewdataset.org" in said
    assert not list((tmp_path / "out").glob("*.json"))


def test_a_smaller_set_is_made_when_asked_for(parts, tmp_path):
    (parts / "xview" / "train_images" / "5.tif").unlink()
    made = prepare_aitod(parts, tmp_path / "out", allow_missing=True)
    assert made.missing == 2
    assert made.splits["trainval"] == Counts(2, 2)


def test_missing_annotations_are_named(parts, tmp_path):
    (parts / "annotations" / "aitod_test_v1_1.0.json").unlink()
    with pytest.raises(DataError, match=r"1 annotation files: aitod_test_v1_1\.0\.json"):
        prepare_aitod(parts, tmp_path / "out", expected=EXPECTED)
    with pytest.raises(UsageError, match="folder of parts not found"):
        prepare_aitod(tmp_path / "none", tmp_path / "out")


def test_the_published_counts_are_insisted_on(parts, tmp_path):
    with pytest.raises(DataError, match="'train' has 2 images, the published set has 11214"):
        prepare_aitod(parts, tmp_path / "out")
    assert aitod.EXPECTED["v1"]["trainval"].boxes + aitod.EXPECTED["v1"]["test"].boxes == 700_621


def test_an_interrupted_run_goes_on(parts, tmp_path, monkeypatch):
    stop_after_cutting(monkeypatch, parts, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.json"))
    cuts, real = [], xview.cut_tiles
    monkeypatch.setattr(aitod, "cut_tiles", lambda *a, **k: (cuts.append(a[1]), real(*a, **k)))
    prepare_aitod(parts, tmp_path / "out", expected=EXPECTED)
    assert len(cuts) == 1  # of the two tiles one was there already
    assert (tmp_path / "out" / "test.json").is_file()


def test_annotations_without_xview_are_completed_from_its_geojson(parts, tmp_path):
    folder = parts / "annotations"
    for path in sorted(folder.glob("aitod_*.json")):
        content = json.loads(path.read_text())
        if "trainval" in path.name or "test" in path.name:
            split = "trainval" if "trainval" in path.name else "test"
            keep = [each for each in content["images"] if each["file_name"].startswith("P")]
            ids = {each["id"] for each in keep}
            boxes = [each for each in content["annotations"] if each["image_id"] in ids]
            content.update(images=keep, annotations=boxes)
            (folder / f"aitod_wo_xview_{split}.json").write_text(json.dumps(content))
        path.unlink()
    (parts / "aitod_xview_trainval.txt").write_text("['5__0_300.png']")
    (parts / "aitod_xview_test.txt").write_text("['5__600_0.png']")
    features = [
        {"properties": {"image_id": "5.tif", "type_id": kind, "bounds_imcoords": box}}
        for kind, box in ((18, "10,320,20,330"), (73, "40,320,60,360"), (11, "790,700,830,740"))
    ]
    (parts / "xView_train.geojson").write_text(json.dumps({"features": features}))
    expected = {"trainval": Counts(3, 3), "test": Counts(2)}
    prepare_aitod(parts, tmp_path / "out", expected=expected)
    tile = next(i for i in open_split(tmp_path / "out", "trainval").images if "5__" in i.path.name)
    # The car lies in the tile, the building has no class, the plane's centre is outside.
    np.testing.assert_allclose(tile.boxes, [[10, 20, 20, 30]])
    tile = next(i for i in open_split(tmp_path / "out", "test").images if "5__" in i.path.name)
    assert [aitod.CLASSES[label] for label in tile.labels] == ["airplane"]
    np.testing.assert_allclose(tile.boxes, [[190, 700, 230, 740]])


def test_a_scene_of_another_size_is_refused(parts, tmp_path):
    tif = parts / "xview" / "train_images" / "5.tif"
    with pytest.raises(DataError, match="no tile begins at 601, 0"):
        xview.cut_tiles(tif, [(601, 0)], tmp_path)
    tif.write_bytes(b"II*\0 cut off")
    with pytest.raises(DataError, match="cannot be read"):
        xview.cut_tiles(tif, [(0, 0)], tmp_path)


@pytest.mark.parametrize("name", ["../P1.png", "a/P1.png", "..\\P1.png"])
def test_names_that_lead_out_of_the_folder_are_refused(parts, tmp_path, name):
    path = parts / "annotations" / "aitod_val.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="must be plain"):
        prepare_aitod(parts, tmp_path / "out", expected=EXPECTED)
    assert not (tmp_path / "out").exists()


def test_a_published_box_outside_its_image_stops_nothing(parts, tmp_path, caplog):
    path = parts / "annotations" / "aitod_test_v1_1.0.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [801, 3, 5, 5]
    path.write_text(json.dumps(content))
    made = prepare_aitod(parts, tmp_path / "out", expected=EXPECTED)
    assert made.splits["test"] == Counts(2, 3)
    assert "1 boxes lie wholly outside" in caplog.text
