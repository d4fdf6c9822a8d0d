"""A cached image is the image: stale or damaged ones are noticed, the rest is decoded."""

from __future__ import annotations

import errno
import logging
import os

import cv2
import numpy as np
import pytest

from rstinynet.data import cache as cache_module
from rstinynet.data.cache import DiskCache, ImageCache, default_folder, open_cache
from rstinynet.data.image import read_rgb
from rstinynet.errors import DataError

BYTES = 24 * 32 * 3


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        found.append(path)
    return found


@pytest.fixture
def decoded(monkeypatch):
    """The paths that were decoded."""
    seen = []

    def counting(path):
        seen.append(path)
        return read_rgb(path)

    monkeypatch.setattr(cache_module, "read_rgb", counting)
    return seen


def test_memory_is_bounded_and_read_only(paths):
    cache = ImageCache(2 * BYTES + 5)
    for path in paths:
        pixels = cache.read(path)
    assert len(cache) == 2
    assert cache.read(paths[0]) is cache.read(paths[0])
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 1


def test_disk_decodes_once_for_all_runs(paths, tmp_path, decoded):
    folder = tmp_path / "cache"
    for _ in range(2):
        cache = DiskCache(folder, 1 << 20)
        for path in paths:
            pixels = cache.read(path)
            np.testing.assert_array_equal(pixels, read_rgb(path))
            with pytest.raises(ValueError, match="read-only"):
                pixels[0] = 1
    assert decoded == paths
    assert len(list(folder.iterdir())) == 4


def flip_a_bit(entry):
    content = bytearray(entry.read_bytes())
    content[-7] ^= 4
    entry.write_bytes(content)


def cut_short(entry):
    entry.write_bytes(entry.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        cut_short,
        lambda entry: entry.write_bytes(b""),
        lambda entry: entry.write_bytes(b"[1, 2]"),
    ],
)
def test_a_damaged_entry_is_made_anew(paths, tmp_path, decoded, damage):
    cache = DiskCache(tmp_path / "cache", 1 << 20)
    expected = cache.read(paths[0])
    damage(next((tmp_path / "cache").iterdir()))
    np.testing.assert_array_equal(cache.read(paths[0]), expected)
    np.testing.assert_array_equal(cache.read(paths[0]), expected)
    assert decoded == [paths[0]] * 2


def test_a_changed_image_is_decoded_anew(paths, tmp_path, decoded):
    cache = DiskCache(tmp_path / "cache", 1 << 20)
    cache.read(paths[0])
    before = paths[0].stat()
    cv2.imwrite(str(paths[0]), np.full((24, 32, 3), 7, np.uint8))
    assert (cache.read(paths[0]) == 7).all()
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    cache.read(paths[0])
    assert decoded == [paths[0]] * 3


def test_the_bound_holds_and_others_entries_make_room(paths, tmp_path, decoded):
    folder = tmp_path / "cache"
    bound = 2 * (BYTES + 4096) + 10
    first = DiskCache(folder, bound)
    for path in paths[:3]:
        first.read(path)
    assert len(list(folder.iterdir())) == 2
    second = DiskCache(folder, bound)
    second.read(paths[1])
    second.read(paths[3])
    second.read(paths[2])
    assert sum(entry.stat().st_size for entry in folder.iterdir()) <= bound
    assert decoded == [*paths[:3], paths[3], paths[2]]
    assert DiskCache(folder, bound).read(paths[3]).shape == (24, 32, 3)
    assert len(decoded) == 5


def test_a_name_of_any_bytes_is_kept_on_disk(paths, tmp_path, decoded):
    named = paths[0].rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    for _ in range(2):
        assert DiskCache(tmp_path / "cache", 1 << 20).read(named).shape == (24, 32, 3)
    assert decoded == [named]


def test_a_full_disk_is_warned_of_once_and_training_goes_on(paths, tmp_path, monkeypatch, caplog):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module.Path, "write_bytes", full)
    cache = DiskCache(tmp_path / "cache", 1 << 20)
    with caplog.at_level(logging.WARNING):
        for path in paths:
            np.testing.assert_array_equal(cache.read(path), read_rgb(path))
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("kind", ["none", "memory", "disk"])
def test_a_missing_image_is_a_data_error_in_each(tmp_path, kind):
    cache = open_cache(kind, gib=0.01, folder=tmp_path / "cache")
    with pytest.raises(DataError, match="not found"):
        cache.read(tmp_path / "none.png")


def test_a_memory_cache_may_be_without_bound(paths, decoded):
    cache = open_cache("memory", gib=float("inf"))
    for path in [*paths, *paths]:
        cache.read(path)
    assert len(decoded) == len(paths)


def test_none_keeps_nothing_and_the_folder_is_the_users(paths, decoded, monkeypatch, tmp_path):
    cache = open_cache("none", gib=4)
    for _ in range(2):
        cache.read(paths[0])
    assert len(decoded) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "rstinynet" / "decoded"
    assert open_cache("disk", gib=1).folder == default_folder()
