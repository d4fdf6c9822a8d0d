"""Ray's workers find what the single process finds, also when one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rstinynet.cli.main import run
from rstinynet.detections import Detections
from rstinynet.errors import DataError, RSTinyNetError, UsageError
from rstinynet.scenes import engine_ray, stream
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.engine_ray import PER_WORKER, RayEngine
from rstinynet.scenes.ledger import Ledger
from rstinynet.scenes.options import PredictOptions
from rstinynet.scenes.stream import Group

OPTIONS = PredictOptions(tile=128, overlap=32)

# Sockets and pipes of processes that Ray leaves to the collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def _two_workers() -> Iterator[None]:
    """One Ray for the whole module: its start takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
        )
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.shutdown()


@pytest.fixture
def blobs(detector: Detector, _two_workers: None) -> Iterator[Detector]:
    """The detector of bright blobs, sent to workers by value: they do not have the tests."""
    from ray import cloudpickle

    modules = [sys.modules[type(detector.model).__module__], sys.modules[__name__]]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    yield detector
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def scene(
    paint: Callable[..., np.ndarray],
    write_tiff: Callable[..., Path],
    scattered: list[tuple[int, int, int, int]],
    tmp_path: Path,
) -> Path:
    return write_tiff(tmp_path / "scene.tif", paint(400, 500, scattered))


class Fatal(Detector):
    """Kills its own process: the first time, or every time, that a worker searches with it."""

    def __init__(self, plain: Detector, flag: Path | None) -> None:
        super().__init__(plain.backend, plain.metadata)
        self._flag, self._driver = flag, os.getpid()

    def detect_batch(self, images: Any, **options: Any) -> list[Detections]:
        if os.getpid() != self._driver and not (self._flag and self._flag.exists()):
            if self._flag is not None:
                self._flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().detect_batch(images, **options)


def same(first: Detections, second: Detections) -> bool:
    pairs = zip(
        (first.boxes, first.scores, first.labels),
        (second.boxes, second.scores, second.labels),
        strict=True,
    )
    return len(first) > 0 and all(np.array_equal(a, b) for a, b in pairs)


