"""`rstinynet tables` as a user meets it."""

from __future__ import annotations

import json

import pytest

from rstinynet.cli.main import run
from rstinynet.data.synthetic import make_synthetic
from rstinynet.evaluate import comparison


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    truth = json.loads(make_synthetic(folder, images=2, size=64, split="val").read_text())
    keys = ("image_id", "category_id", "bbox")
    found = [{key: each[key] for key in keys} | {"score": 0.5} for each in truth["annotations"]]
    (folder / "dets.json").write_text(json.dumps(found))
    return folder


def test_published_rows_alone(capsys):
    assert run(["tables", "--table", "aitod"]) == 0
    printed = capsys.readouterr().out
    assert "| RS-TinyNet | – | 2025 | Table I, the paper itself | 34.2 |" in printed  # noqa: RUF001
    assert "arXiv:2507.13120" in printed
    assert "DIOR" not in printed


def test_own_results_stand_apart_with_their_data(data, tmp_path, capsys):
    found = f"mine={data / 'dets.json'}"
    arguments = ["--data", str(data), "--split", "val", "--results", found, "--out", str(tmp_path)]
    assert run(["tables", "--format", "csv", *arguments]) == 0
    printed = capsys.readouterr().out
    assert f'mine,"{data.name}, val (2 images, 4 boxes)",100.0,100.0' in printed
    assert printed.index("# Measured here, on other data") > printed.index("# DIOR, test set")
    assert {path.name for path in tmp_path.iterdir()} == {"tables.md", "tables.csv", "tables.tex"}
    assert (tmp_path / "tables.csv").read_text() == printed


def test_what_has_no_place_in_the_table_asked_for_is_not_left_out(data, capsys, monkeypatch):
    monkeypatch.setattr(comparison, "recognise", lambda *_: comparison.AITOD_TEST)
    found = f"mine={data / 'dets.json'}"
    arguments = ["tables", "--data", str(data), "--split", "val", "--results", found]
    assert run([*arguments, "--table", "dior"]) == 2
    assert "measured on AI-TOD v1, test: give --table aitod or all" in " ".join(
        capsys.readouterr().err.split()
    )
    for which in ("aitod", "all"):
        assert run([*arguments, "--table", which]) == 0
        assert "| mine |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--table", "three"], 2, "--table must be"),
        (["--format", "html"], 2, "--format must be"),
        (["--results", "a=b.json"], 2, "go together"),
        (["--data", "d"], 2, "go together"),
        (["--results", "b.json", "--data", "d"], 2, "name=FILE"),
        (["--results", "a=b", "--results", "a=c", "--data", "d"], 2, "given twice"),
        (["--results", "a=b", "--data", "nowhere"], 3, "nowhere"),
        (["--results", "a=b", "--data", "nowhere", "--out", __file__], 2, "not a folder"),
        (["--run", "nowhere"], 3, "finished training run"),
    ],
)
def test_mistakes_are_answered(arguments, code, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["tables", *arguments]) == code
    assert message in " ".join(capsys.readouterr().err.split())
