"""What `import rstinynet` offers, and that it costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rstinynet
from rstinynet import errors

PUBLIC = [
    "DataError",
    "Detections",
    "Detector",
    "ExportError",
    "RSTinyNetError",
    "Result",
    "RuntimeOptions",
    "UsageError",
    "WeightsError",
    "__version__",
    "load",
]


def test_the_inventory_is_as_documented_and_sorted() -> None:
    assert rstinynet.__all__ == PUBLIC == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(rstinynet))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(rstinynet, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        rstinynet.nonsense  # noqa: B018


def test_every_error_is_public() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert defined <= set(rstinynet.__all__)


def test_import_needs_no_heavy_library() -> None:
    code = (
        "import sys, rstinynet;"
        "sys.exit(' '.join({'torch', 'numpy', 'cv2', 'rasterio'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_load_refuses_what_has_no_weights() -> None:
    with pytest.raises(rstinynet.WeightsError, match="no-such-model"):
        rstinynet.load("no-such-model")