def test_the_same_objects_and_never_more_tasks_than_allowed(
    blobs: Detector, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = stream.predict(blobs, scene, OPTIONS)
    monkeypatch.setattr(engine_ray, "TASK_WINDOWS", 2)
    waiting, most = [0], [0]
    give, result = RayEngine._give, RayEngine._result

    def counted(self: RayEngine, *args: Any) -> Any:
        waiting[0] += 1
        most[0] = max(most[0], waiting[0])
        return give(self, *args)

    def gone(self: RayEngine, ref: Any) -> list[Detections]:
        waiting[0] -= 1
        return result(self, ref)

    monkeypatch.setattr(RayEngine, "_give", counted)
    monkeypatch.setattr(RayEngine, "_result", gone)
    seen: list[tuple[int, int]] = []
    with RayEngine(blobs) as engine:
        spread = stream.predict(
            blobs, scene, OPTIONS, engine=engine, progress=lambda *at: seen.append(at)
        )
        assert engine.workers == 2
    assert same(spread.detections, alone.detections)
    assert most[0] == PER_WORKER * 2
    assert waiting[0] == 0
    assert seen[0] == (0, 20)
    assert seen[-1] == (20, 20)


def test_a_resumed_search_gives_out_only_what_is_left(
    blobs: Detector, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = stream.predict(blobs, scene, OPTIONS)

    def stop(done: int, total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with (
        RayEngine(blobs) as engine,
        Ledger(tmp_path / "ledger") as ledger,
        pytest.raises(KeyboardInterrupt),
    ):
        stream.predict(blobs, scene, OPTIONS, progress=stop, ledger=ledger, engine=engine)
    given: list[int] = []
    give = RayEngine._give

    def counted(self: RayEngine, source: Any, options: Any, group: Any) -> Any:
        given.extend(range(group.first, group.first + len(group.windows)))
        return give(self, source, options, group)

    monkeypatch.setattr(RayEngine, "_give", counted)
    with RayEngine(blobs) as engine, Ledger(tmp_path / "ledger", resume=True) as ledger:
        spread = stream.predict(blobs, scene, OPTIONS, ledger=ledger, engine=engine)
        assert ledger.resumed == 8
    assert given == list(range(8, 20))
    assert same(spread.detections, alone.detections)


def test_an_unreadable_scene_is_the_error_of_the_single_process(
    blobs: Detector, scene: Path
) -> None:
    content = scene.read_bytes()
    scene.write_bytes(content[: len(content) // 3])
    with RayEngine(blobs) as engine, pytest.raises(DataError, match="truncated or damaged"):
        stream.predict(blobs, scene, OPTIONS, engine=engine)


def test_the_command_over_many_scenes_writes_the_same(
    blobs: Detector,
    scene: Path,
    paint: Callable[..., np.ndarray],
    write_tiff: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Scenes of one window each come with others that fail; the next are given out early."""
    for i in range(4):
        write_tiff(tmp_path / f"small{i}.tif", paint(64, 64, [(10 + i, 10, 20 + i, 18)]))
    (tmp_path / "small2.tif").write_text("no image")
    monkeypatch.setattr(Detector, "load", lambda *args, **options: blobs)
    early: list[str] = []
    give_further = RayEngine._give_further

    def noted(self: RayEngine, pending: Any) -> None:
        give_further(self, pending)
        early.extend(self._early)

    monkeypatch.setattr(RayEngine, "_give_further", noted)
    arguments = ["predict", str(scene), str(tmp_path / "small*.tif"), "--tile", "128", "--json"]
    for name, more in (("here", []), ("ray", ["--engine", "ray", "--workers", "2"])):
        out = str(tmp_path / name)
        assert run([*arguments, "--format", "csv,gpkg", "--out", out, *more]) == 3
        summary = json.loads(capsys.readouterr().out)
        assert summary["failed"] == 1
        assert sum(record.get("count", 0) for record in summary["sources"]) > 20
    for path in (tmp_path / "here").glob("*.csv"):
        assert (tmp_path / "ray" / path.name).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "here").glob("*.csv"))) == 4
    assert str(tmp_path / "small1.tif") in early


def test_scenes_given_out_early_are_read_at_the_resolution_of_the_search(
    blobs: Detector, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = [str(scene)]
    for i in range(2):
        scenes.append(str(tmp_path / f"copy{i}.tif"))
        Path(scenes[-1]).write_bytes(scene.read_bytes())
    monkeypatch.setattr(engine_ray, "TASK_WINDOWS", 1)
    options = PredictOptions(tile=128, overlap=32, gsd=1.0)
    alone = stream.predict(blobs, scene, options).detections
    with RayEngine(blobs) as engine:
        engine.announce(scenes, options)
        for path in scenes:
            spread = stream.predict(blobs, path, options, engine=engine)
            assert same(spread.detections, alone)


def test_scenes_that_were_begun_wait_for_their_turn(
    blobs: Detector, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.tif"
    other.write_bytes(scene.read_bytes())
    given: list[str] = []
    give = RayEngine._give

    def noted(self: RayEngine, source: Any, *args: Any) -> Any:
        given.append(str(source))
        return give(self, source, *args)

    monkeypatch.setattr(RayEngine, "_give", noted)
    alone = stream.predict(blobs, scene, OPTIONS).detections
    for begun, early in (([], True), ([str(other)], False)):
        given.clear()
        with RayEngine(blobs) as engine:
            engine.announce([scene, other], OPTIONS, begun=begun)
            spread = stream.predict(blobs, scene, OPTIONS, engine=engine)
            assert same(spread.detections, alone)
        assert (str(other) in given) is early


def test_a_scene_goes_on_though_what_waits_of_others_fills_the_workers(
    blobs: Detector, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = stream.predict(blobs, scene, OPTIONS).detections
    with RayEngine(blobs) as engine:
        monkeypatch.setattr(RayEngine, "_room", lambda self, pending: False)
        assert same(stream.predict(blobs, scene, OPTIONS, engine=engine).detections, alone)


def test_refusals(
    detector: Detector,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UsageError, match="workers must be at least 1"):
        RayEngine(detector, workers=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

    def absent(**options: Any) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", absent)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UsageError, match=r"no Ray cluster at auto: nobody there"):
        RayEngine(detector, address="auto").__enter__()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'rs-tinynet\[scale\]'"):
        RayEngine(detector).__enter__()
    monkeypatch.setattr(Detector, "load", lambda *args, **options: detector)
    for arguments, words in (
        (["--engine", "dask"], "takes local or ray"),
        (["--workers", "2"], "go with --engine ray"),
    ):
        assert run(["predict", str(tmp_path / "a.tif"), "--out", str(tmp_path), *arguments]) == 2
        assert words in " ".join(capsys.readouterr().err.split())


def test_a_killed_worker_changes_nothing(blobs: Detector, scene: Path, tmp_path: Path) -> None:
    alone = stream.predict(blobs, scene, OPTIONS)
    fatal = Fatal(blobs, tmp_path / "killed")
    with RayEngine(fatal) as engine:
        spread = stream.predict(fatal, scene, OPTIONS, engine=engine)
    assert (tmp_path / "killed").exists()
    assert same(spread.detections, alone.detections)


def test_workers_that_always_die_are_an_error(
    blobs: Detector, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_ray, "RETRIES", 0)
    with (
        RayEngine(Fatal(blobs, None)) as engine,
        pytest.raises(RSTinyNetError, match="workers were lost 1 times"),
    ):
        stream.predict(blobs, scene, OPTIONS, engine=engine)


def test_workers_in_other_folders_get_whole_paths(blobs: Detector) -> None:
    engine, given = RayEngine(blobs), []
    engine._model = None
    engine._remote = SimpleNamespace(remote=lambda model, source, *rest: given.append(source))
    remote = "/vsicurl/https://host/a.tif?sig=1"
    for source in ("here/a.tif", Path("here/a.tif"), remote, "GPKG:a.gpkg:t"):
        engine._give(source, OPTIONS, Group(0, (), known=False))
    here = Path.cwd() / "here" / "a.tif"
    assert given == [here, here, remote, "GPKG:a.gpkg:t"]
