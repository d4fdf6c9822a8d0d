"""Windows of scenes searched by the workers of a Ray cluster, on this machine or many.

Ray (https://ray.io, the extra `scale`) keeps the workers and starts lost ones anew. Windows go out
in order, a bounded number at a time, also those of the next scenes while the last of one are under
way; results come back in order, so the features are those of the single process.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict, deque
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import rasterio

from rstinynet.detections import Detections
from rstinynet.errors import RSTinyNetError, UsageError
from rstinynet.scenes.raster import is_path
from rstinynet.scenes.sources import Source
from rstinynet.scenes.stream import Finished, Group, Search, open_to_search
from rstinynet.scenes.windows import Window

if TYPE_CHECKING:
    from rstinynet.scenes.detector import Detector
    from rstinynet.scenes.memory import Plan
    from rstinynet.scenes.options import PredictOptions

TASK_WINDOWS = 4
"""Windows of one task."""
PER_WORKER = 2
"""Tasks under way or waiting for each worker; more would only fill memory."""
RETRIES = 5
"""Times that a task is given to another worker when its own is lost."""
LOCAL_STORE = 256 * 2**20
"""Bytes of Ray's object store on this machine: the model, and results under way."""
_OPEN_SCENES = 2


class _Task(NamedTuple):
    """Windows that were given out; without `ref` an earlier run has searched them."""

    group: Group
    ref: Any


