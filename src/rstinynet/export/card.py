"""The model card of a package: README.md with the front matter that model hubs read.

Every number in it is the weights' own metadata, or measured on the data given; nothing else is
claimed. The front matter is the hub's (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from rstinynet.evaluate.coco import FIGURES, MAX_DET
from rstinynet.export.licence import Licence
from rstinynet.export.mlm import other_sources, resized
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.version import __version__

TAGS = (
    "object-detection",
    "remote-sensing",
    "aerial-imagery",
    "satellite-imagery",
    "tiny-object-detection",
    "safetensors",
    "onnx",
)
_SIZES = {
    "ap": "mean over IoU .5 to .95",
    "ap50": "IoU .5",
    "ap75": "IoU .75",
    "ap_vt": "objects up to 8² pixels",
    "ap_t": "8² to 16²",
    "ap_s": "16² to 32²",
    "ap_m": "over 32²",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the card tells."""

    title: str
    metadata: WeightsMetadata
    licence: Licence
    repo: str | None
    """`owner/name` on the hub, where it is known."""
    export: Mapping[str, Any]
    """The report of the ONNX file's check."""
    measured: Mapping[str, Any] | None
    """Of `Evaluation.as_dict`, where data was given."""
    measured_on: str
    """That data, in words."""
    notes: str
    """What its maker adds, Markdown."""

    @property
    def numbers(self) -> dict[str, float]:
        """AP's figures in [0, 1]: measured now, else those stored in the weights."""
        source = self.metadata.metrics if self.measured is None else self.measured
        return {key: source[key] for key in FIGURES if source.get(key) is not None}

    @property
    def numbers_are_of(self) -> str:
        """Where they come from, in words."""
        if self.measured is not None:
            return self.measured_on
        return "validation images at the end of training, as stored in the weights"


