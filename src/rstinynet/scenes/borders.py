"""Batches filled across the borders of scenes: no forward pass half empty while more is to come."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rstinynet.detections import Detections
from rstinynet.errors import RSTinyNetError
from rstinynet.scenes import fingerprint
from rstinynet.scenes.stream import Finished, Search, open_to_search

if TYPE_CHECKING:
    from rstinynet.scenes.detector import Detector
    from rstinynet.scenes.memory import Plan
    from rstinynet.scenes.options import PredictOptions
    from rstinynet.scenes.reader import Tile
    from rstinynet.scenes.sources import Source


@dataclass(slots=True)
class _Early:
    """The first tiles of a scene whose turn has not come."""

    name: str
    mark: Any
    """Of the file as it was read."""
    tiles: list[Tile] = field(default_factory=list)
    parts: list[Detections] = field(default_factory=list)


class BorderEngine:
    """Searches scenes in this process, in order; the last batch of one takes tiles of the next.

    What those hold is kept until their scene's turn, fewer tiles than a batch at any time. A scene
    that cannot be read is left to its own turn, where the error is reported.
    """

    def __init__(
        self,
        detector: Detector,
        scenes: Sequence[Source],
        options: PredictOptions,
        *,
        begun: Collection[str] = (),
    ) -> None:
        """For `scenes` in the order of their searches; those of `begun` have a ledger to ask."""
        self._detector = detector
        self._options = options
        self._upcoming = [str(scene) for scene in scenes]
        self._begun = frozenset(begun)
        self._taken: list[_Early] = []
        self._early: dict[str, _Early] = {}

    def finished(
        self, search: Search, known: frozenset[int], plan: Plan
    ) -> Generator[Finished, None, None]:
        """The windows of a scene in order, with what was found in them."""
        name = search.scene.source.address
        if name in self._upcoming:
            # Those passed over, too: a scene may be refused before its search.
            passed = self._upcoming.index(name)
            for other in self._upcoming[:passed]:
                self._early.pop(other, None)
            del self._upcoming[: passed + 1]
        early = self._early.pop(name, None)
        first = 0
        if early is not None and not known and early.mark == _mark(search):
            first = len(early.parts)
            windows = search.windows()
            yield Finished(0, tuple(next(windows) for _ in range(first)), early.parts)
        yield from search.here(known, plan, first=first, borders=self)

    def more(self, tiles: Sequence[Tile]) -> list[Tile]:
        """Tiles of the next scenes that fill up the batch of `tiles`, the last of a scene."""
        room = self._detector.batch - sum(not tile.empty for tile in tiles)
        self._taken = []
        for name in self._upcoming:
            if room < 1 or name in self._begun:
                break
            # What cannot be read is reported when its turn comes.
            with suppress(RSTinyNetError, OSError):
                taken, whole = self._first_tiles(name, room, tiles[0].image.shape)
                room -= sum(not tile.empty for tile in taken.tiles)
                if taken.tiles:
                    self._taken.append(taken)
                if not whole:
                    break
        return [tile for taken in self._taken for tile in taken.tiles]

    def keep(self, parts: Sequence[Detections]) -> None:
        """Take what the tiles of `more` hold."""
        at = 0
        for taken in self._taken:
            taken.parts = list(parts[at : at + len(taken.tiles)])
            at += len(taken.tiles)
            taken.tiles = []
            self._early[taken.name] = taken
        self._taken = []

    def _first_tiles(self, name: str, room: int, shape: tuple[int, ...]) -> tuple[_Early, bool]:
        """Up to `room` tiles of this shape, and whether they are all that the scene has."""
        options = self._options
        with open_to_search(self._detector, name, options) as scene:
            search = Search.of(self._detector, scene, options)
            taken = _Early(name, _mark(search))
            for window in search.windows():
                if len(taken.tiles) == room or (window.height, window.width) != shape[:2]:
                    return taken, False
                taken.tiles.append(scene.read(window))
            return taken, True


def _mark(search: Search) -> Any:
    source = search.scene.source
    return fingerprint.of_source(source, source.files())
