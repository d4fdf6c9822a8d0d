"""A fused model as torch.export's file (.pt2): the graph of torch itself, decoding included."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from rstinynet.errors import ExportError
from rstinynet.export.onnx_file import checked_size, own_metadata
from rstinynet.files import write_bytes
from rstinynet.model.decode import decode
from rstinynet.model.detector import DetectorModel
from rstinynet.model.metadata import METADATA_KEY, WeightsMetadata

MOST_BATCH = 1024


class Decoded(nn.Module):
    """(B, 3, S, S) to (B, 4 + C, A): centre, width and height in pixels, sigmoid scores."""

    def __init__(self, model: DetectorModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """As an ONNX file's output."""
        boxes, scores = decode(self.model(images).main, self.model.strides)
        low, high = boxes[..., :2], boxes[..., 2:]
        whole = torch.cat([(low + high) / 2, high - low, scores], dim=-1)
        return whole.transpose(1, 2)


def write_torch_export(
    path: Path, model: DetectorModel, metadata: WeightsMetadata, *, imgsz: int
) -> None:
    """Write `model` (fused here) for a square of `imgsz` pixels and any batch.

    The metadata are in the file as they are in an ONNX file. Raises UsageError for another
    size than can be, ExportError for a model that torch.export cannot follow.
    """
    checked_size(imgsz)
    fused = Decoded(model.deployed().cpu()).eval()
    batch = torch.export.Dim("batch", min=1, max=MOST_BATCH)
    try:
        # Two, since one would be taken for what every input has.
        program = torch.export.export(
            fused, (torch.zeros(2, 3, imgsz, imgsz),), dynamic_shapes={"images": {0: batch}}
        )
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise ExportError(f"torch.export cannot follow this model: {line}") from error
    own = own_metadata(metadata, imgsz=imgsz)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        beside = Path(folder) / "model.pt2"
        torch.export.save(program, beside, extra_files={METADATA_KEY: own.model_dump_json()})
        write_bytes(path, beside.read_bytes())
