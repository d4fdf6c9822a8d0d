"""A search that was killed goes on, and ends as it would have unbroken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rstinynet.cli.main import run
from rstinynet.detections import Detections
from rstinynet.errors import DataError, RSTinyNetError, UsageError, WeightsError
from rstinynet.scenes import ledger as ledgers
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.ledger import Ledger, exists
from rstinynet.scenes.result import Result
from rstinynet.scenes.stream import PredictOptions, predict

Writer = Callable[..., Path]
Paint = Callable[..., np.ndarray]
OPTIONS = PredictOptions(tile=64, overlap=32)
KEY: dict[str, dict[str, Any]] = {"source": {"a": 1}, "weights": {"b": 2}, "settings": {"c": [3]}}


def found(count: int, seed: int = 0) -> Detections:
    boxes = np.random.default_rng(seed).random((count, 4), np.float32)
    return Detections(boxes, boxes[:, 0].copy(), np.arange(count) % 2)


def same(first: Detections, second: Detections) -> None:
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.labels, second.labels)


def stop_after(tiles: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= tiles:
            raise KeyboardInterrupt

    return progress


def test_recorded_tiles_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "CHUNK_BYTES", 200)  # several files
    parts = [found(n, n) for n in (3, 0, 7, 12, 1)]
    with Ledger(tmp_path / "l") as first:
        first.start(KEY, 10)
        first.record(0, parts[:2])
        first.record(2, parts[2:])
    with Ledger(tmp_path / "l", resume=True) as second:
        second.start(KEY, 10)
        assert second.resumed == second.done == 5
        assert second.known == set(range(5))
        for tile, part in enumerate(parts):
            same(second.found(tile), part)
        second.record(5, [found(4, 9)])
    with Ledger(tmp_path / "l", resume=True) as third:
        third.start(KEY, 10)
        same(third.found(5), found(4, 9))
        third.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["torn line", "flipped data", "lost data", "flipped line"])
def test_a_damaged_tail_is_dropped_and_the_rest_kept(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "l"
    with Ledger(folder) as first:
        first.start(KEY, 10)
        for tile in range(4):
            first.record(tile, [found(5, tile)])
    log, data = folder / "done.jsonl", folder / "tiles-0001.bin"
    if damage == "torn line":
        log.write_bytes(log.read_bytes()[:-7])
    elif damage == "flipped line":
        log.write_bytes(log.read_bytes()[:-7] + b"x" + log.read_bytes()[-6:])
    elif damage == "flipped data":
        data.write_bytes(data.read_bytes()[:-1] + b"x")
    else:
        data.write_bytes(data.read_bytes()[:-1])
    for _ in range(2):
        with Ledger(folder, resume=True) as second:
            second.start(KEY, 10)
            assert second.resumed == 3
            same(second.found(2), found(5, 2))
    with Ledger(folder, resume=True) as third:
        third.start(KEY, 10)
        third.record(3, [found(5, 3)])
    with Ledger(folder, resume=True) as last:
        last.start(KEY, 10)
        assert last.resumed == 4
        same(last.found(3), found(5, 3))


@pytest.mark.parametrize(
    ("part", "error"), [("source", DataError), ("weights", WeightsError), ("settings", UsageError)]
)
def test_what_changed_is_named(tmp_path: Path, part: str, error: type[RSTinyNetError]) -> None:
    with Ledger(tmp_path / "l") as first:
        first.start(KEY, 10)
        first.record(0, [found(1)])
    name = next(iter(KEY[part]))
    with (
        pytest.raises(error, match=rf"the {part} changed \({name} was .*, is 99\).*--resume"),
        Ledger(tmp_path / "l", resume=True) as second,
    ):
        second.start(KEY | {part: {name: 99}}, 10)
    with Ledger(tmp_path / "l") as anew:
        anew.start(KEY | {part: {name: 99}}, 10)
        assert anew.resumed == 0
        assert "--resume" in anew.notes[0]


def test_two_runs_do_not_share_a_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as first:
        first.start(KEY, 10)
        with pytest.raises(UsageError, match="another run"), Ledger(tmp_path / "l") as second:
            second.start(KEY, 10)


def test_a_search_goes_on_where_files_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")  # as on some network file systems

    monkeypatch.setattr("rstinynet.files.fcntl.flock", refused)
    with Ledger(tmp_path / "l") as ledger:
        ledger.start(KEY, 10)
        ledger.record(0, [found(3)])
        assert ledger.done == 1


def test_a_full_disk_is_named_and_what_was_done_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    with Ledger(tmp_path / "l") as first:
        first.start(KEY, 10)
        first.record(0, [found(3)])

        def full(descriptor: int, data: bytes) -> int:
            if len(data) > 9:
                return write(descriptor, data[:9])  # as a disk does that has nine bytes left
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(RSTinyNetError, match=r"No space left.*1 of 10 are safe.*--resume"):
            first.record(1, [found(4)])
        monkeypatch.undo()
    with Ledger(tmp_path / "l", resume=True) as second:
        second.start(KEY, 10)
        assert second.resumed == 1
        same(second.found(0), found(3))


@pytest.mark.parametrize("tiles", [1, 7, 20])
def test_resumed_equals_unbroken(
    detector: Detector,
    paint: Paint,
    write_tiff: Writer,
    scattered: list[tuple[int, int, int, int]],
    tmp_path: Path,
    tiles: int,
) -> None:
    path = write_tiff(tmp_path / "a.tif", paint(200, 300, scattered))
    unbroken = predict(detector, path, OPTIONS)
    folder = tmp_path / "ledger"
    with pytest.raises(KeyboardInterrupt), Ledger(folder) as first:
        predict(detector, path, OPTIONS, ledger=first, progress=stop_after(tiles))
    before = detector.model.forwards  # type: ignore[attr-defined]
    with Ledger(folder, resume=True) as second:
        resumed = predict(detector, path, OPTIONS, ledger=second)
        assert second.resumed == tiles
        assert detector.model.forwards - before == second.total - tiles  # type: ignore[attr-defined]
        second.finish()
    same(resumed.detections, unbroken.detections)
    assert not folder.exists()


def test_changes_to_source_weights_and_settings_refuse(
    detector: Detector, paint: Paint, write_tiff: Writer, tmp_path: Path
) -> None:
    image = paint(200, 300, [(20, 20, 30, 30)])
    path = write_tiff(tmp_path / "a.tif", image)
    folder = tmp_path / "ledger"
    with pytest.raises(KeyboardInterrupt), Ledger(folder) as first:
        predict(detector, path, OPTIONS, ledger=first, progress=stop_after(3))

    def resume(options: PredictOptions = OPTIONS) -> Result:
        with Ledger(folder, resume=True) as again:
            return predict(detector, path, options, ledger=again)

    with pytest.raises(UsageError, match=r"settings changed .conf was null, is 0.5"):
        resume(PredictOptions(tile=64, overlap=32, conf=0.5))
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    with pytest.raises(DataError, match="source changed"):
        resume()
    write_tiff(path, 255 - image)  # other content, same size, and the time put back
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match=r"source changed .content was"):
        resume()
    write_tiff(path, image)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    detector.metadata = detector.metadata.model_copy(update={"class_conf": (0.1, 0.2)})
    with pytest.raises(WeightsError, match=r"weights changed .metadata"):
        resume()
    # What a version calls the same weights' model is no change.
    other = {"class_conf": None, "schema_version": 99, "model": "other"}
    detector.metadata = detector.metadata.model_copy(update=other)
    assert len(resume()) == 1


AUX = """<PAMDataset><PAMRasterBand band="1">{}<Metadata>
<MDI key="STATISTICS_MAXIMUM">255</MDI></Metadata></PAMRasterBand></PAMDataset>"""


@pytest.mark.parametrize(
    ("stated", "changed"),
    [
        ("", None),
        ("<NoDataValue>40</NoDataValue>", "nodata 40"),
        ("<ColorInterp>Alpha</ColorInterp>", "alpha, nodata None"),
    ],
)
def test_a_scene_that_was_looked_at_in_between_is_no_other(
    detector: Detector,
    paint: Paint,
    write_tiff: Writer,
    tmp_path: Path,
    stated: str,
    changed: str | None,
) -> None:
    path = write_tiff(tmp_path / "a.tif", paint(200, 300, [(20, 20, 30, 30)]))
    folder = tmp_path / "ledger"
    with pytest.raises(KeyboardInterrupt), Ledger(folder) as first:
        predict(detector, path, OPTIONS, ledger=first, progress=stop_after(3))
    path.with_name("a.tif.aux.xml").write_text(AUX.format(stated))
    with Ledger(folder, resume=True) as second:
        if changed is None:
            assert len(predict(detector, path, OPTIONS, ledger=second)) == 1
            assert second.resumed == 3
        else:
            with pytest.raises(DataError, match=f"source changed .bands was .*{changed}"):
                predict(detector, path, OPTIONS, ledger=second)


SLOW = """
import os, sys, time
import numpy as np, torch
from rstinynet.cli.main import run
from rstinynet.model.weights import WeightsMetadata
from rstinynet.detections import Detections
from rstinynet.scenes.detector import Detector

