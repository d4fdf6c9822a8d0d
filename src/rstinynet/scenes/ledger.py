"""What of a scene is done, on disk, so that a killed search goes on where it stopped.

A ledger is a folder: `done.jsonl`, append-only, one checksummed line a finished group of tiles,
and `tiles-N.bin`, what those tiles found, as the detector gave it. A line is written after its
data, so whatever the line says is there; a torn tail (a kill, a power cut) is dropped on opening.
The first line says what was searched with what: anything that changed refuses to be resumed.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rstinynet.detections import Detections
from rstinynet.errors import DataError, RSTinyNetError, UsageError, WeightsError
from rstinynet.files import lock
from rstinynet.scenes.spill import ROW, pack, unpack

VERSION = 1
"""Of the ledger's own format, and of whatever else makes old tiles unlike new ones."""
CHUNK_BYTES = 64 * 2**20
"""A file of results is followed by another when it has grown beyond this."""
SYNC_SECONDS = 2.0
"""Finished tiles reach the disk at least this often; a power cut loses no more than that."""
_DONE = "done.jsonl"

Key = Mapping[str, Mapping[str, Any]]
"""What a search depends on: parts "source", "weights" and "settings", each named values."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tile's results are."""

    chunk: int
    offset: int
    rows: int


class Ledger:
    """The ledger of one scene. Use it as a context manager around search and writing.

    It is removed by `finish`; an error or an interruption leaves it for `resume`.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        """Keep it in `folder`, which appears when the search starts."""
        self.folder = folder
        self.done, self.total = 0, 0
        self.resumed = 0
        """Tiles that an earlier run had finished."""
        self.notes: tuple[str, ...] = ()
        """What the user should know."""
        self._resume = resume
        self._fresh = False
        self._places: dict[int, _Place] = {}
        self._log: int | None = None
        self._data: int | None = None
        self._chunk, self._offset = 0, 0
        self._reading: tuple[int, int] | None = None
        self._synced = 0.0

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._log is not None:
            self._close()
            if self._fresh and not self.done:
                shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def active(self) -> bool:
        """Whether tiles are being recorded."""
        return self._log is not None

    def start(self, key: Key, total: int) -> None:
        """Begin, or go on where the search with this same key stopped; `total` tiles in all.

        Raises DataError, WeightsError or UsageError where what is to be resumed was another
        source, other weights or other settings, and UsageError while another run is at it.
        """
        self.total = total
        log = self.folder / _DONE
        if total < 2 and not log.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        if not lock(self._log):
            os.close(self._log)
            self._log = None
            raise UsageError(
                f"{self.folder}: another run is searching this scene into the same folder; wait "
                "for it, or choose another --out"
            )
        if self._resume and self._restore(key):
            self.resumed = self.done
        else:
            self._begin(key)

    def story(self, name: str) -> str:
        """What to tell of a search of `name` that was interrupted."""
        if not self.active or not self.done:
            return f"{name}: interrupted before any tile was done"
        return (
            f"{name}: {self.done} of {self.total} tiles are done and kept; the same command with "
            "--resume goes on from there"
        )

    @property
    def known(self) -> frozenset[int]:
        """Numbers of the tiles that an earlier run had finished."""
        return frozenset(self._places)

    def found(self, tile: int) -> Detections:
        """What an earlier run found in one of the `known`, in pixels of the tile."""
        place = self._places[tile]
        if not place.rows:
            return Detections.empty()
        raw = os.pread(self._chunk_file(place.chunk), place.rows * ROW.itemsize, place.offset)
        return unpack(np.frombuffer(raw, ROW))

    def record(self, first: int, parts: Sequence[Detections]) -> None:
        """Tiles `first`, `first` + 1, ... are done and found `parts`, in pixels of each tile.

        Raises RSTinyNetError where it cannot be written (a full disk); what was recorded stays.
        """
        self.done += len(parts)
        if self._log is None:
            return
        try:
            self._append(first, parts)
        except OSError as error:
            raise RSTinyNetError(
                f"{self.folder}: finished tiles cannot be recorded ({error.strerror}); "
                f"{self.done - len(parts)} of {self.total} are safe: mend that and run the same "
                "command with --resume"
            ) from error

    def finish(self) -> None:
        """Everything is written: the ledger is no longer needed."""
        if self._log is not None:
            self._close(sync=False)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, first: int, parts: Sequence[Detections]) -> None:
        data = b"".join(pack(part).tobytes() for part in parts)
        if data and (self._data is None or self._offset > CHUNK_BYTES):
            self._next_chunk()
        entry: dict[str, Any] = {"first": first, "rows": [len(part) for part in parts]}
        if data:
            assert self._data is not None
            _write(self._data, data)
            entry |= {"at": [self._chunk, self._offset], "crc": zlib.crc32(data)}
            self._offset += len(data)
        assert self._log is not None
        _write(self._log, _line(entry))
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def _begin(self, key: Key) -> None:
        assert self._log is not None
        self._fresh = True
        if os.fstat(self._log).st_size:
            self.notes = (
                "an interrupted search of this scene was begun anew; --resume would have gone on "
                "with it",
            )
        os.ftruncate(self._log, 0)
        for old in self.folder.glob("tiles-*.bin"):
            old.unlink()
        _write(self._log, _line({"version": VERSION, "total": self.total, "key": key}))
        self._sync()
        _sync_folder(self.folder)

    def _restore(self, key: Key) -> bool:
        """Read what is there; False where that is nothing. The torn tail is cut off."""
        assert self._log is not None
        good, header = 0, None
        with (self.folder / _DONE).open("rb") as lines:
            for line in lines:
                entry = _parse(line)
                if entry is None:
                    break
                if header is None:
                    header = entry
                    _refuse_other(self.folder, header, key)
                elif not self._take(entry):
                    break
                good += len(line)
        if header is None:
            return False
        os.ftruncate(self._log, good)
        chunks = [int(path.stem.split("-")[1]) for path in self.folder.glob("tiles-*.bin")]
        self._chunk = max(chunks, default=0)
        return True

    def _take(self, entry: dict[str, Any]) -> bool:
        """Note a line's tiles; False where their data are not what the line says."""
        total = sum(entry["rows"])
        chunk, offset = entry.get("at", (0, 0))
        if total:
            try:
                raw = os.pread(self._chunk_file(chunk), total * ROW.itemsize, offset)
            except OSError:
                return False
            if zlib.crc32(raw) != entry["crc"]:
                return False
        for tile, rows in enumerate(entry["rows"], entry["first"]):
            self._places[tile] = _Place(chunk, offset, rows)
            offset += rows * ROW.itemsize
        self.done += len(entry["rows"])
        return True

    def _next_chunk(self) -> None:
        if self._data is not None:
            os.fsync(self._data)
            os.close(self._data)
        self._chunk, self._offset = self._chunk + 1, 0
        path = self._chunk_path(self._chunk)
        self._data = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        _sync_folder(self.folder)

    def _chunk_path(self, number: int) -> Path:
        return self.folder / f"tiles-{number:04d}.bin"

    def _chunk_file(self, number: int) -> int:
        if self._reading is None or self._reading[0] != number:
            if self._reading is not None:
                os.close(self._reading[1])
                self._reading = None
            self._reading = (number, os.open(self._chunk_path(number), os.O_RDONLY))
        return self._reading[1]

    def _sync(self) -> None:
        for descriptor in (self._data, self._log):
            if descriptor is not None:
                os.fsync(descriptor)
        self._synced = time.monotonic()

    def _close(self, *, sync: bool = True) -> None:
        try:
            if sync:
                self._sync()
        finally:
            opened = [self._data, self._log, None if self._reading is None else self._reading[1]]
            self._data = self._log = self._reading = None
            for descriptor in opened:
                if descriptor is not None:
                    os.close(descriptor)


