"""Whole folders are written beside and renamed, and never replace what is not theirs."""

from __future__ import annotations

import numpy as np
import pyogrio.raw
import pytest
import shapely

from rstinynet.errors import UsageError
from rstinynet.files import (
    check_file_place,
    check_folder_place,
    replacing_folder,
    replacing_set,
    write_bytes,
)


def test_a_folder_comes_whole(tmp_path):
    out = tmp_path / "deep" / "out"
    with replacing_folder(out) as folder:
        write_bytes(folder / "a", b"1")
        assert not out.exists()
    assert [p.name for p in out.iterdir()] == ["a"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    # As any other folder, not one that only its owner reads.
    assert out.stat().st_mode == (tmp_path / "deep").stat().st_mode


@pytest.mark.parametrize("stood", [False, True])
def test_an_error_leaves_what_was(stood, tmp_path):
    out = tmp_path / "out"
    if stood:
        out.mkdir()
        (out / "a").write_text("old")

    def fail():
        with replacing_folder(out, may_hold={"a"}) as folder:
            (folder / "a").write_text("new")
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if stood else [])
    assert not stood or (out / "a").read_text() == "old"


def test_only_what_is_allowed_is_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with replacing_folder(out) as folder:
        (folder / "a").write_text("1")
    with replacing_folder(out, may_hold={"a", "b"}) as folder:
        (folder / "b").write_text("2")
    assert [p.name for p in out.iterdir()] == ["b"]
    with pytest.raises(UsageError, match="it holds b"), replacing_folder(out, may_hold={"a"}):
        pass
    with pytest.raises(UsageError, match="is a file"), replacing_folder(out / "b"):
        pass


def test_what_comes_in_the_meantime_stays(tmp_path):
    out = tmp_path / "out"

    def race():
        with replacing_folder(out) as folder:
            (folder / "a").write_text("ours")
            out.mkdir()
            (out / "theirs").write_text("theirs")

    with pytest.raises(UsageError, match="it holds theirs"):
        race()
    assert (out / "theirs").read_text() == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with replacing_folder(tmp_path / "link") as folder:
        (folder / "a").write_text("1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "1"


@pytest.mark.parametrize("check", [check_file_place, check_folder_place])
def test_a_file_in_the_way_of_a_folder_is_noticed(check, tmp_path):
    (tmp_path / "file").write_text("theirs")
    for out in (tmp_path / "file" / "x", tmp_path / "file" / "deep" / "x"):
        with pytest.raises(UsageError, match="file is a file, not a folder") as refused:
            check(out, option="--out")
        assert f"--out {out}" in str(refused.value)
    check(tmp_path / "new" / "deep" / "x", option="--out")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_needs_a_name_and_a_folder_needs_no_file(tmp_path):
    (tmp_path / "file").write_text("old")
    check_file_place(tmp_path / "file", option="--out")
    check_folder_place(tmp_path, option="--out")
    with pytest.raises(UsageError, match=f"--out {tmp_path} is a folder"):
        check_file_place(tmp_path, option="--out")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        check_folder_place(tmp_path / "file", option="--out")


def test_a_folder_that_may_not_be_changed_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match="may not change"):
        check_file_place(tmp_path / "x", option="--out")


def write_shapes(path, xs, **options):
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(shapely.points(xs, 0.0)),
        field_data=[np.array(xs)],
        fields=np.array(["x"], object),
        geometry_type="Point",
        **options,
    )


def test_no_index_or_system_of_an_old_shapefile_stays_beside_a_new_one(tmp_path):
    path = tmp_path / "a.shp"
    write_shapes(path, [0.0, 1.0], crs="EPSG:32611", SPATIAL_INDEX="YES")
    for theirs in ("a.sbn", "a.b.qix", "a.tif.ovr", "b.qix", "a.txt"):
        (tmp_path / theirs).write_text("theirs")
    assert (tmp_path / "a.qix").exists()
    with (
        pytest.warns(UserWarning, match="'crs' was not provided"),
        replacing_set(path) as beside,
    ):
        write_shapes(beside, [50.0, 60.0, 70.0], crs=None)
    meta, _, _, (x,) = pyogrio.raw.read(path, bbox=(55, -1, 75, 1))
    assert x.tolist() == [60, 70]
    assert meta["crs"] is None
    names = {each.name for each in tmp_path.iterdir()}
    assert not names & {"a.sbn", "a.qix", "a.prj"}
    assert names >= {"a.b.qix", "a.tif.ovr", "b.qix", "a.txt", "a.dbf", "a.shx"}


def test_a_set_that_fails_leaves_what_was(tmp_path):
    path = tmp_path / "a.shp"
    write_shapes(path, [0.0], crs="EPSG:32611", SPATIAL_INDEX="YES")
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}

    def fail():
        with replacing_set(path) as beside:
            beside.write_text("new")
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