class Slow(Detector):
    def __init__(self):
        self.device = torch.device("cpu")
        self.metadata = WeightsMetadata(
            model="slow", names=("ship",), category_ids=(1,), imgsz=64)
    def detect_batch(self, images, **options):
        time.sleep(float(os.environ["PAUSE"]))
        return [self.one(image) for image in images]
    def one(self, image):
        y, x = np.nonzero(image[..., 0] > 200)
        boxes = np.stack([x, y, x + 3, y + 3], axis=1).astype(np.float32)
        scores = np.linspace(0.9, 0.5, len(x)).astype(np.float32)
        return Detections(boxes, scores, np.zeros(len(x), np.int64))
"""
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start jobs with it ignored
Detector.load = classmethod(lambda cls, *args, **options: Slow())
sys.exit(run(sys.argv[1:]))
"""


def killed(arguments: list[str], log: Path, how: signal.Signals) -> str:
    """Run the command in a process, and kill that in the middle; what it said."""
    enough = 3 + (log.read_bytes().count(b"\n") if log.exists() else 0)
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW + MAIN, *arguments],
        env=os.environ | {"PAUSE": "0.25"},  # long beside the wait below on a busy machine
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") > enough):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(how)
    said = child.communicate()[1]
    assert child.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    return said


def test_a_killed_process_goes_on_with_resume(
    write_tiff: Writer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = np.zeros((320, 320, 1), np.uint8)
    image[5::11, 3::13] = 255
    path = write_tiff(tmp_path / "scene.tif", image)
    common = ["predict", str(path), "--format", "gpkg,csv", "--json", "--out"]
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    log = broken / "scene_detections.ledger" / "done.jsonl"

    assert killed([*common, str(broken)], log, signal.SIGKILL) == ""
    assert exists(log.parent)
    assert list(broken.iterdir()) == [log.parent]  # nothing half-made
    killed_at = log.read_bytes().count(b"\n") - 1
    said = killed([*common, str(broken), "--resume"], log, signal.SIGINT)
    assert "tiles are done and kept" in said
    assert "--resume" in said
    assert log.read_bytes().count(b"\n") - 1 >= killed_at

    space: dict[str, Any] = {}
    exec(SLOW, space)
    monkeypatch.setenv("PAUSE", "0")
    monkeypatch.setattr(Detector, "load", lambda *args, **options: space["Slow"]())
    assert run([*common, str(broken), "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"][0]["resumed_tiles"] >= killed_at
    assert run([*common, str(whole)]) == 0
    first, second = (out / "scene_detections.csv" for out in (broken, whole))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().count(b"\n") > 500
    assert not log.parent.exists()