def exists(folder: Path) -> bool:
    """Whether an interrupted search left its ledger there."""
    return (folder / _DONE).is_file()


def _refuse_other(folder: Path, header: dict[str, Any], key: Key) -> None:
    """Raise, and say what, where the header is of another search than `key`."""
    if header.get("version") != VERSION:
        raise UsageError(
            f"{folder} was left by another version of this program, which cannot be gone on with: "
            "run without --resume to begin anew"
        )
    kinds: dict[str, type[RSTinyNetError]] = {"source": DataError, "weights": WeightsError}
    now_all = json.loads(json.dumps(key))
    for part, now in now_all.items():
        before = header["key"].get(part, {})
        if part == "weights":
            before, now = _without_names(before), _without_names(now)
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            what = "; ".join(
                f"{n} was {_short(before.get(n))}, is {_short(now[n])}" for n in changed
            )
            raise kinds.get(part, UsageError)(
                f"cannot resume from {folder}: the {part} changed ({what}). Put it back, or run "
                "without --resume to begin anew"
            )


def _without_names(weights: dict[str, Any]) -> dict[str, Any]:
    """What decides a search: what a version calls the model does not, and its hash is there."""
    told = weights.get("metadata")
    if not isinstance(told, dict):
        return weights
    kept = {name: value for name, value in told.items() if name not in ("model", "schema_version")}
    return weights | {"metadata": kept}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _line(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None for a torn or damaged one."""
    check, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or check != b"%08x" % zlib.crc32(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def _write(descriptor: int, data: bytes) -> None:
    """All of `data`; a disk that takes only a part of it raises when asked for the rest."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
