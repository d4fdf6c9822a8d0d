"""Whole folders are written beside and renamed, and never replace what is not theirs."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyogrio.util import vsi_path

from rstinynet.errors import UsageError
from rstinynet.files import (
    check_file_place,
    check_folder_place,
    replacing,
    replacing_folder,
    replacing_set,
    unparsed,
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


HOLDER = """
import os, sqlite3, sys
path, journal = sys.argv[1:]
database = sqlite3.connect(path, isolation_level=None)
database.execute(f"PRAGMA journal_mode={journal}")
database.execute("PRAGMA cache_size=1")
if journal == "DELETE":
    database.execute("BEGIN")
database.execute("UPDATE t SET x = 7, y = 'theirs'")
print("open", flush=True)
sys.stdin.read()
os._exit(0)
"""


def write_database(path, x):
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE t (x, y)")
        database.executemany("INSERT INTO t VALUES (?, ?)", [(x, "y" * 500)] * 60)


def read_database(path):
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return database.execute("SELECT x, count(*) FROM t GROUP BY x").fetchall()


@contextmanager
def held(path, journal):
    """Another process has changed the file: in WAL, or in a transaction with a rollback journal."""
    command = [sys.executable, "-c", HOLDER, str(path), journal]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        yield


@pytest.mark.parametrize(
    ("journal", "left"), [("WAL", {"a.gpkg-wal", "a.gpkg-shm"}), ("DELETE", {"a.gpkg-journal"})]
)
def test_what_a_dead_program_left_beside_a_geopackage_is_not_applied_to_the_new_one(
    tmp_path, journal, left
):
    path = tmp_path / "a.gpkg"
    write_database(path, 1)
    with held(path, journal):
        pass
    assert {each.name for each in tmp_path.iterdir()} == {"a.gpkg", *left}
    with replacing(path) as beside:
        write_database(beside, 2)
    assert read_database(path) == [(2, 60)]
    assert [each.name for each in tmp_path.iterdir()] == ["a.gpkg"]


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
@pytest.mark.parametrize("opened", ["before", "meanwhile"])
def test_a_geopackage_that_another_program_has_open_is_not_replaced(tmp_path, journal, opened):
    path = tmp_path / "a.gpkg"
    write_database(path, 1)
    begun = []

    def replace(holder):
        if opened == "before":
            holder.enter_context(held(path, journal))
        with replacing(path) as beside:
            begun.append(beside)
            write_database(beside, 2)
            holder.enter_context(held(path, journal))

    with ExitStack() as holder:
        with pytest.raises(UsageError, match="another program has this file open"):
            replace(holder)
        assert bool(begun) == (opened == "meanwhile")
        assert not begun or not begun[0].exists()
    # What was done in the other program is all there, and what it had not finished is undone.
    assert read_database(path) == [(7 if journal == "WAL" else 1, 60)]


def test_a_geopackage_that_is_none_or_gone_leaves_nothing_beside_the_new_one(tmp_path):
    path, wal = tmp_path / "a.gpkg", tmp_path / "a.gpkg-wal"
    for content in (None, b"no database, and longer than the header of one is" * 9):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        wal.write_bytes(b"of another file")
        with replacing(path) as beside:
            write_database(beside, 2)
        assert read_database(path) == [(2, 60)]
        assert not wal.exists()


def test_changes_that_cannot_be_brought_in_are_not_lost(tmp_path):
    path = tmp_path / "a.gpkg"
    write_database(path, 1)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
    (tmp_path / "a.gpkg-wal").mkdir()
    with pytest.raises(UsageError, match=r"changes to it in a\.gpkg-wal"), replacing(path):
        pytest.fail("the work began")


def test_only_a_geopackage_is_a_database(tmp_path):
    (tmp_path / "a.json-wal").write_text("theirs")
    write_bytes(tmp_path / "a.json", b"{}")
    assert (tmp_path / "a.json-wal").read_text() == "theirs"


ODD = ("a!b", "a;b", "c:d", "q?x", "#1", "1\n2", "http:x", " a", "100%", "a.zip")


@pytest.mark.parametrize("name", ODD)
def test_pyogrio_writes_and_reads_any_path(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    for suffix in (".gpkg", ".fgb"):
        path = Path(name) / f"{name}{suffix}"
        with replacing(path) as beside, unparsed(beside) as target:
            write_shapes(target, [1.0, 2.0], crs="EPSG:32611", layer="points")
        with unparsed(path) as source:
            assert sorted(pyogrio.raw.read(source)[3][0].tolist()) == [1, 2]
    path = Path(name) / f"{name}.shp"
    for xs in ([1.0], [3.0, 4.0]):
        with replacing_set(path) as beside, unparsed(beside) as target:
            write_shapes(target, xs, crs="EPSG:32611", SPATIAL_INDEX="YES")
    with unparsed(path) as source:
        meta, _, _, (x,) = pyogrio.raw.read(source)
    assert (meta["crs"], x.tolist()) == ("EPSG:32611", [3, 4])
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert {each.suffix for each in (tmp_path / name).iterdir()} == {
        ".gpkg", ".fgb", ".shp", ".shx", ".dbf", ".prj", ".cpg", ".qix",
    }  # fmt: skip


@given(
    st.lists(st.text("a!;:?#% \t\n\r/.", min_size=1), min_size=1),
    st.sampled_from([".gpkg", ".shp"]),
)
def test_no_path_is_parsed(parts, suffix):
    folder = Path("/nowhere").joinpath(*(part.replace("/", "") or "x" for part in parts))
    with unparsed(folder / f"new{suffix}") as plain:
        assert vsi_path(plain) == plain


def test_a_path_that_would_be_parsed_whatever_is_done_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="name of a new file"), unparsed(tmp_path / "a!b.gpkg"):
        pass
    (tmp_path / "t!").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t!"))
    with pytest.raises(UsageError, match="set TMPDIR"), unparsed(tmp_path / "a!" / "b.gpkg"):
        pass
