"""Writing files so that no half-written file ever stands under its final name."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rstinynet.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows, where `lock` keeps nothing out
    fcntl = None  # type: ignore[assignment]

_BESIDE_SHAPES = (".qix", ".sbn", ".sbx", ".idm", ".ind", ".prj", ".qpj")
_BESIDE_RASTERS = (".ovr", ".msk", ".aux.xml")
_BESIDE_DATABASES = ("-wal", "-shm", "-journal")
_PARSED = "!;\t\n\r"
"""What pyogrio takes for the end of an archive's path, cuts a path at, or leaves out."""


@contextmanager
def replacing(path: Path | str, *, sync: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is synced and renamed onto `path`.

    It is absolute, so that no library takes the name of a folder (`c:d`) for a URL, and its name is
    one that `unparsed` takes. The suffix is kept, since some drivers choose the format by it. On
    any error the file beside is removed and `path` is left as it was. `sync=False` is for files
    that can be made again and whose reader notices damage.

    Raises UsageError, before anything is written and again at the end, for a GeoPackage in whose
    place another program has one open. What one that died left beside it goes, since SQLite would
    take that for changes to the new file.
    """
    final = Path(path)
    _settle(final)
    with _folder_beside(final) as folder:
        beside = folder / _plain(final.name)
        yield beside
        if sync:
            _sync(beside)
        for one in _settle(final):
            one.unlink(missing_ok=True)
        beside.replace(final)


@contextmanager
def replacing_set(path: Path | str) -> Iterator[Path]:
    """`replacing` for a file with companions, such as a shapefile or a GeoTIFF.

    Files cannot be renamed together. So the old main file goes first and the new one comes last:
    whatever interrupts this, no main file ever stands beside companions that are not its own. Nor
    do those that other programs made of the old one stay, such as an index or overviews.
    """
    final = Path(path)
    with _folder_beside(final) as folder:
        beside = folder / _plain(final.name)
        yield beside
        companions = sorted(set(folder.iterdir()) - {beside})
        for one in [beside, *companions]:
            _sync(one)
        final.unlink(missing_ok=True)
        for one in _outdated(final):
            one.unlink(missing_ok=True)
        for one in companions:
            one.replace(final.with_name(final.stem + one.name.removeprefix(beside.stem)))
        beside.replace(final)


@contextmanager
def replacing_folder(path: Path | str, *, may_hold: Collection[str] = ()) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; on success it is synced and renamed to `path`.

    A folder that stands there is replaced only where it holds nothing but `may_hold` (names), so
    that nothing of the user's is ever lost; an empty one always is. On any error the new folder is
    removed and `path` is left as it was. Raises UsageError, before anything is written, for a
    `path` that is a file or a folder that holds something else.
    """
    final = Path(path).resolve()
    _check_replaceable(final, may_hold)
    with _folder_beside(final) as folder:
        beside, old = folder / final.name, folder / "old"
        beside.mkdir()
        yield beside
        for one in beside.rglob("*"):
            if one.is_file():
                _sync(one)
        # What came into the folder in the meantime is not ours to remove either.
        _check_replaceable(final, may_hold)
        stood = final.exists()
        if stood:
            final.rename(old)
        try:
            beside.rename(final)
        except OSError:
            if stood:
                old.rename(final)
            raise


@contextmanager
def unparsed(path: Path | str) -> Iterator[str]:
    """Yield an absolute path to the same file that pyogrio takes as it is, for the `with` block.

    pyogrio looks for archives and URLs in paths: `a!b.gpkg` is a `b.gpkg` inside of `a` to it. So
    folders of such names are gone to by a link, and what is there of such a name, with its
    companions, gets links. A new file has to have a plain name, as from `replacing`. Raises
    UsageError for one that has none, and where even temporary files have such a path.
    """
    whole = Path(path).absolute()
    if os.name == "nt" or not _is_parsed(str(whole)):
        yield str(whole)
        return
    with tempfile.TemporaryDirectory(prefix="rstinynet.") as folder:
        if _is_parsed(folder):
            raise UsageError(
                f"{path} cannot be opened: no path may have any of {_PARSED!r}, nor may that of "
                f"temporary files, {folder}: rename it, or set TMPDIR to another folder"
            )
        if not _is_parsed(whole.name):
            link = Path(folder) / "folder"
            link.symlink_to(whole.parent, target_is_directory=True)
            yield str(link / whole.name)
            return
        if not whole.exists():
            raise UsageError(f"{path}: the name of a new file may have none of {_PARSED!r}")
        for one in whole.parent.iterdir():
            if one.name.startswith(whole.stem):
                (Path(folder) / _plain(one.name)).symlink_to(one)
        yield str(Path(folder) / _plain(whole.name))


def lock(descriptor: int) -> bool:
    """Keep other processes from locking an open file or folder until it is closed.

    False where another holds it; a killed process holds nothing. Where nothing can be locked
    (Windows, some network file systems) nothing is kept out.
    """
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True


def _is_parsed(path: str) -> bool:
    return path.startswith("//") or any(character in path for character in _PARSED)


def _plain(name: str) -> str:
    """The name with `_` for what is parsed."""
    return "".join("_" if character in _PARSED else character for character in name)


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A new folder, for the time of the `with` block, in that of `path`, which is made."""
    parent = path.parent.absolute()
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{_plain(path.name)}.", dir=parent) as folder:
        yield Path(folder)


def _outdated(path: Path) -> list[Path]:
    """Where readers look for more about a shapefile or a raster at `path`."""
    if path.suffix.lower() == ".shp":
        return [path.with_suffix(suffix) for suffix in _BESIDE_SHAPES]
    return [path.with_name(path.name + suffix) for suffix in _BESIDE_RASTERS]


def _settle(path: Path) -> list[Path]:
    """What SQLite left beside the GeoPackage at `path`, with all changes brought into that.

    Empty for any other file. UsageError where another program has the GeoPackage open.
    """
    if path.suffix.lower() != ".gpkg":
        return []
    beside = [path.with_name(path.name + suffix) for suffix in _BESIDE_DATABASES]
    beside = [one for one in beside if os.path.lexists(one)]
    # SQLite keeps what belongs to a link's target beside the target, which is not replaced.
    if not beside or path.is_symlink() or not path.exists():
        return beside
    try:
        # What is open with a -wal refuses the other journal, what is being changed the lock.
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode=DELETE")
            database.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        code = error.sqlite_errorcode & 0xFF  # without what makes it one of a kind
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise UsageError(
                f"{path} cannot be replaced: another program has this file open. Close it there, "
                "or name another"
            ) from error
        if code not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise UsageError(
                f"{path} cannot be replaced: there are changes to it in {beside[0].name}, and "
                f"they cannot be brought into it ({error}). Move both away, or name another"
            ) from error
    return beside


def _sync(path: Path) -> None:
    """Wait until the file's content is on the disk."""
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _check_replaceable(folder: Path, may_hold: Collection[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, and a folder is to be written there: name another")
    kept = sorted({p.name for p in folder.iterdir()} - set(may_hold)) if folder.is_dir() else []
    if kept:
        raise UsageError(
            f"the folder {folder} is not empty: it holds {', '.join(kept[:3])}"
            f"{' and more' if len(kept) > 3 else ''}. Name another folder, or empty this one"
        )


def check_file_place(path: Path | str, *, option: str) -> None:
    """UsageError, which names `option`, where no file could be written as `path`.

    For use before work that takes long. Folders that are missing are no fault: they are made.
    """
    if Path(path).is_dir():
        raise UsageError(f"{option} {path} is a folder; give a file's name")
    _check_writable(Path(path).parent, f"{option} {path}")


def check_folder_place(path: Path | str, *, option: str) -> None:
    """UsageError, which names `option`, where no file could be written into the folder `path`.

    For use before work that takes long. A folder that is missing is no fault: it is made.
    """
    _check_writable(Path(path), f"{option} {path}")


def check_closed(path: Path | str) -> None:
    """UsageError where `path` is a GeoPackage that another program has open.

    For use before work that takes long: `replacing` refuses it too.
    """
    _settle(Path(path))


def _check_writable(folder: Path, given: str) -> None:
    # What is missing will be made in the nearest folder that is there.
    nearest = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
    if not nearest.is_dir():
        raise UsageError(f"{given} cannot be written: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(
            f"{given} cannot be written: {nearest} is a folder that you may not change"
        )


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write `content` to `path`, beside and renamed."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as JSON to `path`, beside and renamed; NaN and infinity are refused."""
    write_bytes(path, json.dumps(value, indent=1, allow_nan=False).encode())
