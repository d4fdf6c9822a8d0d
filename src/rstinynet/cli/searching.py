"""One source of `rstinynet predict`: searched, its files written, and who searches it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstinynet.cli.shown import crs_name
from rstinynet.errors import UsageError

if TYPE_CHECKING:
    from rstinynet.scenes.counting import Counting
    from rstinynet.scenes.detector import Detector
    from rstinynet.scenes.engine_ray import RayEngine
    from rstinynet.scenes.merged import Merged
    from rstinynet.scenes.stream import Engine, PredictOptions

Tiles = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where one source's files go, and which."""

    folder: Path
    name: str
    """What the files' names begin with."""
    label: str | None = None
    """What the merged file calls the source; None: its file's name."""
    formats: list[str] | None = None
    """None: what suits the source."""
    image_id: int = 1
    """In the COCO results."""
    resume: bool = False
    """Go on where an earlier run into the same folder stopped."""
    merged: Merged | None = None
    """What takes the objects of every source."""
    counting: Counting | None = None
    """What counts the objects of every source."""
    finished: list[Path] | None = None
    """Takes the ledger when the source is done, to be removed later; None: it is removed then."""

    @property
    def ledger(self) -> Path:
        """The folder of finished tiles while the search lasts."""
        return self.folder / f"{self.name}_detections.ledger"


def search(
    detector: Detector,
    path: Path | str,
    *,
    options: PredictOptions,
    output: Output,
    progress: Tiles | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Search one source, write its files, and describe both as the JSON summary does."""
    from rstinynet.scenes import stream, writers
    from rstinynet.scenes.ledger import Ledger
    from rstinynet.scenes.memory import peak_bytes
    from rstinynet.scenes.raster import without_query

    start = time.perf_counter()
    shown = without_query(str(path))
    # Before a search that may take an hour.
    stem = output.folder / f"{output.name}_detections"
    writers.check_scene(path, output.formats, bands=options.bands, stem=stem)
    if output.merged is not None:
        output.merged.check(path)
    if output.counting is not None:
        output.counting.check(path)
    with Ledger(output.ledger, resume=output.resume) as ledger:
        try:
            result = stream.predict(
                detector, path, options, progress=progress, ledger=ledger, engine=engine
            )
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(ledger.story(Path(shown).name)) from stop
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            files = result.save(
                output.folder, formats=output.formats, name=output.name, image_id=output.image_id
            )
            if output.merged is not None:
                output.merged.add(result, image_id=output.image_id, label=output.label)
        if output.counting is not None:
            output.counting.add_result(result)
        if output.finished is None:
            ledger.finish()
        else:
            output.finished.append(output.ledger)
    said = dict.fromkeys(str(warning.message) for warning in caught)
    notes = [*result.notes, *ledger.notes, *said]
    return {
        "source": shown,
        "image_id": output.image_id,
        "width": result.size[0],
        "height": result.size[1],
        "crs": crs_name(result.crs),
        "count": len(result),
        "counts": result.counts(),
        "files": {kind: str(file) for kind, file in files.items()},
        "notes": notes,
        "resumed_tiles": ledger.resumed,
        "peak_memory": peak_bytes(),
        "seconds": round(time.perf_counter() - start, 3),
    }


def engine_of(
    name: str, detector: Detector, *, address: str | None, workers: int | None
) -> RayEngine | None:
    """Who searches the windows; None for this process. UsageError for options without sense."""
    if name not in ("local", "ray"):
        raise UsageError(f"--engine takes local or ray, not {name!r}")
    if name == "local":
        if address is not None or workers is not None:
            raise UsageError("--ray-address and --workers go with --engine ray")
        return None
    from rstinynet.scenes.engine_ray import RayEngine

    return RayEngine(detector, address=address, workers=workers)
