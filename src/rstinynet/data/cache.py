"""Images decoded once: kept in memory or as raw pixels on disk, each up to a bound in bytes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import zlib
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from rstinynet.data.image import RgbArray, read_rgb
from rstinynet.files import replacing
from rstinynet.version import __version__

MOST_GIB = 1 << 20
"""More than any machine has: so that `inf` may say that a cache has no bound."""
CACHE_BYTES = 4 << 30
CacheKind = Literal["none", "memory", "disk"]
DECODER = f"{__version__}/2"
"""Of the package, and of how it decodes: counted on where pictures come out other than before."""
Source = list[str | int]
"""Path, bytes and time of change of an image file, and the version that decoded it."""

_HEADER = 4096
"""Bytes before the pixels: JSON, padded with spaces."""
_log = logging.getLogger(__name__)


class ImageSource(Protocol):
    """Where decoded images come from; safe to share between threads."""

    def read(self, path: Path) -> RgbArray:
        """The image at `path`, (H, W, 3) uint8 RGB, read-only; raises DataError as `read_rgb`."""


class ImageCache:
    """Decoded images in memory, kept until a bound in bytes is reached.

    Nothing is thrown out: every epoch visits every image, so replacing one would only lose another.
    """

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes
        self._kept: dict[Path, RgbArray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, path: Path) -> RgbArray:
        """The image at `path`, read-only (H, W, 3) uint8 RGB; raises DataError as `read_rgb`."""
        image = self._kept.get(path)
        if image is not None:
            return image
        image = read_rgb(path)
        image.flags.writeable = False
        with self._lock:
            if path not in self._kept and image.nbytes <= self._free:
                self._kept[path] = image
                self._free -= image.nbytes
        return image


class DiskCache:
    """Decoded images as files in a folder, which several runs may share.

    An entry is used only if the image's path, size and time of change, the version that decoded it
    and the pixels' checksum are those it was written with; any other is made anew. When the bound
    in bytes is reached, the oldest entries that were not used by this object make room. Where a
    file cannot be written, as on a full disk, nothing more is kept, with one warning.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.writes = True
        """Whether new entries are written."""
        self._lock = threading.Lock()
        self._others: dict[str, int] = {}
        """Bytes of entries not used yet, the oldest first."""
        self._free = max_bytes
        found = []
        for entry in folder.glob("*.rgb") if folder.is_dir() else ():
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue  # Another run has just removed it.
            found.append((status.st_mtime, entry.name, status.st_size))
        for _, name, size in sorted(found):
            self._others[name] = size
            self._free -= size

    def read(self, path: Path) -> RgbArray:
        """The image at `path`, read-only (H, W, 3) uint8 RGB; raises DataError as `read_rgb`."""
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:40] + ".rgb"
        try:
            status = path.stat()
        except OSError:
            return read_rgb(path)  # Which says what is wrong.
        source: Source = [str(path), status.st_size, status.st_mtime_ns, DECODER]
        image = _read_entry(self.folder / name, source)
        if image is not None:
            with self._lock:
                self._others.pop(name, None)
            return image
        image = read_rgb(path)
        image.flags.writeable = False
        self._keep(name, image, source)
        return image

    def _keep(self, name: str, image: RgbArray, source: Source) -> None:
        shape = list(image.shape[:2])
        facts = {"source": source, "shape": shape, "crc32": zlib.crc32(image.tobytes())}
        header = json.dumps(facts).encode()
        needed = _HEADER + image.nbytes
        with self._lock:
            if not self.writes or len(header) > _HEADER:
                return
            self._free += self._others.pop(name, 0)
            while self._free < needed and self._others:
                oldest = next(iter(self._others))
                (self.folder / oldest).unlink(missing_ok=True)
                self._free += self._others.pop(oldest, 0)
            if self._free < needed:
                return
            self._free -= needed
        try:
            # Not synced: the checksum finds an entry that a crash left half-written.
            with replacing(self.folder / name, sync=False) as beside:
                beside.write_bytes(header.ljust(_HEADER) + image.tobytes())
        except OSError as error:
            with self._lock:
                self._free += needed
                warn, self.writes = self.writes, False
            if warn:
                _log.warning(
                    "decoded images are no longer kept in %s: %s; training goes on, and decodes "
                    "them each time",
                    self.folder,
                    error.strerror or error,
                )


def open_cache(kind: CacheKind, *, gib: float, folder: Path | None = None) -> ImageSource:
    """A cache of up to `gib` GiB; on disk in `folder`, or in the user's cache folder."""
    max_bytes = round(min(gib, MOST_GIB) * (1 << 30))
    if kind == "disk":
        return DiskCache(default_folder() if folder is None else folder, max_bytes)
    return ImageCache(0 if kind == "none" else max_bytes)


def default_folder() -> Path:
    """`rstinynet/decoded` in $XDG_CACHE_HOME, or in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "rstinynet" / "decoded"


def _read_entry(entry: Path, source: Source) -> RgbArray | None:
    """The pixels of an entry that is whole and was made from `source`; else None."""
    try:
        content = entry.read_bytes()
        facts = json.loads(content[:_HEADER])
        height, width = facts["shape"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    pixels = memoryview(content)[_HEADER:]
    if facts.get("source") != source or len(pixels) != height * width * 3:
        return None
    if facts.get("crc32") != zlib.crc32(pixels):
        return None
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
