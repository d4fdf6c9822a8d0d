"""The ablation: which rows there are, what is trained again and what is refused."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

from rstinynet.cli.main import run
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import UsageError, WeightsError
from rstinynet.evaluate.published import ablation_rows
from rstinynet.model.cost import count_parameters
from rstinynet.model.presets import build, config
from rstinynet.train import loop
from rstinynet.train.ablation import (
    ROWS,
    Measured,
    Plan,
    Splits,
    begin,
    check_init,
    costs,
    train_rows,
)
from rstinynet.train.ablation_earlier import earlier
from rstinynet.train.ablation_table import plan_table, results_table
from rstinynet.train.folder import RunFolder
from rstinynet.train.job import TrainingStoppedError
from rstinynet.train.overrides import with_overrides
from rstinynet.train.recipe import short

MDCA_PFDH_DIFFERENCE = -719_257


@pytest.fixture(scope="module")
def data(synthetic):
    return synthetic(train=4, val=2, size=64)


@pytest.fixture
def plan(data, tmp_path):
    settings = {"imgsz": 64, "batch": 2, "epochs": 1, "norm_batches": 0, "val_every": 0}
    recipe = with_overrides(short(), settings)
    return Plan(
        data=data, out=tmp_path / "out", scale="n", recipe=recipe, rows=("baseline", "mdca")
    )


def measured(row, seed, ap):
    metrics = dict.fromkeys(("ap", "ap50", "ap75", "ap_vt", "ap_t", "ap_s"), ap)
    return Measured(
        row=row,
        seed=seed,
        metrics=metrics | {"ap_m": None, "minutes": 1.5},
        environment={"device": "cpu", "platform": "here", "torch": "2", "torch_threads": 1},
    )


def test_rows_are_table_three_and_the_control_with_its_parameters():
    published = ablation_rows()
    assert [row.name for row in ROWS if row.name != "p2"] == list(published)
    for row in ROWS:
        if row.name != "p2":
            with torch.device("meta"):
                model = build(row.model("m"), 8).without_auxiliary()
            missing = MDCA_PFDH_DIFFERENCE if row.name == "mdca-pfdh" else 0
            assert count_parameters(model) - published[row.name].parameters == missing


def test_each_row_has_the_parts_that_its_marks_say():
    for row in ROWS:
        made = config(row.model("n"), 8)
        parts = (2 in made.levels, made.mdca is not None, made.arb != "none", bool(made.pfdh))
        assert parts == row.modules


def test_two_rows_are_trained_once_and_tabled_after_each(plan, monkeypatch):
    splits = Splits.open(plan.data)
    seen = []
    found = train_rows(plan, splits, lambda runs: seen.append([each.row for each in runs]))
    assert seen == [["baseline"], ["baseline", "mdca"], ["baseline", "mdca"]]
    assert all(each.metrics["iterations"] == 2 for each in found)
    monkeypatch.setattr(loop, "train", lambda job: pytest.fail("trained again"))
    monkeypatch.setattr(loop, "resume", lambda *_, **__: pytest.fail("resumed again"))
    assert train_rows(plan, splits, lambda runs: None) == found
    table = results_table(plan, splits, costs(plan, 2), found)
    text = table.as_text("markdown")
    assert [row[0] for row in table.rows] == ["baseline", "MDCA"]
    assert "1 epochs of 4 images, batch 2, 64 pixels" in text
    assert "20,553,992" in text
    assert "torch_threads" not in text


def test_an_interrupted_row_goes_on_in_its_middle(plan, monkeypatch):
    plan = replace(plan, rows=("baseline",), recipe=replace(plan.recipe, save_minutes=0.0))
    splits = Splits.open(plan.data)
    started = []

    def stop(job):
        trainer = loop.Trainer(job)
        trainer.stop.asked = True
        trainer.outcome.folder.begin(job.as_values(), trainer.outcome.inputs())
        started.append(job.out)
        return trainer.run()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", stop)
        with pytest.raises(TrainingStoppedError, match="same command again") as caught:
            train_rows(plan, splits, lambda runs: None)
    assert caught.value.exit_code == 130
    monkeypatch.setattr(loop, "train", lambda job: pytest.fail("began anew"))
    again = replace(plan, recipe=replace(plan.recipe, workers=1, log_every=1))
    found = train_rows(again, splits, lambda runs: None)
    lines = (started[0] / "events.jsonl").read_text().splitlines()
    resumed = [json.loads(line) for line in lines if '"begin"' in line][-1]["settings"]["recipe"]
    assert (resumed["workers"], resumed["log_every"]) == (1, 1)
    assert found[0].metrics["iterations"] == 2
    assert started == [plan.out / "runs" / "baseline" / "seed-0"]


def test_weights_without_a_state_begin_anew(plan):
    plan = replace(plan, rows=("baseline",))
    splits = Splits.open(plan.data)
    first = train_rows(plan, splits, lambda runs: None)
    folder = plan.run_folder(ROWS[0], 0)
    shutil.rmtree(folder / "resume")
    (folder / "metrics.json").unlink()
    again = train_rows(plan, splits, lambda runs: None)
    assert again[0].metrics["ap"] == first[0].metrics["ap"]


def test_other_settings_or_data_are_refused_and_more_rows_are_not(plan, tmp_path):
    splits = Splits.open(plan.data)
    begin(plan, splits)
    begin(replace(plan, rows=("full",), seeds=(0, 7)), splits)
    begin(replace(plan, recipe=replace(plan.recipe, workers=1)), splits)
    path = plan.out / "ablation.json"
    kept = json.loads(path.read_text())
    del kept["recipe"]["augment"]["stretch_prob"]  # as a version without that setting wrote it
    path.write_text(json.dumps(kept))
    begin(plan, splits)
    stretched = replace(plan.recipe, augment=replace(plan.recipe.augment, stretch_prob=0.5))
    with pytest.raises(UsageError, match=r"augment\.stretch_prob was 0\.0, is 0\.5"):
        begin(replace(plan, recipe=stretched), splits)
    with pytest.raises(UsageError, match=r"recipe\.epochs was 1, is 5"):
        begin(replace(plan, recipe=replace(plan.recipe, epochs=5)), splits)
    with pytest.raises(UsageError, match="scale was 'n', is 's'"):
        begin(replace(plan, scale="s"), splits)
    make_synthetic(tmp_path / "other", images=4, size=64, seed=1)
    make_synthetic(tmp_path / "other", images=2, size=64, seed=1, split="val")
    with pytest.raises(UsageError, match="train_sha256"):
        begin(plan, Splits.open(tmp_path / "other"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ("mdca", "pfhd")}, "pfhd"),
        ({"rows": ()}, "nothing"),
        ({"seeds": ()}, "--seeds"),
        ({"seeds": (1, 1)}, "different"),
        ({"seeds": (-1,)}, "0 or more"),
        ({"seeds": (0, 2**64)}, r"less than 2\*\*64"),
    ],
)
def test_plans_that_make_no_sense_are_refused(plan, change, message):
    with pytest.raises(UsageError, match=message):
        replace(plan, **change)


def test_an_error_names_its_row(plan, monkeypatch):
    def fail(job):
        raise WeightsError("no such weights")

    monkeypatch.setattr(loop, "train", fail)
    with pytest.raises(WeightsError, match="row 'baseline', seed 0: no such weights"):
        train_rows(plan, Splits.open(plan.data), lambda runs: None)


def test_the_table_gives_mean_spread_and_gain_beside_the_papers(plan):
    plan = replace(plan, rows=("baseline", "p2", "mdca"), seeds=(0, 1))
    found = [measured("baseline", 0, 0.20), measured("baseline", 1, 0.22), measured("p2", 0, 0.25)]
    table = results_table(plan, Splits.open(plan.data), costs(plan, 2), found)
    rows = list(csv.DictReader(table.as_text("csv").splitlines()[7:]))
    assert [row["row"] for row in rows] == ["baseline", "baseline + P2 (control)", "MDCA"]
    assert rows[0]["AP"] == f"21.0 ± {math.sqrt(2):.1f}"
    assert rows[0]["AP_m"] == ""
    assert [row["ΔAP"] for row in rows] == ["0.0", "+4.0", ""]
    assert [row["paper ΔAP"] for row in rows] == ["0.0", "", "+3.2"]
    assert [row["seeds"] for row in rows] == ["2", "1", "0"]
    assert "Not finished yet: 3 of 6 runs" in table.as_text("markdown")
    assert "4.5 minutes of training" in table.as_text("markdown")
    assert r"$\pm$" in table.as_text("latex")


def test_the_plan_counts_images_and_cost(plan):
    plan = replace(plan, rows=("baseline",), seeds=(0, 1))
    splits = Splits.open(plan.data)
    cost = costs(plan, 2)
    [row] = plan_table(plan, splits, cost).rows
    assert row[1] == "yolo11n"
    assert row[4] == "8"
    expected = 3 * cost["baseline"].gflops * (64 / 800) ** 2 * 8 / 1e6
    assert float(row[5]) == pytest.approx(expected, abs=0.005)


def test_what_cannot_start_a_row_is_refused_before_the_first(data, plan, tmp_path):
    (tmp_path / "x.pt").touch()
    for init, rows, error, words in (
        (tmp_path / "x.pt", ("baseline", "p2"), UsageError, "not the rows p2"),
        (tmp_path / "y.pt", ("baseline",), WeightsError, "no checkpoint"),
        (tmp_path / "y.safetensors", ("baseline",), WeightsError, "y.safetensors"),
    ):
        with pytest.raises(error, match=words):
            check_init(replace(plan, init=init, rows=rows))
    arguments = ["ablate", "--data", data, "--out", tmp_path / "a", "--init", tmp_path / "x.pt"]
    assert run([*map(str, arguments), "--rows", "baseline,p2", "--dry-run"]) == 2


def test_the_note_names_what_chose_the_weights(data, plan):
    chosen = replace(plan, recipe=replace(plan.recipe, best="ap50"))
    splits = Splits.open(data)
    table = results_table(chosen, splits, costs(chosen, 2), [measured("baseline", 0, 0.2)])
    assert "with the best AP50 on that split" in " ".join(table.notes)


def finish(plan, splits, row, seed, ap):
    """The files that a finished run leaves, as training writes them."""
    job = plan.job(next(each for each in ROWS if each.name == row), seed)
    folder = RunFolder(job.out)
    data = {"train": splits.train.fingerprint, "val": splits.val.fingerprint}
    folder.begin(job.as_values(), {"device": "cpu", "seed": seed, "data": data})
    folder.write_metrics(measured(row, seed, ap).metrics)
    return job.out


def test_the_table_has_what_earlier_commands_finished(plan, tmp_path):
    splits = Splits.open(plan.data)
    weights = tmp_path / "start.safetensors"
    weights.write_bytes(b"weights")
    plan = replace(plan, rows=("p2",), init=str(weights))
    for row, seed, ap in (("baseline", 0, 0.2), ("baseline", 4, 0.22), ("p2", 0, 0.25)):
        finish(plan, splits, row, seed, ap)
    (finish(plan, splits, "full", 0, 0.3) / "metrics.json").unlink()  # not finished
    (plan.out / "runs" / "p2" / "seed-old").mkdir()
    finish(replace(plan, recipe=replace(plan.recipe, workers=1)), splits, "p2", 1, 0.27)
    longer = replace(plan, recipe=replace(plan.recipe, epochs=5))
    finish(longer, splits, "mdca", 0, 0.9)
    other = replace(splits, train=splits.val)
    finish(plan, other, "arb", 0, 0.9)
    finish(replace(plan, init=None), splits, "pfdh", 3, 0.9)
    finish(replace(plan, scale="s"), splits, "arb-pfdh", 0, 0.9)
    (finish(plan, splits, "mdca-arb", 0, 0.9) / "args.yaml").write_text("[")

    found = [measured("p2", 0, 0.25)]
    before = earlier(plan, splits)
    assert [(each.row, each.seed) for each in before.runs] == [
        ("baseline", 0),
        ("baseline", 4),
        ("p2", 1),
    ]
    cost = costs(replace(plan, rows=("baseline", "p2")), 2)
    table = results_table(plan, splits, cost, found, before)
    rows = list(
        csv.DictReader(line for line in table.as_text("csv").splitlines() if line[0] != "#")
    )
    assert [row["row"] for row in rows] == ["baseline", "baseline + P2 (control)"]
    assert [row["seeds"] for row in rows] == ["2", "2"]
    assert [row["\u0394AP"] for row in rows] == ["0.0", "+5.0"]
    notes = " ".join(table.notes)
    assert "with the same data and settings: baseline, seeds 0, 4; p2, seed 1." in notes
    for reason in (
        "mdca, seed 0 (recipe.epochs was 5, is 1)",
        "arb, seed 0 (train_sha256 was ",
        "pfdh, seed 3 (init was None, is 'start.safetensors, sha256 ",
        "arb-pfdh, seed 0 (model was 'paper-arb-pfdh-s', is 'paper-arb-pfdh-n')",
        "mdca-arb, seed 0 (",
        "cannot be read: ParserError",
    ):
        assert reason in notes
    assert "Not finished yet" not in notes
    weights.rename(tmp_path / "moved")
    moved = replace(plan, init=str(tmp_path / "there" / "start.safetensors"))
    assert len(earlier(moved, splits).runs) == 3
