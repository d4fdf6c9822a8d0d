"""A scene through the detector in bounded memory: read ahead, find, merge row by row."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import rasterio

from rstinynet.detections import Detections
from rstinynet.errors import UsageError
from rstinynet.scenes import fingerprint, georef, memory, windows
from rstinynet.scenes.ledger import Ledger
from rstinynet.scenes.memory import Plan
from rstinynet.scenes.merge import SeamMerger
from rstinynet.scenes.options import (
    DEFAULT_IOU,
    DEFAULT_MAX_DET,
    DEFAULT_OVERLAP,
    PredictOptions,
    of_size,
    size_limits,
    wanted_labels,
)
from rstinynet.scenes.reader import Scene, Tile, ground_px
from rstinynet.scenes.result import Result
from rstinynet.scenes.spill import Spill
from rstinynet.scenes.windows import Window

if TYPE_CHECKING:
    from rstinynet.scenes.borders import BorderEngine
    from rstinynet.scenes.detector import Detector

__all__ = [
    "DEFAULT_IOU",
    "DEFAULT_MAX_DET",
    "DEFAULT_OVERLAP",
    "PredictOptions",
    "predict",
    "wanted_labels",
]

BLANK = (
    "no pixel is valid (all nodata, masked or NaN), so nothing could be found; if there should be "
    "data, check the nodata value by `gdalinfo`"
)
"""Note on a scene without any data."""
FULL = (
    "objects may be missing: tiles with {}, the most that are kept of one: {}; give a higher "
    "--max-det, or a smaller --tile"
)
"""Note on a scene where objects may have been left out."""

Progress = Callable[[int, int], None]


class Group(NamedTuple):
    """Neighbouring windows, numbered from `first` on."""

    first: int
    windows: tuple[Window, ...]
    known: bool
    """Whether an earlier run has searched them."""


class Finished(NamedTuple):
    """Windows in their turn."""

    first: int
    windows: tuple[Window, ...]
    parts: list[Detections] | None
    """What each holds, in its own pixels; None where the ledger knows."""


class Engine(Protocol):
    """Who searches the windows, in place of this process."""

    def finished(
        self, search: Search, known: frozenset[int], plan: Plan
    ) -> Generator[Finished, None, None]: ...


class _Item(NamedTuple):
    """A window in its turn."""

    number: int
    window: Window
    tile: Tile | None
    """Its pixels; None where an earlier run has searched it."""


def predict(
    detector: Detector,
    source: str | Path | npt.NDArray[Any],
    options: PredictOptions | None = None,
    *,
    progress: Progress | None = None,
    ledger: Ledger | None = None,
    engine: Engine | None = None,
) -> Result:
    """Objects of an image, a scene or an array; see `Detector.predict`.

    `progress(done, total)` is told the number of tiles. Finished tiles are recorded in `ledger`,
    and those that it has already are not searched again; who gave it calls its `finish`.
    `engine` searches the windows elsewhere.
    """
    options = options or PredictOptions()
    with open_to_search(detector, source, options) as scene:
        search = Search.of(detector, scene, options)
        planned = search.plan()
        if ledger is not None:
            ledger.start(search.key(), search.total)
        with rasterio.Env(GDAL_CACHEMAX=planned.cache):
            found = search.run(planned, ledger, progress or _silent, engine)
            blank = not len(found) and scene.blank(search.windows())
        return Result(
            found=found,
            class_names=detector.names,
            category_ids=tuple(detector.metadata.category_ids),
            source=scene.source.name,
            size=scene.full_size,
            crs=scene.source.crs,
            transform=scene.source.transform,
            source_gsd=options.source_gsd,
            notes=(
                *scene.source.notes,
                *([BLANK] if blank else []),
                *([FULL.format(options.max_det, search.full)] if search.full else []),
                *memory.exceeded(options.memory_limit),
            ),
            open_scene=opener(detector, source, options),
        )


def opener(
    detector: Detector, source: str | Path | npt.NDArray[Any], options: PredictOptions
) -> Callable[..., Scene]:
    """Opens the source with the bands and scaling of a search."""
    return partial(
        Scene,
        source,
        bands=options.bands,
        scaling=options.scaling or detector.metadata.scaling,
        stretch_bytes=options.scaling is not None,
    )


def open_to_search(
    detector: Detector, source: str | Path | npt.NDArray[Any], options: PredictOptions
) -> Scene:
    """The source at the resolution and with the filling of a search."""
    open_scene = opener(detector, source, options)
    return open_scene(
        gsd=options.used_gsd(detector), source_gsd=options.source_gsd, fill=options.nodata_fill
    )


@dataclass(slots=True)
class Search:
    """One scene and how it is searched."""

    detector: Detector
    scene: Scene
    options: PredictOptions
    wanted: npt.NDArray[np.int64] | None
    limits: npt.NDArray[np.float64] | None
    """(C, 2) least and most metres of a class's objects."""
    full: int = 0
    """Tiles that held as many objects as `max_det` lets through, or more."""

    @classmethod
    def of(cls, detector: Detector, scene: Scene, options: PredictOptions) -> Search:
        """For the classes that `options` name.

        UsageError for one there is not, and for sizes in metres where the scene has none.
        """
        wanted = wanted_labels(detector.names, options.classes)
        limits = size_limits(detector.names, options.sizes)
        source = scene.source
        metres = georef.has_metres(source.transform, source.crs) or options.source_gsd is not None
        if limits is not None and not metres:
            raise UsageError(
                f"{source.name} has no coordinate system that leads to metres, so the sizes of its "
                "objects are not known: give metres a pixel by --source-gsd, or leave --size out"
            )
        if limits is not None:
            ground_px(source, options.source_gsd)  # refuses a scene outside of its own system
        return cls(detector, scene, options, wanted, limits)

    @property
    def grid(self) -> dict[str, int]:
        tile = self.options.tile or self.detector.metadata.imgsz
        return {"tile": tile, "overlap": self.options.used_overlap(self.detector)}

    @property
    def total(self) -> int:
        """Tiles."""
        return windows.count(self.scene.width, self.scene.height, **self.grid)

    def key(self) -> dict[str, dict[str, Any]]:
        """What the result depends on."""
        source = self.scene.source
        return {
            "source": fingerprint.of_source(source, source.files()),
            "weights": fingerprint.of_weights(self.detector),
            "settings": self.options.settled(self.detector),
        }

    @property
    def batch(self) -> int:
        """Tiles of one forward pass."""
        return self.detector.batch

    def plan(self) -> Plan:
        """What to hold at once."""
        return memory.plan(
            self.detector,
            self.scene,
            tile=self.grid["tile"],
            batch=self.batch,
            limit=self.options.memory_limit,
            scale=self.options.scale,
        )

    def windows(self) -> Iterator[Window]:
        """All windows, row by row."""
        for row in windows.rows(self.scene.width, self.scene.height, **self.grid):
            yield from row

    def groups(self, known: frozenset[int], size: int) -> Iterator[Group]:
        """Up to `size` windows at a time, all of them in `known` or none."""
        waiting: list[Window] = []
        first = 0
        for number, window in enumerate(self.windows()):
            if waiting and (len(waiting) == size or (first in known) != (number in known)):
                yield Group(first, tuple(waiting), first in known)
                waiting = []
            if not waiting:
                first = number
            waiting.append(window)
        if waiting:
            yield Group(first, tuple(waiting), first in known)

    def run(
        self, plan: Plan, ledger: Ledger | None, progress: Progress, engine: Engine | None = None
    ) -> Spill:
        """Every window in turn; the objects in pixels of the source."""
        scene, total = self.scene, self.total
        merger = SeamMerger(
            scene.width,
            scene.height,
            margin=self.grid["overlap"] / 4,
            iou=self.options.merge_iou,
            metric=self.options.metric,
        )
        folder = ledger.folder if ledger is not None and ledger.active else None
        settled = Spill(plan.rows, folder=folder)
        done = 0 if ledger is None else ledger.resumed
        top = 0
        progress(done, total)
        known = frozenset[int]() if ledger is None else ledger.known
        searched = self.here(known, plan) if engine is None else engine.finished(self, known, plan)
        with closing(searched):
            for first, group, fresh in searched:
                parts = fresh
                if parts is None:
                    assert ledger is not None
                    parts = [ledger.found(number) for number in range(first, first + len(group))]
                for window, found in zip(group, parts, strict=True):
                    if window.y > top:
                        settled.add(self.sized(merger.settle(window.y)))
                        top = window.y
                    self.full += len(found) >= self.options.max_det
                    if len(found):
                        merger.add(window, found)
                if fresh is not None:
                    if ledger is not None:
                        ledger.record(first, fresh)
                    done += len(group)
                    progress(done, total)
        settled.add(self.sized(merger.settle()))
        return settled

    def sized(self, found: Detections) -> Detections:
        """In pixels of the source, what is as large on the ground as its class may be."""
        found = self.scene.to_source(found)
        if self.limits is None or not len(found):
            return found
        source = self.scene.source
        sides = georef.sizes_m(found.boxes, source.transform, source.crs, self.options.source_gsd)
        return found[of_size(found.labels, np.maximum(*sides), self.limits)]

    def find(self, tiles: Sequence[Tile]) -> list[Detections]:
        """What each tile holds, in its own pixels."""
        useful = [tile for tile in tiles if not tile.empty]
        options, results = self.options, list[Detections]()
        # Objects of other classes must not take the places of those asked for.
        most = options.max_det if self.wanted is None else sys.maxsize
        for start in range(0, len(useful), self.batch):
            results += self.detector.detect_batch(
                [tile.image for tile in useful[start : start + self.batch]],
                conf=options.conf,
                iou=options.iou,
                max_det=most,
                scale=options.scale,
                tta=options.tta,
            )
        in_turn = iter(results)
        parts = []
        for tile in tiles:
            if tile.empty:
                parts.append(Detections.empty())
                continue
            found = next(in_turn)
            if self.wanted is not None:
                found = found[np.isin(found.labels, self.wanted)][: options.max_det]
            parts.append(found[tile.on_data(found.boxes)])
        return parts

    def here(
        self,
        known: frozenset[int],
        plan: Plan,
        *,
        first: int = 0,
        borders: BorderEngine | None = None,
    ) -> Generator[Finished, None, None]:
        """The windows from `first` on, searched by this process.

        `borders` fills the last batch with tiles of other scenes.
        """
        todo = islice(enumerate(self.windows()), first, None)
        # Closed here and now: the scene's handles may only go when no thread reads any more.
        with closing(_ahead(self.scene, todo, known, plan)) as ahead:
            for group in _groups(ahead, self.batch):
                tiles = [item.tile for item in group if item.tile is not None]
                last = group[-1].number == self.total - 1
                more = borders.more(tiles) if borders is not None and tiles and last else []
                parts = self.find([*tiles, *more]) if tiles else None
                if borders is not None and parts is not None and more:
                    borders.keep(parts[len(tiles) :])
                    parts = parts[: len(tiles)]
                yield Finished(group[0].number, tuple(item.window for item in group), parts)


def _ahead(
    scene: Scene, todo: Iterable[tuple[int, Window]], known: frozenset[int], plan: Plan
) -> Generator[_Item, None, None]:
    """Windows with their pixels, in order, read in threads up to `plan.ahead` before their turn."""
    waiting: deque[tuple[int, Window, Future[Tile] | None]] = deque()

    def first() -> _Item:
        number, window, future = waiting.popleft()
        return _Item(number, window, None if future is None else future.result())

    with ThreadPoolExecutor(plan.readers, thread_name_prefix="read") as pool:
        try:
            for number, window in todo:
                future = None if number in known else pool.submit(scene.read, window)
                waiting.append((number, window, future))
                if len(waiting) > plan.ahead:
                    yield first()
            while waiting:
                yield first()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _groups(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Up to `size` at a time, all of them known from an earlier run or none."""
    group: list[_Item] = []
    for item in items:
        if group and (len(group) == size or (group[0].tile is None) != (item.tile is None)):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _silent(done: int, total: int) -> None:
    """Progress that nobody asked for."""
