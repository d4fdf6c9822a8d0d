"""STAC files that pystac itself wrote: which asset, of which items."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import pystac
import pytest

from rstinynet.scenes import sources

COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def item(name: str, assets: dict[str, dict[str, Any]]) -> pystac.Item:
    made = pystac.Item(name, None, None, datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC), {})
    for key, asset in assets.items():
        made.add_asset(key, pystac.Asset(**{"media_type": COG} | asset))
    return made


def write(path: Path, *items: pystac.Item) -> Path:
    whole = items[0] if len(items) == 1 else pystac.ItemCollection(items)
    path.write_text(json.dumps(whole.to_dict()))
    return path


def bands(folder: str) -> dict[str, dict[str, Any]]:
    """As satellite archives have them: a picture, single bands, a preview and metadata."""
    return {
        "thumbnail": {"href": f"{folder}/t.png", "media_type": "image/png", "roles": ["thumbnail"]},
        "red": {"href": f"{folder}/red.tif", "roles": ["data", "reflectance"]},
        "nir": {"href": f"{folder}/nir.tif", "roles": ["data", "reflectance"]},
        "visual": {"href": f"{folder}/rgb.tif", "roles": ["visual"]},
        "info": {"href": f"{folder}/i.xml", "media_type": "text/xml", "roles": ["metadata"]},
    }


def test_an_item_gives_its_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", item("a", bands("./a")))
    assert sources.listing([path]).scenes == [tmp_path / "a" / "rgb.tif"]


def test_a_collection_gives_that_of_every_item_by_name_or_role(tmp_path: Path) -> None:
    path = write(
        tmp_path / "ab.geojson",
        item("a", bands("a")),
        item("b", bands("https://host/b")),
        item("c", {"visual": {"href": "c.tif"}}),
    )
    remote = "/vsicurl/https://host/b"
    want = [tmp_path / "a/rgb.tif", f"{remote}/rgb.tif", tmp_path / "c.tif"]
    assert sources.listing([path]).scenes == want
    by_name = sources.listing([path], asset="nir")
    assert by_name.scenes == [tmp_path / "a/nir.tif", f"{remote}/nir.tif"]
    (refused,) = by_name.refused.items()
    assert refused[0].endswith("ab.geojson#c")
    assert "item c has no asset or picture of a role 'nir': it has visual (no role)" in str(
        refused[1]
    )
    by_role = sources.listing([path], asset="thumbnail").scenes
    assert by_role == [tmp_path / "a/t.png", f"{remote}/t.png"]


def test_the_only_picture_is_taken_and_of_several_none(tmp_path: Path) -> None:
    only = item("one", {"pan": {"href": "p.tif"}, "doc": {"href": "d.pdf", "media_type": "a/b"}})
    assert sources.listing([write(tmp_path / "1.json", only)]).scenes == [tmp_path / "p.tif"]
    bare = {"href": "p.tif", "media_type": None}
    path = write(tmp_path / "2.json", item("two", {"pan": bare, "ms": bare | {"href": "m.JP2"}}))
    (refused,) = sources.listing([path]).refused.values()
    assert "2 pictures to choose from: name one by --asset out of pan (no role)" in str(refused)


def test_a_name_goes_before_roles_and_of_several_pictures_of_a_role_none_is_taken(
    tmp_path: Path,
) -> None:
    both = {
        "scl": {"href": "scl.tif", "roles": ["data"]},
        "visual": {"href": "v.tif", "roles": ["visual"]},
        "visual-jp2": {"href": "v.jp2", "media_type": "image/jp2", "roles": ["visual"]},
    }
    path = write(tmp_path / "1.json", item("one", both))
    assert sources.listing([path]).scenes == [tmp_path / "v.tif"]
    both["true-colour"] = both.pop("visual")
    (refused,) = sources.listing([write(tmp_path / "2.json", item("two", both))]).refused.values()
    assert "3 pictures to choose from" in str(refused)


def test_a_preview_is_taken_for_no_scene(tmp_path: Path) -> None:
    product = {"href": "p.h5", "media_type": "application/x-hdf5", "roles": ["data"]}
    preview = {"href": "t.png", "media_type": "image/png", "roles": ["thumbnail"]}
    path = write(tmp_path / "1.json", item("one", {"product": product, "preview": preview}))
    (refused,) = sources.listing([path]).refused.values()
    assert "0 pictures to choose from" in str(refused)
    assert sources.listing([path], asset="preview").scenes == [tmp_path / "t.png"]


def test_a_catalog_is_followed_to_its_items(tmp_path: Path) -> None:
    catalog = pystac.Catalog("c", "scenes")
    catalog.add_item(item("a", {"visual": {"href": "a.tif"}}))
    catalog.normalize_and_save(str(tmp_path), pystac.CatalogType.SELF_CONTAINED)
    assert sources.listing([tmp_path / "catalog.json"]).scenes == [tmp_path / "a" / "a.tif"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "no stac_version"),
        ('{"images": []}', "no stac_version"),
        ('{"type": "FeatureCollection", "features": []}', "no stac_version"),
        ('{"type": "Feature", "stac_version": "1.0.0"}', "not STAC that can be read"),
        ('{"type": "Odd", "stac_version": "1.0.0"}', "not STAC that can be read"),
        ('{"type": "Feature", "stac_version": 1, "assets": []}', "not STAC that can be read"),
        ('{"type": "FeatureCollection", "features": 3}', "no stac_version"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    (refused,) = sources.listing([path]).refused.values()
    assert words in str(refused)


def test_malformed_items_are_refused_and_the_others_kept(tmp_path: Path) -> None:
    good = item("good", bands("a")).to_dict()
    for at, (key, value) in enumerate([("assets", {"a": 3}), ("properties", 3), ("links", 3)]):
        bad = good | {"id": f"bad{at}", key: value}
        roles = item("roles", bands("a")).to_dict()
        roles["assets"]["visual"]["roles"] = 3
        path = tmp_path / f"{at}.json"
        content = {"type": "FeatureCollection", "features": [bad, roles, good]}
        path.write_text(json.dumps(content))
        listing = sources.listing([path])
        assert listing.scenes == [tmp_path / "a" / "rgb.tif"]
        assert list(listing.refused) == [f"{path}#bad{at}", f"{path}#roles"]
        unread, unfit = map(str, listing.refused.values())
        assert f"{path}#bad{at}: not a STAC item" in unread
        assert f"{path}#roles: its assets cannot be read" in unfit


def test_a_catalog_that_goes_round_in_circles_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    catalog = pystac.Catalog("c", "scenes").to_dict()
    path.write_text(json.dumps(catalog | {"links": [{"rel": "child", "href": "c.json"}]}))
    (refused,) = sources.listing([path]).refused.values()
    assert f"{path}: not STAC that can be read" in str(refused)


def test_percent_signs_of_a_local_address_are_read(tmp_path: Path) -> None:
    for name in ("my scene.tif", "100%25.tif"):
        (tmp_path / name).touch()
    path = write(
        tmp_path / "a.json",
        item("a", {"visual": {"href": "my%20scene.tif"}}),
        item("b", {"visual": {"href": (tmp_path / "my scene.tif").as_uri()}}),
        item("c", {"visual": {"href": "100%25.tif"}}),
        item("d", {"visual": {"href": "https://host/my%20scene.tif"}}),
    )
    assert sources.listing([path]).scenes == [
        tmp_path / "my scene.tif",
        tmp_path / "100%25.tif",  # there under this very name
        "/vsicurl/https://host/my%20scene.tif",
    ]


def test_without_pystac_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.json", item("a", bands("a")))
    monkeypatch.setitem(sys.modules, "pystac", None)
    (refused,) = sources.listing([path]).refused.values()
    assert "pip install 'rs-tinynet[geo]'" in str(refused)
