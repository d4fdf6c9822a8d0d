"""Paths, folders and globs; names that never collide."""

from __future__ import annotations

from pathlib import Path

import pytest

from rstinynet.errors import DataError
from rstinynet.scenes import sources


def test_files_folders_and_globs_in_order_without_doubles(tmp_path: Path) -> None:
    for name in ("b.tif", "a.PNG", "notes.txt", "sub/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = sources.find([tmp_path / "b.tif", tmp_path, f"{tmp_path}/**/*.jpg"])
    assert [path.name for path in found] == ["b.tif", "a.PNG", "c.jpg"]
    assert sources.find([tmp_path / "missing.tif"]) == [tmp_path / "missing.tif"]


def test_empty_folder_and_glob_without_matches_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        sources.find([tmp_path])
    with pytest.raises(DataError, match="no file matches"):
        sources.find([f"{tmp_path}/*.tif"])


def test_a_file_whose_name_looks_like_a_glob_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a[1].tif"
    path.touch()
    assert sources.find([path]) == [path]


def test_names_differ_where_stems_do_not() -> None:
    paths = ["x/a.tif", "x/a.png", "y/a.tif", "x/b.tif", "z/B.tif", "x/c.tif"]
    found = sources.names([Path(path) for path in paths])
    assert found == ["x_a_tif", "a_png", "y_a_tif", "x_b_tif", "z_B_tif", "c"]
    assert sources.names([Path("p/x/a.tif"), Path("q/x/a.tif")]) == ["x_a_tif", "x_a_tif_2"]
