"""How a model is run: what is refused before a runtime is told."""

from __future__ import annotations

import os

import pytest

from rstinynet.cli.running import runtime_options
from rstinynet.errors import UsageError
from rstinynet.runtime.backend import RuntimeOptions
from rstinynet.runtime.torch_backend import torch_device


@pytest.mark.parametrize("threads", [0, -1, 10**9, 10**11])
def test_threads_that_no_machine_has_are_refused(threads):
    with pytest.raises(UsageError, match=f"^threads must be at least 1 .*, not {threads}; "):
        RuntimeOptions(threads=threads)
    with pytest.raises(UsageError, match=f"^--threads must be at least 1 .*, not {threads}; "):
        runtime_options(threads=threads, providers=None, batch=None)


def test_more_threads_than_processors_are_allowed():
    assert RuntimeOptions(threads=2 * os.cpu_count()).threads == 2 * os.cpu_count()


def test_one_provider_is_not_taken_for_its_letters():
    with pytest.raises(UsageError, match=r"a tuple of names, .* not 'cuda'$"):
        RuntimeOptions(providers="cuda")


@pytest.mark.parametrize("name", ["meta", "meta:0", "hpu", "privateuseone", "cuda:99", "tpu", ""])
def test_devices_that_compute_nothing_here_are_refused(name):
    with pytest.raises(UsageError, match=f"device '{name}' .*; use 'cpu' or leave it out"):
        torch_device(name)
    assert torch_device("cpu").type == "cpu"