def model_card(facts: Facts) -> str:
    """The whole README.md."""
    parts = [
        _front_matter(facts),
        _opening(facts),
        _how_to_load(facts),
        _numbers(facts),
        _intended_use(facts.metadata),
        _limits(facts),
        facts.notes.strip(),
        _training(facts.metadata),
        _licence(facts.licence),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(facts: Facts) -> str:
    content: dict[str, Any] = {
        "library_name": "rs-tinynet",
        "pipeline_tag": "object-detection",
        "license": facts.licence.hub,
    }
    if facts.licence.hub == "other":
        content |= {"license_name": facts.licence.text, "license_link": "LICENSE"}
    content["tags"] = list(TAGS)
    if facts.numbers:
        content["metrics"] = ["mean_average_precision"]
        content["model-index"] = [_model_index(facts)]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{text}---"


def _model_index(facts: Facts) -> dict[str, Any]:
    metrics = [
        {
            "type": "mean_average_precision",
            "name": f"{_heading(key)} ({_SIZES[key]})",
            "value": round(value, 4),
        }
        for key, value in facts.numbers.items()
    ]
    task = {"type": "object-detection", "name": "Object detection"}
    dataset = {"type": "custom", "name": facts.numbers_are_of}
    return {
        "name": facts.title,
        "results": [{"task": task, "dataset": dataset, "metrics": metrics}],
    }


def _opening(facts: Facts) -> str:
    names = ", ".join(f"`{name}`" for name in facts.metadata.names)
    return (
        f"# {facts.title}\n\n"
        f"Finds {names} in aerial and satellite images: a `{facts.metadata.model}` detector of "
        f"tiny objects, packaged by rs-tinynet {__version__}."
    )


def _how_to_load(facts: Facts) -> str:
    where = f"hub:{facts.repo or 'OWNER/NAME'}"
    return f"""## How to load

    pip install 'rs-tinynet[torch,hub]'      # or [runtime,hub]: the ONNX file, without torch

```python
import rstinynet

detector = rstinynet.load("{where}")  # add @REVISION to pin it; or the path of this folder
result = detector.predict("scene.tif")  # an image, or a GeoTIFF of any size
print(result.counts())
result.save("found")  # a picture, COCO JSON, and a GeoPackage where the image has a place
```

or `rstinynet predict scene.tif --model {where} --out found`. `python example.py IMAGE`, in this
folder, does the same.

| file | what |
|---|---|
| `model.safetensors` | weights |
| `model.onnx` | the same for ONNX Runtime and QGIS Deepness, {facts.export["imgsz"]} px, \
{facts.export["precision"]} |
| `model.export.json` | how far the ONNX file's outputs are from the weights' |
| `mlm-item.json` | STAC item of the Machine Learning Model extension |
| `example.py` | finds the objects of an image |
| `LICENSE` | of the weights |"""


def _numbers(facts: Facts) -> str:
    numbers = facts.numbers
    if not numbers:
        return (
            "## Numbers\n\nNone: the weights carry none, and none were measured when this was "
            "packaged. Measure on labelled images of your own: `rstinynet val --model FOLDER "
            "--data DIR`."
        )
    keys = list(numbers)
    header = ["", *map(_heading, keys)]
    rows = [["**all**", *(_percent(numbers[key]) for key in keys)]]
    per_class: Mapping[str, Any] = {} if facts.measured is None else facts.measured["per_class"]
    if per_class:
        header.append("objects")
        total = sum(scores["objects"] for scores in per_class.values())
        rows[0].append(str(total))
        for name, scores in per_class.items():
            cells = [_percent(scores[key]) for key in keys]
            rows.append([_cell(name), *cells, str(scores["objects"])])
    sizes = "; ".join(f"{_heading(key)}: {_SIZES[key]}" for key in keys)
    lines = [
        "## Numbers",
        "",
        f"Average precision in percent, AI-TOD's protocol, at most {MAX_DET} detections of a class "
        f"on an image, on {facts.numbers_are_of}.",
        "",
        *_table(header, rows),
        "",
        f"{sizes}." + (' "-": no such object.' if per_class else " Not known by class."),
    ]
    if "ap_after" in facts.export:
        lines += [
            "",
            f"AP of the ONNX file there {_percent(facts.export['ap_after'])}; of the weights at "
            f"its fixed size {_percent(facts.export['ap_before'])}.",
        ]
    return "\n".join(lines)


def _intended_use(metadata: WeightsMetadata) -> str:
    ground = (
        "The ground sampling distance it was trained at is not recorded: try it on images like "
        "yours first."
        if metadata.gsd_m is None
        else f"Trained at {metadata.gsd_m[0]:g} to {metadata.gsd_m[1]:g} m a pixel. A GeoTIFF of "
        "another can be read at that (`rstinynet predict --gsd weights`)."
    )
    by_class = metadata.class_conf or (metadata.conf,) * len(metadata.names)
    rows = [
        [_cell(name), str(id_), f"{conf:.2f}"]
        for name, id_, conf in zip(metadata.names, metadata.category_ids, by_class, strict=True)
    ]
    return "\n".join(
        [
            "## Intended use",
            "",
            "Finding and counting these objects, seen from above, with a person who checks what "
            f"the count decides. {ground}",
            "",
            f"Input: RGB of 8 bits, searched in tiles of {metadata.imgsz} px{resized(metadata)}. "
            f"{other_sources(metadata.scaling)} One band is repeated as three.",
            "",
            *_table(["class", "category id", "default confidence"], rows),
        ]
    )


def _limits(facts: Facts) -> str:
    lines = [
        "- Other objects than these are not found, and things that look like these may be.",
        "- Boxes are upright; their angle is not found.",
        "- The numbers are of the images named, and say nothing of other sensors, seasons, places "
        "or resolutions.",
    ]
    if facts.metadata.class_conf is not None:
        lines.append("- The confidence of each class was chosen on validation images.")
    if not facts.numbers:
        lines[2] = "- How well it does this is not known here."
    return "## Limits\n\n" + "\n".join(lines)


def _training(metadata: WeightsMetadata) -> str:
    told = []
    if metadata.budget:
        told.append(metadata.budget.rstrip(".") + ".")
    if metadata.data_fingerprint:
        told.append(f"SHA-256 of the training annotations: `{metadata.data_fingerprint}`.")
    if metadata.trained_with:
        command = metadata.trained_with.replace("; then ", "\n")
        told.append(f"\n```\n{command}\n```")
    return "## Training\n\n" + "\n".join(told) if told else ""


def _licence(licence: Licence) -> str:
    if not licence.stated:
        return (
            "## Licence\n\nThe weights state none: until their makers do, nobody else has "
            "permission to use them."
        )
    named = f"[{licence.text}]({licence.url})" if licence.url else licence.text
    return (
        f"## Licence\n\nWeights: {named}, see [LICENSE](LICENSE). "
        "The code of rs-tinynet: Apache-2.0."
    )


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    line = "|" + "---|" * len(header)
    return [
        f"| {' | '.join(cells)} |" if cells is not None else line for cells in (header, None, *rows)
    ]


def _heading(key: str) -> str:
    return f"AP{key.removeprefix('ap')}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
