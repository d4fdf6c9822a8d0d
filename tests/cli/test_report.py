"""`rstinynet report` as a user meets it; tests/browser opens its page."""

from __future__ import annotations

import json
import os
import shutil

import cv2
import numpy as np
import pytest

from rstinynet.cli.main import run
from rstinynet.data.synthetic import make_synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    truth = json.loads(make_synthetic(folder, images=2, size=96, split="val").read_text())
    keys = ("image_id", "category_id", "bbox")
    found = [{key: each[key] for key in keys} | {"score": 0.5} for each in truth["annotations"]]
    (folder / "dets.json").write_text(json.dumps(found))
    return folder


def arguments(data, out):
    return ["report", "--data", str(data), "--predictions", str(data / "dets.json"), "--out", out]


def test_the_page_is_written_with_its_pictures(data, tmp_path, capsys):
    out = str(tmp_path / "new" / "r.html")
    assert run([*arguments(data, out), "--worst", "1", "--name", "mine & yours"]) == 0
    assert capsys.readouterr().out.strip() == out
    text = (tmp_path / "new" / "r.html").read_text()
    assert f"<h1>mine &amp; yours on {data.name}, val</h1>" in text
    assert text.count("data:image/jpeg") == 1
    for part in ("Numbers", "Classes", "Precision and recall", "Errors", "Confusion"):
        assert f"<h2>{part}</h2>" in text
    assert text.count('class="curve"') == 4
    assert str(data.parent) not in text
    assert run([*arguments(data, out), "--worst", "0", "--protocol", "dior"]) == 0
    assert "data:image" not in (tmp_path / "new" / "r.html").read_text().replace(
        "img-src data:", ""
    )


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["--out", "r.txt"], 2, "--out must be an .html file"),
        (["--out", f"{__file__}/r.html", "--predictions", "nowhere.json"], 2, "not a folder"),
        (["--worst", "-1"], 2, "--worst must be"),
        (["--conf", "1"], 2, "--conf must be"),
        (
            ["--conf", "0.5", "--worst", "0"],
            2,
            "--conf 0.5 is for the pictures of the worst images",
        ),
        (["--protocol", "coca"], 2, "protocol must be one of"),
        (["--predictions", "nowhere.json"], 3, "nowhere.json"),
        (["--split", "test"], 3, "no split 'test'"),
    ],
)
def test_mistakes_are_answered(data, extra, code, message, tmp_path, capsys):
    out = tmp_path / "r.html"
    assert run([*arguments(data, str(out)), *extra]) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_names_of_bytes_that_are_not_utf8(data, tmp_path, capsys):
    name, out = os.fsdecode(b"run \xff\xfe"), tmp_path / "r.html"
    found = tmp_path / os.fsdecode(b"d\xff.json")
    shutil.copy(data / "dets.json", found)
    command = [*arguments(data, str(out)), "--predictions", str(found), "--worst", "1"]
    assert run([*command, "--name", name]) == 0
    text = out.read_text(encoding="utf-8")
    assert "<h1>run ?? on" in text
    assert "<dd>d?.json</dd>" in text
    view = ["view", "--data", str(data), "--predictions", f"{name}={found}", "--count", "1"]
    assert run([*view, "--out", str(tmp_path / "v")]) == 0
    assert len(list((tmp_path / "v").iterdir())) == 1


def test_a_picture_of_another_size_than_its_labels_is_an_error(data, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    for picture in (other / "images").iterdir():
        assert cv2.imwrite(str(picture), np.zeros((48, 48, 3), np.uint8))
    assert run(arguments(other, str(tmp_path / "r.html"))) == 3
    assert "48 x 48 and annotated as 96 x 96" in " ".join(capsys.readouterr().err.split())
    view = ["view", "--data", str(other), "--predictions", str(other / "dets.json")]
    assert run([*view, "--out", str(tmp_path / "v")]) == 3
    assert "48 x 48 and annotated as 96 x 96" in " ".join(capsys.readouterr().err.split())
