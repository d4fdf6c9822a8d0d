"""What a package says of the licence of its weights."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path

_CC = "https://creativecommons.org/licenses"
_KNOWN = {
    "apache-2.0": ("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0.txt"),
    "mit": ("MIT", "https://opensource.org/license/mit"),
    "bsd-3-clause": ("BSD-3-Clause", "https://opensource.org/license/bsd-3-clause"),
    "cc0-1.0": ("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/legalcode"),
    "cc-by-4.0": ("CC-BY-4.0", f"{_CC}/by/4.0/legalcode"),
    "cc-by-sa-4.0": ("CC-BY-SA-4.0", f"{_CC}/by-sa/4.0/legalcode"),
    "cc-by-nc-4.0": ("CC-BY-NC-4.0", f"{_CC}/by-nc/4.0/legalcode"),
    "cc-by-nc-sa-4.0": ("CC-BY-NC-SA-4.0", f"{_CC}/by-nc-sa/4.0/legalcode"),
}
"""By the hub's identifier: SPDX's, and where the whole text is."""
NOTICE_BEGINS = "Trained weights shipped with the package"


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence as the weights name it, and as others do."""

    text: str
    """The weights' own words."""
    hub: str
    """The hub's identifier: "other" where it has none, "unknown" where none is stated."""
    spdx: str
    """For STAC: SPDX's identifier, or "other"."""
    url: str | None
    """Where its whole text is."""

    @property
    def stated(self) -> bool:
        """Whether the weights state one at all."""
        return self.hub != "unknown"


def licence_of(text: str) -> Licence:
    """The licence that `text` names, such as "CC BY-NC-SA 4.0" or "Apache-2.0"."""
    key = re.sub(r"[\s_-]+", "-", text.strip().lower())
    if key in ("", "unknown"):
        return Licence("unknown", "unknown", "other", None)
    spdx, url = _KNOWN.get(key, ("other", None))
    return Licence(text.strip(), key if url else "other", spdx, url)


def licence_file(licence: Licence, *, model: str, notice: str) -> str:
    """The text of LICENSE, of the weights and their exported form."""
    lines = [f"Weights of {model}: model.safetensors, and model.onnx made from them."]
    if licence.stated:
        lines += ["", f"Licence: {licence.text}"]
        lines += [f"Whole text: {licence.url}"] if licence.url else []
    else:
        lines += [
            "",
            "The weights state no licence. Until their makers state one, nobody else has",
            "permission to use, change or pass them on.",
        ]
    lines += [
        "",
        "example.py, README.md and mlm-item.json may be used as the code of rs-tinynet, under the",
        "Apache License 2.0: https://www.apache.org/licenses/LICENSE-2.0.txt",
    ]
    if notice.strip():
        lines += ["", notice.strip()]
    return "\n".join(lines) + "\n"


def shipped_notice() -> str:
    """What the package's NOTICE says of the weights it ships; empty where it is not installed."""
    beside = Path(__file__).resolve().parents[3] / "NOTICE"
    if beside.is_file():
        text = beside.read_text(encoding="utf-8")
    else:
        try:
            found = importlib.metadata.distribution("rs-tinynet")
        except importlib.metadata.PackageNotFoundError:
            return ""
        text = found.read_text("licenses/NOTICE") or ""
    _, begins, rest = text.partition(NOTICE_BEGINS)
    return begins + rest
