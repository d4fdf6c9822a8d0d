"""What the runtimes of exported files share."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from rstinynet.model.metadata import WeightsMetadata
from rstinynet.runtime.backend import NMS_CONF
from rstinynet.runtime.ensemble import Member, together
from rstinynet.runtime.exported import ExportedBackend

SAYS = WeightsMetadata(model="m", names=("car", "ship"), category_ids=(1, 2))
IMAGES = np.zeros((1, 64, 64, 3), np.uint8)
ROWS = np.array([[0, 0, 0, 10, 10, 0.9, 0]], np.float32)
ANCHORS = np.array([[[5], [5], [10], [10], [0.9], [0.0]]], np.float32)


class Canned(ExportedBackend):
    """A file that gives the same of every image; with `ROWS`, one with NMS inside."""

    def __init__(self, given):
        self.given = given
        super().__init__("canned.onnx")

    def _open(self, path, device, options):
        self.metadata = SAYS

    def output(self, x_BCHW):
        return self.given


def warned(backend, conf):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(backend.find(IMAGES, conf=conf)[0]) == 1
    return [str(one.message) for one in caught]


def test_nms_inside_that_leaves_out_what_is_asked_for_says_so_once():
    backend = Canned(ROWS)
    assert warned(backend, NMS_CONF) == []
    [said] = warned(backend, 0.0004)
    assert said.startswith("canned.onnx: exported with NMS inside")
    assert "scores 0.001 or less" in said
    assert "all over 0.0004 is asked for" in said
    assert warned(backend, 0.0004) == []


def test_without_nms_any_confidence_may_be_asked():
    assert warned(Canned(ANCHORS), 1e-6) == []


@pytest.mark.parametrize(("conf", "count"), [(0.0015, 1), (0.002, 0)])
def test_a_member_of_several_is_asked_for_less_than_is_given(conf, count):
    members = [Member(Canned(given), SAYS, "x") for given in (ROWS, ANCHORS)]
    assert len(warned(together(members)[0], conf)) == count
