"""The page of an evaluation: its numbers, its parts, and nothing of the data taken for HTML."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from rstinynet.evaluate.page import Picture, page
from rstinynet.evaluate.svg import curves_svg

EVIL = "<script>alert(1)</script>\"'&"
REPORT = {
    "ap": 0.1234,
    "ap50": 0.5,
    "ap_vt": None,
    "ar": 0.25,
    "ar_by_max_det": {"1": 0.1},
    "per_class": {
        EVIL: {"ap": 0.1234, "ap50": 0.5, "ap_vt": None, "objects": 1200, "detections": 7}
    },
    "images": 3,
    "dropped_unknown": 5,
    "settings": {"protocol": "AI-TOD", "max_det": 1500, "odd": [EVIL], "sizes": {"all": [0, 1]}},
}
CURVES = {
    "recall": [0.0, 0.5, 1.0],
    "classes": {EVIL: {"precision": {"0.50": [1.0, 0.5, 0.0], "0.75": [0.5, 0.2, 0.0]}}},
}
ERRORS = {
    "ap50": 0.5,
    "hits": 7,
    "objects": 12,
    "kinds": {
        "localisation": {"count": 4, "gain": 0.04, "count_by_size": {"tiny": 3, "small": 1}},
        "missed": {"count": 9, "gain": None, "count_by_size": {"tiny": 9, "small": 0}},
    },
    "gain_without_false_detections": 0.1,
    "gain_without_unfound_objects": None,
}
CONFUSION = {
    "names": [EVIL, "background"],
    "counts": [[7, 2], [31, 0]],
    "conf": 0.25,
    "iou": 0.5,
}


class Reader(HTMLParser):
    """Tags that are closed, their attributes and the text."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(**extra):
    found = Reader(page(REPORT | extra, title=f"a {EVIL}"))
    assert found.open == []
    return found


def test_numbers_are_percentages_and_missing_ones_dashes():
    words = read().words
    assert words[words.index("AP, average precision") + 1] == "12.3"
    assert words[words.index("AP_vt, average precision of very tiny objects") + 1] == "–"  # noqa: RUF001
    assert "1,200" in words
    assert any("5 detections of classes unknown" in word for word in words)


def test_nothing_of_the_data_becomes_a_tag():
    found = read(curves=CURVES, errors=ERRORS, confusion=CONFUSION)
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "link", "iframe", "object", "a"}
    assert sum(EVIL in word for word in found.words) >= 6
    policy = next(a["content"] for t, a in found.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_parts_are_shown_where_the_report_has_them():
    heads = re.findall("<h2>(.*?)</h2>", page(REPORT, title="t"))
    assert heads == ["Numbers", "Classes"]
    whole = REPORT | {"curves": CURVES, "errors": ERRORS, "confusion": CONFUSION}
    picture = Picture(pixels=np.zeros((4, 6, 3), np.uint8), caption=EVIL)
    text = page(whole, title="t", pictures=[picture])
    heads = re.findall("<h2>(.*?)</h2>", text)
    assert heads[2:] == ["Precision and recall", "Errors", "Confusion", "Worst images"]
    assert text.count('class="curve"') == 2
    assert "7 of 12 objects found" in text
    # Not "were all found", which would gain more.
    assert "were nothing else to be found than what was" in text
    assert ">31</td>" in text
    found = Reader(text)
    [image] = [attributes for tag, attributes in found.tags if tag == "img"]
    assert image["alt"] == EVIL
    assert image["src"].startswith("data:image/jpeg;base64,")


def test_a_report_without_objects_is_still_a_page():
    empty = {"ap": None, "per_class": {}, "images": 0, "settings": {}}
    assert "average precision" in page(empty, title="nothing")


def test_a_curve_goes_through_its_points():
    svg = curves_svg({"one": ([0.0, 0.5, math.nan, 1.0], [1.0, 0.5, 0.1, 0.0])}, title="t")
    assert 'd="M48.0 28.0L228.0 208.0L408.0 388.0"' in svg
    assert curves_svg({}, title="empty").count("curve") == 0


@pytest.mark.parametrize("count", [1, 9])
def test_lines_are_told_apart(count):
    svg = curves_svg({f"line {at}": ([0.0], [1.0]) for at in range(count)}, title="t")
    drawn = re.findall(r'class="curve" d="[^"]*" (stroke=.*?)/>', svg)
    assert len(set(drawn)) == count
