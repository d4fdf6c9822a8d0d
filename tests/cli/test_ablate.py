"""`rstinynet ablate` as a user meets it."""

from __future__ import annotations

import json

import pytest

from rstinynet.cli.main import run


@pytest.fixture(scope="module")
def data(synthetic):
    return str(synthetic(train=2, val=2, size=64))


SMALL = ["--recipe", "short", "--epochs", "1", "--batch", "2", "--imgsz", "64", "--device", "cpu"]


def test_trains_the_rows_named_and_writes_three_tables(data, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["ablate", "--data", data, "--out", str(out), *SMALL, "--rows", "baseline,p2"]
    assert run([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [each["row"] for each in printed["runs"]] == ["baseline", "p2"]
    assert {path.name for path in out.iterdir()} == {
        "ablation.json",
        "runs",
        "table.md",
        "table.csv",
        "table.tex",
    }
    assert "baseline + P2 (control)" in (out / "table.md").read_text()
    assert run([*arguments, "--set", "lr0=0.5", "--rows", "p2"]) == 2
    assert "recipe.lr0 was" in " ".join(capsys.readouterr().err.split())
    table = (out / "table.md").read_text()
    assert run([*arguments, "--rows", "p2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {each["row"] for each in told["runs"]} == {"baseline", "p2"}
    assert told["left_out"] == []
    again = (out / "table.md").read_text()
    assert [line for line in again.splitlines() if line.startswith("|")] == [
        line for line in table.splitlines() if line.startswith("|")
    ]
    assert "settings: baseline, seed 0." in " ".join(again.split())


def test_a_dry_run_prints_the_plan_and_writes_nothing(data, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["ablate", "--data", data, "--out", str(out), *SMALL, "--rows", "baseline,full"]
    assert run([*arguments, "--scale", "m", "--seeds", "0,1", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n| ") == 4
    assert "paper-full-m" in printed
    assert run([*arguments, "--scale", "m", "--seeds", "0,1", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["scale"], told["seeds"]) == ("m", [0, 1])
    rows = {each["row"]: each for each in told["plan"]}
    assert list(rows) == ["baseline", "full"]
    assert rows["full"]["model"] == "paper-full-m"
    assert rows["full"]["images"] == 2 * 2
    assert f"| {rows['full']['parameters']:,} |" in printed
    assert not out.exists()


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["--scale", "q"], 2, "--scale must be one of n, s, m, l, x"),
        (["--rows", "mdca,nothing"], 2, "nothing"),
        (["--seeds", "0,a"], 2, "whole numbers"),
        (["--set", "seed=3"], 2, "--seeds"),
        (["--max-minutes", "2", "--set", "max-minutes=none"], 2, "max_minutes=none differ"),
        (["--recipe", "papre"], 2, "did you mean 'paper'"),
        (["--data", "nowhere"], 3, "nowhere"),
        (["--out", f"{__file__}/x"], 2, "not a folder"),
    ],
)
def test_mistakes_are_answered(data, extra, code, message, tmp_path, capsys):
    assert run(["ablate", "--data", data, "--out", str(tmp_path / "out"), *extra]) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
