"""Near-duplicates are found, different pictures and flat ones are not."""

from __future__ import annotations

import cv2
import numpy as np
import rasterio

from rstinynet.data.overlap import footprint, near_pairs, overlapping, picture_hash


def picture(seed):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (12, 12, 3)).astype(np.uint8)
    return cv2.resize(coarse, (160, 160), interpolation=cv2.INTER_CUBIC)


def test_a_picture_saved_anew_and_brightened_is_found_and_others_are_not():
    first = [picture(seed) for seed in range(6)]
    jpeg = cv2.imdecode(cv2.imencode(".jpg", first[4], [cv2.IMWRITE_JPEG_QUALITY, 80])[1], 1)
    second = [picture(100), jpeg, cv2.resize(cv2.add(first[2], 10), (120, 120))]
    pairs = near_pairs([picture_hash(p) for p in first], [picture_hash(p) for p in second])
    assert {(a, b) for a, b, _ in pairs} == {(4, 1), (2, 2)}
    assert [bits for _, _, bits in pairs] == sorted(bits for _, _, bits in pairs)


def test_flat_pictures_tell_nothing():
    sea = np.full((50, 50, 3), 30, np.uint8)
    assert picture_hash(sea) is None
    assert near_pairs([None], [None]) == []


def test_georeferences_overlap_or_only_touch(tmp_path):
    bounds = []
    for at, west in enumerate((10.0, 10.00005, 10.0001)):
        path = tmp_path / f"{at}.tif"
        place = rasterio.Affine(1e-6, 0, west, 0, -1e-6, 50)
        options = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:4326"}
        with rasterio.open(path, "w", width=100, height=100, transform=place, **options) as file:
            file.write(np.zeros((1, 100, 100), np.uint8))
        bounds.append(footprint(path))
    assert overlapping(bounds[:1], bounds[1:]) == [(0, 0)]
    assert overlapping(bounds[:1], [None]) == []
    assert footprint(tmp_path / "a.png") is None


def test_tiles_edge_to_edge_in_a_turned_projection_share_nothing(tmp_path):
    grounds = []
    for at, (east, north) in enumerate(((280000, 5e6), (280050, 5e6), (280000, 5000025))):
        path = tmp_path / f"{at}.tif"
        place = rasterio.Affine(0.5, 0, east, 0, -0.5, north)
        options = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32632"}
        with rasterio.open(path, "w", width=100, height=100, transform=place, **options) as file:
            file.write(np.zeros((1, 100, 100), np.uint8))
        grounds.append(footprint(path))
    assert overlapping(grounds[:1], grounds[1:]) == [(0, 1)]
    site = tmp_path / "site.tif"
    place = rasterio.Affine(0.5, 0, 0, 0, -0.5, 0)
    options |= {"crs": 'LOCAL_CS["site grid",UNIT["metre",1]]'}
    with rasterio.open(site, "w", width=9, height=9, transform=place, **options) as file:
        file.write(np.zeros((1, 9, 9), np.uint8))
    assert footprint(site) is None
