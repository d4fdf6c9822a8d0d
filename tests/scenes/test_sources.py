"""Paths, folders and globs; names that never collide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from rstinynet.errors import DataError
from rstinynet.scenes import sources
from rstinynet.scenes.density import Grid
from rstinynet.scenes.reader import Scene


def test_files_folders_and_globs_in_order_without_doubles(tmp_path: Path) -> None:
    for name in ("b.tif", "a.PNG", "notes.md", "sub/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = sources.listing([tmp_path / "b.tif", tmp_path, f"{tmp_path}/**/*.jpg"])
    assert [Path(scene).name for scene in found.scenes] == ["b.tif", "a.PNG", "c.jpg"]
    assert found.refused == {}
    missing = tmp_path / "missing.tif"
    assert sources.listing([missing]).scenes == [missing]


def test_a_file_named_in_two_ways_is_one_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").touch()
    monkeypatch.chdir(tmp_path)
    found = sources.listing(["in", f"{tmp_path}/in/*.tif", "in/../in/a.tif"])
    assert found.scenes == [Path("in/a.tif")]


def test_what_gives_no_scene_is_refused_and_the_rest_kept(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.txt").write_text("# nothing\n\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "nested.txt").write_text("other.txt\n")
    named = ["empty", "*.tif", "none.txt", "bytes.txt", "nested.txt", "a.png"]
    found = sources.listing([tmp_path / name for name in named])
    assert found.scenes == [tmp_path / "a.png"]
    words = ["no images", "no file matches", "names no scene", "text in UTF-8", "another list"]
    assert len(found.refused) == len(words)
    for name, word in zip(named, words, strict=False):
        assert word in str(found.refused[str(tmp_path / name)])


def test_pictures_that_an_earlier_run_drew_are_no_sources(tmp_path: Path) -> None:
    kept = ["a.png", "a.tif", "b.jpg", "lonely_detections.png"]
    drawn = ["a_png_detections.png", "a_tif_detections_closeups.png", "b_detections.png"]
    drawn += ["b_2_detections.png", f"{tmp_path.name}_b_jpg_detections.png"]
    for name in (*kept, *drawn):
        (tmp_path / name).touch()
    for source in (tmp_path, f"{tmp_path}/*.*"):
        assert [Path(scene).name for scene in sources.listing([source]).scenes] == kept
    named = tmp_path / "b_detections.png"
    assert sources.listing([named]).scenes == [named]


def test_grids_that_an_earlier_run_counted_are_no_sources(
    write_tiff: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "damaged_grid.tif").touch()
    with pytest.warns(NotGeoreferencedWarning):
        write_tiff(tmp_path / "city_grid.tif", np.zeros((8, 8, 1), np.uint8), crs=None)
    grid = Grid(100, CRS.from_epsg(32611), (0, 0, 500, 500))
    for name in ("counts_grid.tif", "city_grid_detections_grid.tif"):
        grid.write(tmp_path / name)
    for source in (tmp_path, f"{tmp_path}/*.tif"):
        found = [Path(scene).name for scene in sources.listing([source]).scenes]
        assert found == ["city_grid.tif", "damaged_grid.tif"]
    named = tmp_path / "counts_grid.tif"
    assert sources.listing([named]).scenes == [named]


def test_a_text_file_lists_scenes_seen_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.tif").touch()
    lines = [
        "# scenes",
        "",
        "a.tif",
        "sub",
        "/data/c.tif",
        "s3://bucket/d.tif",
        "/vsizip/e.zip/e.tif",
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    found = sources.listing([tmp_path / "list.txt"]).scenes
    assert found == [
        tmp_path / "a.tif",
        tmp_path / "sub" / "b.tif",
        Path("/data/c.tif"),
        "/vsis3/bucket/d.tif",
        "/vsizip/e.zip/e.tif",
    ]
    assert sources.names(found) == ["a", "b", "c", "d", "e"]


def test_a_list_in_a_folder_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    folder = tmp_path / "area [1]"
    folder.mkdir()
    for name in ("a1.tif", "a2.tif", "b[1].tif"):
        (folder / name).touch()
    (folder / "list.txt").write_text("b[1].tif\na*.tif\n")
    found = sources.listing([folder / "list.txt"])
    assert [Path(one).name for one in found.scenes] == ["b[1].tif", "a1.tif", "a2.tif"]
    assert found.refused == {}


@pytest.mark.parametrize(
    ("given", "gdal"),
    [
        ("https://host/a.tif?token=1", "/vsicurl/https://host/a.tif?token=1"),
        ("http://host/a.tif", "/vsicurl/http://host/a.tif"),
        ("s3://bucket/a.tif", "/vsis3/bucket/a.tif"),
        ("gs://bucket/a.tif", "/vsigs/bucket/a.tif"),
        ("/vsimem/a.tif", "/vsimem/a.tif"),
    ],
)
def test_addresses_become_gdal_paths(given: str, gdal: str) -> None:
    found = sources.listing([given])
    assert found.scenes == [gdal]
    assert sources.names(found.scenes) == ["a"]


def test_what_signs_an_address_is_used_and_told_nobody(
    write_tiff: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = write_tiff(tmp_path / "a.tif", np.full((8, 8, 1), 7, np.uint8))
    asked: list[str] = []
    opened = rasterio.open

    def far_away(path: str) -> Any:
        asked.append(path)
        if "none" in path:
            raise RasterioIOError(f"'{path}' does not exist")
        return opened(there)

    monkeypatch.setattr(rasterio, "open", far_away)
    (scene,) = sources.listing(["https://host/a.tif?sig=SE/CRET"]).scenes
    with Scene(scene) as seen:
        assert seen.source.sample([1])[0].max() == 7
        assert seen.source.name == "/vsicurl/https://host/a.tif"
    with pytest.raises(DataError) as refused:
        Scene("/vsicurl/https://host/none.tif?sig=SE/CRET")
    assert all(path.endswith("?sig=SE/CRET") for path in asked)
    assert str(refused.value).count("https://host/none.tif") == 2
    assert "CRET" not in str(refused.value)
    assert sources.names([scene]) == ["a"]


def test_a_file_whose_name_looks_like_a_glob_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a[1].tif"
    path.touch()
    assert sources.listing([path]).scenes == [path]


def test_labels_have_as_much_of_the_path_as_tells_scenes_apart() -> None:
    given = [
        "/d/x/a.tif", "/d/y/a.tif", "/e/y/a.tif", "c.tif", "/vsicurl/https://h/c.png?s=1"
    ]  # fmt: skip
    assert sources.labels(given) == ["x/a.tif", "d/y/a.tif", "e/y/a.tif", "c.tif", "c.png"]
    assert sources.labels(["a.tif", Path("x/a.tif")]) == ["a.tif", "x/a.tif"]
    assert sources.labels([]) == []


def test_names_differ_where_stems_do_not() -> None:
    paths = ["x/a.tif", "x/a.png", "y/a.tif", "x/b.tif", "z/B.tif", "x/c.tif"]
    found = sources.names([Path(path) for path in paths])
    assert found == ["x_a_tif", "a_png", "y_a_tif", "x_b_tif", "z_B_tif", "c"]
    assert sources.names([Path("p/x/a.tif"), Path("q/x/a.tif")]) == ["x_a_tif", "x_a_tif_2"]
