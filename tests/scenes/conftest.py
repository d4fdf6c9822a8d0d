"""A detector that finds bright blobs exactly, and scenes made of blobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from torch import Tensor, nn

from rstinynet.model.decode import REG_MAX
from rstinynet.model.detector import RawMaps
from rstinynet.model.weights import Scaling, WeightsMetadata
from rstinynet.scenes.detector import Detector

STRIDE = 4
Blob = tuple[int, int, int, int]


class BlobModel(nn.Module):
    """Raw maps whose boxes are the bounding boxes of blobs brighter than half.

    Class 0 are blobs that are red, class 1 the others; larger blobs score higher. The box is
    exact to float precision, wherever the blob lies on the grid.
    """

    strides = (STRIDE,)
    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.forwards = 0

    def deployed(self) -> BlobModel:
        return self

    def forward(self, x_BCHW: Tensor) -> RawMaps:
        self.forwards += 1
        assert x_BCHW.shape[2] % 32 == 0
        assert x_BCHW.shape[3] % 32 == 0
        maps = [self._map(image.permute(1, 2, 0).cpu().numpy()) for image in x_BCHW]
        return RawMaps([torch.stack(maps)], None)

    def _map(self, image_HWC: np.ndarray) -> Tensor:
        height, width = image_HWC.shape[0] // STRIDE, image_HWC.shape[1] // STRIDE
        sides = np.full((4, REG_MAX, height, width), -1e4, np.float32)
        classes = np.full((2, height, width), -12.0, np.float32)
        bright = (image_HWC.max(axis=2) > 0.6).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
        for x, y, w, h, _ in stats[1:].tolist():
            box = np.array([x, y, x + w, y + h], float)
            middle = (box[:2] + box[2:]) / 2
            i, j = np.minimum(middle // STRIDE, (width - 1, height - 1)).astype(int)
            point = (np.array([i, j]) + 0.5) * STRIDE
            distances = np.concatenate([point - box[:2], box[2:] - point]) / STRIDE
            for side, distance in enumerate(distances.clip(0, REG_MAX - 1.001)):
                low = int(distance)
                sides[side, low, j, i] = np.log(max(1 - (distance - low), 1e-30))
                sides[side, low + 1, j, i] = np.log(max(distance - low, 1e-30))
            red, green, _ = image_HWC[y : y + h, x : x + w].mean(axis=(0, 1))
            area = (box[2] - box[0]) * (box[3] - box[1])
            classes[0 if red > green + 0.2 else 1, j, i] = 1 + area / 400
        return torch.from_numpy(np.concatenate([sides.reshape(-1, height, width), classes]))


@pytest.fixture
def metadata() -> WeightsMetadata:
    """Two classes with category ids that are not labels; tiles of 128 pixels."""
    return WeightsMetadata(
        model="blobs",
        names=("car", "ship"),
        category_ids=(3, 9),
        imgsz=128,
        conf=0.25,
        scaling=Scaling(kind="fixed", low=0, high=255),
    )


@pytest.fixture
def detector(metadata: WeightsMetadata) -> Detector:
    """Finds bright blobs."""
    model: Any = BlobModel()
    return Detector(model, metadata, device="cpu")


@pytest.fixture
def paint() -> Callable[..., np.ndarray]:
    """Makes a dark (H, W, 3) image with white blobs given as XYXY; odd ones red."""

    def _paint(height: int, width: int, blobs: Iterable[Blob]) -> np.ndarray:
        image = np.full((height, width, 3), 40, np.uint8)
        for index, (x0, y0, x1, y1) in enumerate(blobs):
            image[y0:y1, x0:x1] = (255, 30, 30) if index % 2 else (250, 250, 250)
        return image

    return _paint


@pytest.fixture
def write_tiff() -> Callable[..., Path]:
    """Writes an array (H, W, bands) as GeoTIFF."""

    def _write(
        path: Path,
        array: np.ndarray,
        *,
        crs: str | None = "EPSG:32611",
        transform: Affine | None = None,
        **profile: Any,
    ) -> Path:
        located: dict[str, Any] = {}
        if crs is not None:
            located = {"crs": crs, "transform": transform or Affine(0.5, 0, 664000, 0, -0.5, 4e6)}
        height, width, count = array.shape
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=width,
            height=height,
            count=count,
            dtype=array.dtype,
            **located,
            **profile,
        ) as file:
            file.write(array.transpose(2, 0, 1))
        return path

    return _write


@pytest.fixture
def scattered() -> list[Blob]:
    """Blobs of 6 to 14 pixels over 500 by 400, none touching another, many near seams of 128."""
    rng = np.random.default_rng(5)
    blobs: list[Blob] = []
    for y in range(3, 380, 19):
        for x in range(3, 480, 19):
            if rng.random() < 0.4:
                w, h = rng.integers(6, 15, 2)
                blobs.append((x, y, int(x + w), int(y + h)))
    return blobs
