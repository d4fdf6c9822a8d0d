"""What a search depends on, as values to compare: the source, the weights and the settings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rstinynet.scenes.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rstinynet.scenes.detector import Detector
    from rstinynet.scenes.reader import Source

_ENDS = 64 * 1024
_SAMPLES = 64
_SAMPLE = 4096
_SPOT = 64


def of_source(source: Source, files: Sequence[str]) -> dict[str, Any]:
    """Geometry and content of a source; size and time of `files`, all that it is read from.

    Not of an `.aux.xml`, which programs that only show a scene write its statistics to: what it
    may say that matters is asked of the source.
    """
    files = [name for name in files if not name.lower().endswith(".aux.xml")]
    local = [path for path in map(Path, files) if path.is_file()]
    stats = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in local}
    return {
        "name": source.name,
        "size": [source.width, source.height, source.count],
        "dtype": ", ".join(dict.fromkeys(map(str, source.dtypes))),
        "crs": None if source.crs is None else source.crs.to_wkt(),
        "geotransform": None if source.transform is None else list(source.transform.to_gdal()),
        "bands": list(source.stated),
        "files (size, time)": stats,
        "content": of_files(local) if local and len(local) == len(files) else of_pixels(source),
    }


def of_files(paths: Sequence[Path]) -> str:
    """A hash of both ends of each file and of 64 places between: cheap whatever the size."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(file.read(_ENDS))
            for at in np.linspace(0, max(size - _SAMPLE, 0), _SAMPLES).astype(int).tolist():
                file.seek(at)
                digest.update(file.read(_SAMPLE))
            file.seek(max(size - _ENDS, 0))
            digest.update(file.read(_ENDS))
    return digest.hexdigest()


def of_pixels(source: Source) -> str:
    """A hash of nine spots, for a source that is no local file."""
    digest = hashlib.sha256()
    width, height = min(_SPOT, source.width), min(_SPOT, source.height)
    for y in np.linspace(0, source.height - height, 3).astype(int).tolist():
        for x in np.linspace(0, source.width - width, 3).astype(int).tolist():
            spot = Window(x, y, width, height, (x, y, x + width, y + height))
            digest.update(source.read(spot, source.default_bands())[0].tobytes())
    return digest.hexdigest()


def of_weights(detector: Detector) -> dict[str, Any]:
    """A hash of the model where it has one, and what the weights say of themselves."""
    backend = getattr(detector, "backend", None)
    return {
        "model": None if backend is None else backend.digest(),
        "metadata": detector.metadata.model_dump(mode="json"),
    }
