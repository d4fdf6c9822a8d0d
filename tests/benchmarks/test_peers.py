"""benchmarks/peers.py: what workers are told, what is refused, and the table of the results."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rstinynet.data.folder import open_split
from rstinynet.data.formats.coco import write_coco
from rstinynet.data.tiles import TileSettings, cut


@pytest.fixture(scope="module")
def peers(load_script):
    return load_script("benchmarks/peers.py")


@pytest.fixture(scope="module")
def data(synthetic):
    return synthetic(train=2, val=2, size=64)


WORKER = """
import json, sys
from pathlib import Path

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
described = json.loads(Path(job["described"]).read_text())
if job["model"] == "detr":
    sys.exit("no such thing here")
entries = []
for image in described["val"]:
    for (x0, y0, x1, y1), label in zip(image["boxes"], image["labels"]):
        entries.append({
            "image_id": image["id"], "category_id": described["category_ids"][label],
            "bbox": [x0, y0, x1 - x0, y1 - y0], "score": 0.5,
        })
(folder / "dets.json").write_text(json.dumps(entries))
told = {"parameters": 1234, "gflops": 5.5, "minutes": 0.1, "torch": "2", "threads": 1}
told |= {"platform": "here", "library": "made up 1.0", "note": "knows the truth"}
(folder / "peer.json").write_text(json.dumps(told))
"""


def test_workers_are_told_the_images_and_boxes(peers, data, tmp_path):
    train, val = open_split(data, "train"), open_split(data, "val")
    told = json.loads(peers.describe(train, val, tmp_path).read_text())
    assert told["category_ids"] == [1, 4]
    assert [len(told[split]) for split in ("train", "val")] == [2, 2]
    first = told["val"][0]
    assert first["boxes"] == val.images[0].boxes.tolist()
    assert Path(first["path"]).is_file()
    yolo = tmp_path / "described" / "yolo"
    listed = yaml.safe_load((yolo / "data.yaml").read_text())
    assert listed["names"] == ["storage-tank", "vehicle"]
    again = open_split(yolo / "data.yaml", "train")
    for one, other in zip(train.images, again.images, strict=True):
        assert abs(one.boxes - other.boxes).max() < 1e-3
        assert one.labels.tolist() == other.labels.tolist()


def test_nothing_of_other_data_is_left_among_what_peers_train_on(peers, data, tmp_path):
    train, val = open_split(data, "train"), open_split(data, "val")
    peers.describe(train, val, tmp_path)
    yolo = tmp_path / "described" / "yolo"
    (yolo / "labels" / "train.cache").write_bytes(b"the labels before")
    last = replace(train.images[1], path=train.images[0].path)
    peers.describe(replace(train, images=(last,)), val, tmp_path)
    [link] = (yolo / "images" / "train").iterdir()
    assert link.resolve() == train.images[0].path.resolve()
    assert [path.name for path in (yolo / "labels" / "train").iterdir()] == [f"{last.id}.txt"]
    assert not (yolo / "labels" / "train.cache").exists()


def run(peers, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["peers.py", *map(str, arguments)])
    return peers.main()


def test_rows_are_scored_kept_and_refused_with_another_budget(
    peers, data, tmp_path, monkeypatch, capsys
):
    workers = tmp_path / "workers"
    workers.mkdir()
    (workers / "transformers_worker.py").write_text(WORKER)
    monkeypatch.setattr(peers, "WORKERS", workers)
    common = ["--data", data, "--out", tmp_path / "out", "--python"]
    common += [f"transformers={sys.executable}", "--imgsz", 64]
    assert run(peers, monkeypatch, *common, "--epochs", 1, "--models", "rtdetr", "detr") == 1
    printed = capsys.readouterr()
    assert "detr failed" in printed.err
    assert "| rtdetr | made up 1.0 | 100.0 | 100.0 | 100.0 |" in printed.out
    assert "| detr | not finished |" in printed.out
    assert "1 epochs of 2 images" in printed.out
    assert "knows the truth" in printed.out
    assert "Labels are partial" not in printed.out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"described", "rows", "table.md", "table.csv", "table.tex"}

    (workers / "transformers_worker.py").write_text("raise SystemExit('run again')")
    assert run(peers, monkeypatch, *common, "--epochs", 1, "--models", "rtdetr") == 0
    assert "training" not in capsys.readouterr().err
    with pytest.raises(SystemExit, match="epochs"):
        run(peers, monkeypatch, *common, "--epochs", 2, "--models", "rtdetr")


def test_native_peers_see_as_many_tiles_as_ours_sees_images(
    peers, data, tmp_path, monkeypatch, capsys
):
    tiles, images = tmp_path / "tiles", tmp_path / "tiles" / "images"
    small = TileSettings(tile=40, overlap=8)
    made = cut(open_split(data, "train"), images / "train", settings=small)
    write_coco(made, tiles / "train.json", images_dir=images)
    workers = tmp_path / "workers"
    workers.mkdir()
    (workers / "ultralytics_worker.py").write_text(WORKER)
    monkeypatch.setattr(peers, "WORKERS", workers)
    common = ["--data", data, "--out", tmp_path / "out", "--epochs", 12, "--imgsz", 40]
    common += ["--python", f"ultralytics={sys.executable}", "--models", "yolo11n-peer", "--native"]
    assert run(peers, monkeypatch, *common, "--tiles", tiles) == 0
    job = json.loads((tmp_path / "out" / "rows" / "yolo11n-peer" / "job.json").read_text())
    assert (job["epochs"], job["native"]) == (3, True)  # 12 epochs of 2 images, 3 of 8 tiles
    told = json.loads((tmp_path / "out" / "described" / "data.json").read_text())
    assert (len(told["train"]), len(told["val"])) == (8, 2)
    assert "3 epochs of 8 tiles" in capsys.readouterr().out

    with pytest.raises(SystemExit):
        run(peers, monkeypatch, *common)
    assert "--native and --tiles together" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(peers, monkeypatch, *common, "--tiles", tiles, "--imgsz", 32)
    assert "have 40 px, not --imgsz 32" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(
            peers,
            monkeypatch,
            *common,
            *("--models", "fcos", "--python", f"torchvision={sys.executable}", "--tiles", tiles),
        )
    assert "--native is for ours and Ultralytics" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("models", "message"),
    [(["yolo99"], "no model yolo99"), (["fcos"], "needs --python torchvision=")],
)
def test_unknown_models_and_missing_environments_are_told(
    peers, data, models, message, tmp_path, monkeypatch, capsys
):
    arguments = ["--data", data, "--out", tmp_path / "out", "--epochs", 1, "--models", *models]
    with pytest.raises(SystemExit):
        run(peers, monkeypatch, *arguments)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
