"""Every named model as a function from name to config.

`yolo11{n,s,m,l,x}` the baseline; `yolo11{..}-p2` the control with a stride-4 level;
`paper-{mdca,arb,pfdh,mdca-arb,arb-pfdh,mdca-pfdh,full}-{n,s,m,l,x}` the rows of the paper's
Table III (parameter counts at scale m in docs/models.md); `rs-tinynet-{n,s,m,l,x}` ours;
`rs-tinynet-lite` ours on an ImageNet-initialised EfficientNet-Lite0. What stands after a name of
ours changes it: `-p2p4`, `-p2p5`, `-p3p4` or `-p3p5` the levels; `-nomdca`, `-nopfdh` and `-pfdh`
the modules; `-narrow` and `-wide` the class branches; `-torchinit` the weights that PFDH starts
from. `rs-tinynet-{n,s,m,l,x}-p2p4-pfdh` is what `rs-tinynet-{n,s,m,l,x}` was at first.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

from rstinynet.errors import UsageError
from rstinynet.model.config import SCALES, MDCAConfig, ModelConfig, PFDHConfig, Scale
from rstinynet.model.detector import DetectorModel
from rstinynet.model.located import one_wanted

_P2 = (2, 3, 4, 5)
_P4 = (2, 3, 4)
_FUSION_WIDTHS = {2: 16, 3: 32, 4: 64, 5: 64}
"""PFDH's inner widths at scale m. Ours keep them at every scale: scale n would fuse 4 channels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ours:
    """What our models are made of."""

    levels: tuple[int, ...]
    mdca: bool = True
    pfdh: bool
    wide: bool
    """Without PFDH: class branches as wide as YOLO11's are without level 2, not half of that."""
    init: Literal["xavier", "torch"] = "xavier"

    def attention(self) -> MDCAConfig | None:
        """MDCA on every level."""
        return MDCAConfig() if self.mdca else None

    def fusion(self, *, light_head: bool = False) -> PFDHConfig | None:
        """PFDH, 64 wide."""
        if not self.pfdh:
            return None
        reduced = tuple(_FUSION_WIDTHS[level] for level in self.levels)
        return PFDHConfig(reduced=reduced, light_head=light_head, init=self.init)

    def class_width(self, scale: Scale) -> int | None:
        """YOLO11's are as wide as its finest level, 3."""
        return SCALES[scale].channels(256) if self.wide and not self.pfdh else None


_SCALED = Ours(levels=_P2, pfdh=False, wide=True)
"""Of what we trained from nothing, the best, and cheaper than with PFDH: docs/accuracy.md."""
_SCALED_VARIANTS = {
    "p2p4": replace(_SCALED, levels=_P4),
    "p3p5": replace(_SCALED, levels=(3, 4, 5)),
    "nomdca": replace(_SCALED, mdca=False),
    "narrow": replace(_SCALED, wide=False),
    "p2p4-narrow": replace(_SCALED, levels=_P4, wide=False),
    "pfdh": replace(_SCALED, pfdh=True),
    "p2p4-pfdh": replace(_SCALED, levels=_P4, pfdh=True),
    "p3p4-pfdh": replace(_SCALED, levels=(3, 4), pfdh=True),
    "p3p5-pfdh": replace(_SCALED, levels=(3, 4, 5), pfdh=True),
    "p2p4-pfdh-nomdca": replace(_SCALED, levels=_P4, pfdh=True, mdca=False),
    "p2p4-pfdh-torchinit": replace(_SCALED, levels=_P4, pfdh=True, init="torch"),
}
_LITE = Ours(levels=_P4, pfdh=True, wide=False)
_LITE_VARIANTS = {
    "p2p5": replace(_LITE, levels=_P2),
    "p3p4": replace(_LITE, levels=(3, 4)),
    "p3p5": replace(_LITE, levels=(3, 4, 5)),
    "nomdca": replace(_LITE, mdca=False),
    "nopfdh": replace(_LITE, pfdh=False),
    "p2p5-nopfdh": replace(_LITE, levels=_P2, pfdh=False),
    "p2p5-nopfdh-wide": replace(_LITE, levels=_P2, pfdh=False, wide=True),
    "torchinit": replace(_LITE, init="torch"),
}


def yolo11(scale: Scale, num_classes: int) -> ModelConfig:
    """YOLO11: levels 3 to 5, none of the paper's modules."""
    return ModelConfig(scale=scale, num_classes=num_classes)


