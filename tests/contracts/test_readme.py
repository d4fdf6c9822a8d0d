"""The README's commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rstinynet.cli.main import VERBS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_and_verbs_exist(page: Path) -> None:
    text = page.read_text()
    rules = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^ {4}|`)make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", rules, re.MULTILINE), f"{page.name}: make {target}"
    for verb in re.findall(r"(?:^ {4}|`|/)rstinynet ([a-z]+)", text, re.MULTILINE):
        assert verb in VERBS, f"{page.name}: rstinynet {verb}"
    assert text.startswith("# ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    broken = [
        link for link in links if not link.startswith("http") and not (page.parent / link).exists()
    ]
    assert broken == []


def test_the_readme_has_the_two_commands() -> None:
    assert {"make demo", "make test"} <= set(
        re.findall(r"^ {4}(make \w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    )
