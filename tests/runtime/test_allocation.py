"""Memory that is kept between forward passes."""

from __future__ import annotations

import ctypes
import platform

import pytest

from rstinynet.model.presets import build
from rstinynet.runtime import allocation
from rstinynet.runtime.allocation import keep_memory
from rstinynet.runtime.torch_backend import TorchBackend

GLIBC = platform.libc_ver()[0] == "glibc"


@pytest.fixture
def undecided(monkeypatch):
    for name in (allocation.TURN_OFF, "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)


def test_it_is_kept_where_glibc_is(undecided):
    assert keep_memory() is GLIBC


def test_the_user_decides(undecided, monkeypatch):
    monkeypatch.setenv(allocation.TURN_OFF, "1")
    assert keep_memory() is False
    monkeypatch.setenv(allocation.TURN_OFF, "0")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    assert keep_memory() is False


def test_another_c_library_is_left_alone(undecided, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_memory() is False


def test_the_library_leaves_the_process_as_it_is(undecided, monkeypatch):
    asked = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: asked.append(name) or object())
    TorchBackend(build("yolo11n", 2), device="cpu")
    assert asked == []
    keep_memory()
    assert asked == [None]