def yolo11_p2(scale: Scale, num_classes: int) -> ModelConfig:
    """YOLO11 with a stride-4 level: the control that the paper's ablation lacks."""
    return ModelConfig(scale=scale, num_classes=num_classes, levels=_P2)


def paper(scale: Scale, num_classes: int, modules: frozenset[str]) -> ModelConfig:
    """A row of Table III, by the structure that gives its parameter count.

    Every row with MDCA or PFDH has the stride-4 level. MDCA is one module on the finest level, its
    kernel 1 beside ARB and 3 otherwise. PFDH is 256 wide beside ARB and 64 otherwise.
    """
    arb = "arb" in modules
    mdca = MDCAConfig(sites="finest", kernel=1 if arb else 3) if "mdca" in modules else None
    pfdh = PFDHConfig(width=256 if arb else 64) if "pfdh" in modules else None
    return ModelConfig(
        scale=scale,
        num_classes=num_classes,
        levels=_P2 if mdca or pfdh else (3, 4, 5),
        mdca=mdca,
        arb="dual" if arb else "none",
        pfdh=pfdh,
    )


def rs_tinynet(scale: Scale, num_classes: int, parts: Ours = _SCALED) -> ModelConfig:
    """Ours: levels 2 to 5, MDCA on each, the auxiliary branch in training only.

    With PFDH, 64 wide, scale n has the light head: less than twice YOLO11n's cost, not almost
    three times.
    """
    return ModelConfig(
        scale=scale,
        num_classes=num_classes,
        levels=parts.levels,
        mdca=parts.attention(),
        arb="pgi",
        pfdh=parts.fusion(light_head=scale == "n"),
        class_width=parts.class_width(scale),
    )


def rs_tinynet_lite(num_classes: int, parts: Ours = _LITE) -> ModelConfig:
    """Levels 2 to 4 of scale n's neck on EfficientNet-Lite0, MDCA on each, PFDH 64 wide.

    For small data and small machines.
    """
    return ModelConfig(
        scale="n",
        num_classes=num_classes,
        backbone="lite0",
        levels=parts.levels,
        mdca=parts.attention(),
        pfdh=parts.fusion(),
        class_width=parts.class_width("n"),
    )


PAPER_ROWS: dict[str, frozenset[str]] = {
    "mdca": frozenset({"mdca"}),
    "arb": frozenset({"arb"}),
    "pfdh": frozenset({"pfdh"}),
    "mdca-arb": frozenset({"mdca", "arb"}),
    "arb-pfdh": frozenset({"arb", "pfdh"}),
    "mdca-pfdh": frozenset({"mdca", "pfdh"}),
    "full": frozenset({"mdca", "arb", "pfdh"}),
}


def _presets() -> dict[str, Callable[[int], ModelConfig]]:
    named: dict[str, Callable[[int], ModelConfig]] = {"rs-tinynet-lite": rs_tinynet_lite}
    for suffix, parts in _LITE_VARIANTS.items():
        named[f"rs-tinynet-lite-{suffix}"] = partial(rs_tinynet_lite, parts=parts)
    for scale in get_args(Scale):
        named[f"yolo11{scale}"] = partial(yolo11, scale)
        named[f"yolo11{scale}-p2"] = partial(yolo11_p2, scale)
        for row, modules in PAPER_ROWS.items():
            named[f"paper-{row}-{scale}"] = partial(paper, scale, modules=modules)
        named[f"rs-tinynet-{scale}"] = partial(rs_tinynet, scale)
        for suffix, parts in _SCALED_VARIANTS.items():
            named[f"rs-tinynet-{scale}-{suffix}"] = partial(rs_tinynet, scale, parts=parts)
    return named


_PRESETS = _presets()
NAMES: tuple[str, ...] = tuple(_PRESETS)
"""Every named model."""


def config(name: str, num_classes: int) -> ModelConfig:
    """The config of a named model. UsageError with the nearest names for an unknown one."""
    if name not in _PRESETS:
        near = difflib.get_close_matches(name, NAMES, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`rstinynet info` lists them"
        raise UsageError(f"there is no model named {name!r}: {one_wanted(name) or hint}")
    return _PRESETS[name](num_classes)


def build(name: str, num_classes: int) -> DetectorModel:
    """A named model with fresh weights (rs-tinynet-lite's ImageNet weights come at training)."""
    return DetectorModel(config(name, num_classes))