class RayEngine:
    """Gives the windows of scenes to Ray's workers. Use it as a context manager."""

    def __init__(
        self, detector: Detector, *, address: str | None = None, workers: int | None = None
    ) -> None:
        """On the cluster at `address` ("auto", "ray://host:10001"), or on this machine.

        `workers` is how many processes to use here (default: one a processor). A Ray that the
        program has started already is used as it is. Raises UsageError without the package ray,
        or where there is no cluster at `address`.
        """
        if workers is not None and workers < 1:
            raise UsageError(f"workers must be at least 1, not {workers}")
        self._detector = detector
        self._address = address
        self._wanted = workers
        self._upcoming: list[tuple[Source, PredictOptions]] = []
        self._early: dict[str, deque[_Task]] = {}
        self._begun: set[str] = set()
        self._further: Iterator[tuple[str, _Task]] = iter(())
        self._owned = False

    def __enter__(self) -> RayEngine:
        with _quiet():
            self._ray = _import_ray()
            self._owned = not self._ray.is_initialized()
            if self._owned:
                self._start()
        self.workers = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        if self._wanted is not None:
            self.workers = min(self.workers, self._wanted)
        self._model = self._ray.put(self._detector)
        gpus = int(str(self._detector.device).startswith("cuda"))
        self._remote = self._ray.remote(
            num_cpus=1, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )(search_windows)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._early.clear()
        if self._owned:
            with _quiet():
                self._ray.shutdown()
        self._further = iter(())

    def announce(
        self,
        scenes: Sequence[Source],
        options: PredictOptions,
        *,
        begun: Collection[str] = (),
    ) -> None:
        """Say which scenes will be searched, in order, so that none leaves workers idle.

        Those of `begun` have a ledger to ask, and are given out only when their turn comes.
        """
        self._upcoming = [(scene, options) for scene in scenes]
        self._begun = set(begun)
        self._further = self._next_scenes()

    def finished(
        self, search: Search, known: frozenset[int], plan: Plan | None = None
    ) -> Generator[Finished, None, None]:
        """The windows of a scene in order, with what was found; workers have no use of `plan`."""
        name = search.scene.source.address
        early = self._early.pop(name, deque())
        for scene, _ in self._upcoming:
            # Those passed over, too: a scene may be refused before its search.
            self._begun.add(str(scene))
            self._early.pop(str(scene), None)
            if str(scene) == name:
                break
        reused = {task.group.first: task for task in early if not known}
        groups = search.groups(known, TASK_WINDOWS)
        pending: deque[_Task] = deque()
        more = True
        while more or pending:
            # One task of this scene at least, whatever waits of the next ones.
            while more and (not pending or self._room(pending)):
                group = next(groups, None)
                if group is None:
                    more = False
                elif group.known:
                    pending.append(_Task(group, None))
                else:
                    task = reused.pop(group.first, None)
                    pending.append(task or self._give(name, search.options, group))
            if not more:
                self._give_further(pending)
            if pending:
                task = pending.popleft()
                parts = None if task.ref is None else self._result(task.ref)
                yield Finished(task.group.first, task.group.windows, parts)

    def _start(self) -> None:
        here = (
            {}
            if self._address
            else {
                "num_cpus": self._wanted,
                "object_store_memory": LOCAL_STORE,
                "include_dashboard": False,
            }
        )
        try:
            self._ray.init(
                address=self._address or "local",
                logging_level="ERROR",
                log_to_driver=False,
                **here,
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise UsageError(
                f"no Ray cluster at {self._address or 'this machine'}: {error}; start one with "
                "`ray start --head`, or leave --ray-address out"
            ) from error

    def _room(self, pending: deque[_Task]) -> bool:
        waiting = sum(task.ref is not None for task in pending)
        return waiting + sum(map(len, self._early.values())) < PER_WORKER * self.workers

    def _give(self, source: Source, options: PredictOptions, group: Group) -> _Task:
        if is_path(str(source)):
            source = Path(source).absolute()  # workers of a cluster are in folders of their own
        # In a list, the model is not copied for each task: a worker fetches it once.
        return _Task(group, self._remote.remote([self._model], source, options, group.windows))

    def _give_further(self, pending: deque[_Task]) -> None:
        while self._room(pending):
            following = next(self._further, None)
            if following is None:
                return
            name, task = following
            self._early.setdefault(name, deque()).append(task)

    def _next_scenes(self) -> Iterator[tuple[str, _Task]]:
        """Tasks of the scenes whose turn has not come."""
        for source, options in self._upcoming:
            if str(source) in self._begun:
                continue
            try:
                with open_to_search(self._detector, source, options) as scene:
                    every = Search.of(self._detector, scene, options).groups(
                        frozenset(), TASK_WINDOWS
                    )
                    groups = list(islice(every, PER_WORKER * self.workers))
            except (RSTinyNetError, OSError):
                continue  # It is reported when its turn comes.
            for group in groups:
                if str(source) in self._begun:
                    break
                yield str(source), self._give(source, options, group)

    def _result(self, ref: Any) -> list[Detections]:
        try:
            found: list[Detections] = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            raise RSTinyNetError(
                f"workers were lost {RETRIES + 1} times over the same windows ({error}): they may "
                "have too little memory; use fewer --workers, or --tile"
            ) from error
        return found


_models: dict[str, Any] = {}
_searches: OrderedDict[str, Search] = OrderedDict()


def search_windows(
    model: list[Any], source: Source, options: PredictOptions, windows: Sequence[Window]
) -> list[Detections]:
    """In a worker: what each window of a scene holds. The model and two scenes are kept open."""
    import ray

    key = f"{source} {options}"
    if model[0].hex() not in _models:
        _models.clear()
        _models[model[0].hex()] = ray.get(model[0])
        _searches.clear()
    detector = _models[model[0].hex()]
    if key not in _searches:
        if len(_searches) >= _OPEN_SCENES:
            _searches.popitem(last=False)[1].scene.source.close()
        scene = open_to_search(detector, source, options)
        _searches[key] = Search.of(detector, scene, options)
    search = _searches[key]
    with rasterio.Env(GDAL_CACHEMAX=search.scene.source.cache_bytes(search.grid["tile"])):
        return search.find([search.scene.read(window) for window in windows])


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UsageError(
            "the engine ray needs Ray: pip install 'rs-tinynet[scale]', or leave --engine out"
        ) from error
    return ray


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's own notices of its future defaults and of sockets it leaves to the collector."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        yield
