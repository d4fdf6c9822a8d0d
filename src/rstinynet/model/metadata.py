"""What a weights file and an exported model say of themselves. Needs no torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

SCHEMA_VERSION = 2
BEFORE_SCHEMA = 2
"""Of whose names are files that do not say a schema: of runs, until they said one."""
METADATA_KEY = "rstinynet"
"""Under which the metadata stands, as JSON, in weights files and exported models."""
MOST_SIDE = 8192
"""Largest side of a model's square input that is exported or timed, pixels."""
_SHOWN = 80
"""Most characters of a value in a message."""

_FIRST_SUFFIXES = {
    "": "-p2p4-pfdh",
    "-nomdca": "-p2p4-pfdh-nomdca",
    "-nopfdh": "-p2p4-narrow",
    "-torchinit": "-p2p4-pfdh-torchinit",
    "-p2p5": "-pfdh",
    "-p2p5-nopfdh": "-narrow",
    "-p2p5-wide": "",
    "-p3p4": "-p3p4-pfdh",
    "-p3p5": "-p3p5-pfdh",
}
_FORMER = {
    1: {
        f"rs-tinynet-{scale}{old}": f"rs-tinynet-{scale}{new}"
        for scale in "nsmlx"
        for old, new in _FIRST_SUFFIXES.items()
    }
    | {"rs-tinynet-lite-p2p5-wide": "rs-tinynet-lite-p2p5-nopfdh-wide"}
}
"""By schema, today's names of what files of it and of earlier ones call otherwise: in the first,
`rs-tinynet-n` had PFDH, on P2 to P4."""


def renamed(model: str, *, schema: int) -> str:
    """Today's name of a model that a file of this schema names."""
    for last, names in _FORMER.items():
        if schema <= last:
            model = names.get(model, model)
    return model


Share = Annotated[float, Field(ge=0, le=1)]


class Scaling(BaseModel):
    """How values of a source that is not 8-bit become 8-bit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dtype", "percentile", "fixed"] = "percentile"
    """Full range of the type; percentiles of the scene; or the fixed values `low` and `high`."""
    low: FiniteFloat = 1.0
    """Percentile, or value of the source, that becomes 0."""
    high: FiniteFloat = 99.0
    """Percentile, or value of the source, that becomes 255."""


class WeightsMetadata(BaseModel):
    """What a weights file says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_version: int = SCHEMA_VERSION
    model: str
    """Name of the preset."""
    names: tuple[str, ...] = Field(min_length=1)
    """Class names by label."""
    category_ids: tuple[int, ...]
    """Category id of each label in the training data; results are written with these."""
    imgsz: int = Field(default=640, ge=32)
    """Side of the training crops and default tile, in pixels."""
    scale: FiniteFloat = Field(default=1.0, gt=0)
    """Factor by which an image is resized before the model sees it."""
    bands: int = Field(default=3, ge=1)
    """Channels of the input; single-band sources are repeated."""
    scaling: Scaling = Scaling()
    gsd_m: tuple[float, float] | None = None
    """Range of ground sampling distances trained at, metres a pixel, where known."""
    conf: Share = 0.25
    """Default confidence for prediction."""
    class_conf: tuple[Share, ...] | None = None
    """Default confidence by class, where chosen on validation data."""
    temperature: FiniteFloat = Field(default=1.0, gt=0)
    """What logits are divided by so that a score is near the share of its boxes that are right;
    `conf` and `class_conf` are compared with scores after it."""
    licence: str = "unknown"
    """Licence of the weights, from their training data."""
    data_fingerprint: str = ""
    """SHA-256 of the training annotations."""
    trained_with: str = ""
    """The command that made them."""
    budget: str = ""
    """Machine and time that made them."""
    metrics: dict[str, float] = {}
    """Validation numbers at the end of training."""

    @model_validator(mode="before")
    @classmethod
    def _to_this_schema(cls, values: Any) -> Any:
        schema = values.get("schema_version") if isinstance(values, dict) else None
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            # Before the fields: those that are new there would be called mistakes.
            raise ValueError(
                f"written by a newer rstinynet (schema {schema}, this one reads "
                f"{SCHEMA_VERSION}): upgrade the package"
            )
        if isinstance(schema, int) and schema in _FORMER:
            values = values | {"schema_version": SCHEMA_VERSION}
            if isinstance(values.get("model"), str):
                values["model"] = renamed(values["model"], schema=schema)
        return values

    @field_validator("names")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(names):
            raise ValueError("a class must have a name")
        return names

    @field_validator("names", "category_ids")
    @classmethod
    def _apart(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("classes must differ")
        return values

    @field_validator("gsd_m")
    @classmethod
    def _range(cls, gsd_m: tuple[float, float] | None) -> tuple[float, float] | None:
        if gsd_m is not None and not 0 < gsd_m[0] <= gsd_m[1] < math.inf:
            raise ValueError("the least and the most metres must be over 0 and in order")
        return gsd_m

    @model_validator(mode="after")
    def _agree(self) -> WeightsMetadata:
        for name in ("category_ids", "class_conf"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.names):
                raise ValueError(
                    f"{name}: must have one value for each of {len(self.names)} names, not "
                    f"{_shown(values)}"
                )
        return self


def faults_of(error: ValueError) -> str:
    """What metadata that cannot be read has wrong: fields, rules and values."""
    if not isinstance(error, ValidationError):
        return str(error)
    faults = []
    for one in error.errors(include_url=False):
        # Pydantic marks what this module says itself, and starts its own rules large.
        rule = one["msg"].removeprefix("Value error, ")
        rule = rule[:1].lower() + rule[1:]
        field = ".".join(map(str, one["loc"]))
        faults.append(f"{field}: {rule}, not {_shown(one['input'])}" if field else rule)
    return "; ".join(faults)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
