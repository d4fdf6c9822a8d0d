"""The page of `rstinynet report`, opened in a real browser that is watched."""

from __future__ import annotations

import json
import re

import cv2
import pytest

from rstinynet.cli.main import run
from rstinynet.data.synthetic import make_synthetic

pytestmark = pytest.mark.browser
EVIL = '<img src="http://leak.invalid/name.png" onerror="document.title=1">'


@pytest.fixture
def report(tmp_path):
    """A page, and the numbers that it must show."""
    data = tmp_path / "data"
    path = make_synthetic(data, images=3, size=128, split="val")
    content = json.loads(path.read_text())
    content["categories"][1]["name"] = EVIL
    path.write_text(json.dumps(content))
    keys = ("image_id", "category_id", "bbox")
    found = [
        {key: each[key] for key in keys} | {"score": 1 - at / 99}
        for at, each in enumerate(content["annotations"])
        if at % 3
    ]
    (tmp_path / "dets.json").write_text(json.dumps(found))
    out = tmp_path / "report.html"
    arguments = ["--data", str(data), "--predictions", str(tmp_path / "dets.json")]
    assert run(["report", *arguments, "--out", str(out), "--worst", "2"]) == 0
    return out


def test_the_browser_shows_the_numbers_and_asks_for_nothing(report, browser, tmp_path, capsys):
    capsys.readouterr()
    data, found = str(tmp_path / "data"), str(tmp_path / "dets.json")
    assert run(["val", "--data", data, "--predictions", found, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert 0 < measured["ap"] < 1
    dom = browser.dom(report)
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", dom)
    for head, key in (("AP, average precision", "ap"), ("AR, average recall", "ar")):
        assert cells[cells.index(head) + 1] == f"{100 * measured[key]:.1f}"
    assert dom.count('src="data:image/jpeg;base64,') == 2
    assert "&lt;img src=" in dom
    assert "<title>dets on data, val</title>" in dom
    assert browser.proxy.asked == []

    picture = tmp_path / "shot.png"
    browser.run(report, f"--screenshot={picture}", "--window-size=1000,1400")
    shot = cv2.imread(str(picture))
    assert shot.shape == (1400, 1000, 3)
    assert shot[:300].min() < 60
    assert shot.std() > 20
    assert browser.proxy.asked == []


def test_a_request_would_have_been_seen(browser, tmp_path):
    page = tmp_path / "leaky.html"
    page.write_text('<!doctype html><img src="http://leak.invalid/x.png"><p>there')
    assert "there" in browser.dom(page)
    assert any("leak.invalid/x.png" in line for line in browser.proxy.asked)
