"""What became of each source of a run: records, `errors.json`, the exit code."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rstinynet.errors import DataError, RSTinyNetError, UsageError
from rstinynet.files import write_json

ERRORS = "errors.json"
"""Name of the file, in the folder of the results, that lists the sources that failed.

Where another program's file has it, `errors_2.json` and so on.
"""
_KEYS = {"failed", "of", "errors"}


@dataclass(slots=True)
class Outcome:
    """The sources of a run in turn, done and failed."""

    records: list[dict[str, Any]] = field(default_factory=list)
    """One a source, as in the JSON summary; those that failed have the key `error`."""
    errors: list[Exception] = field(default_factory=list)

    def fail(self, error: Exception, source: str) -> str:
        """Record a source that cannot be used; gives the words for it."""
        from rstinynet.scenes.raster import without_query

        source = without_query(source)
        words = str(error) if isinstance(error, RSTinyNetError) else f"{source}: {error}"
        self.errors.append(error)
        self.records.append({"source": source, "error": words})
        return words

    @property
    def none_done(self) -> bool:
        """Whether every source failed."""
        return len(self.errors) == len(self.records)

    def write(self, folder: Path) -> None:
        """List the failures in `errors.json`; an old list goes when there are none."""
        path = _place(folder)
        if not self.errors:
            path.unlink(missing_ok=True)
            return
        failed = [record for record in self.records if "error" in record]
        for record, error in zip(failed, self.errors, strict=True):
            record["kind"] = type(error).__name__
        write_json(path, {"failed": len(failed), "of": len(self.records), "errors": failed})

    def raise_failed(self) -> None:
        """End a run in which a source failed: exit code 3, or 2 where the options suit none."""
        if not self.errors:
            return
        usage = self.none_done and all(isinstance(e, UsageError) for e in self.errors)
        raise (UsageError if usage else DataError)(
            f"{len(self.errors)} of {len(self.records)} sources could not be used: "
            + ", ".join(record["source"] for record in self.records if "error" in record)
        )


def _place(folder: Path) -> Path:
    """Where the list of failures goes: a path that is free or has an old list."""
    first = folder / ERRORS
    others = (first.with_stem(f"{first.stem}_{number}") for number in itertools.count(2))
    return next(
        p for p in itertools.chain([first], others) if not os.path.lexists(p) or _is_list(p)
    )


def _is_list(path: Path) -> bool:
    """Whether the file is a list of failures, of an earlier run."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and set(content) == _KEYS


def one_sources_errors() -> tuple[type[Exception], ...]:
    """What can go wrong with one source, in reading, placing or writing."""
    from sqlite3 import Error as SQLiteError

    from pyogrio.errors import DataLayerError, DataSourceError
    from pyproj.exceptions import ProjError
    from rasterio.errors import RasterioError

    known = (RSTinyNetError, OSError, ProjError, DataSourceError, DataLayerError, RasterioError)
    try:
        from pyarrow import ArrowException
    except ImportError:
        return (*known, SQLiteError)
    return (*known, SQLiteError, ArrowException)
