"""Pages point only at what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


NAMED = re.compile(r"`([a-z]+/[\w/]+\.py)::(test_\w+)`")


def test_guarantees_name_tests_that_are_there() -> None:
    named = NAMED.findall((ROOT / "docs" / "guarantees.md").read_text())
    assert named
    missing = [
        f"{path}::{test}"
        for path, test in named
        if not (file := ROOT / "tests" / path).exists() or f"def {test}(" not in file.read_text()
    ]
    assert missing == []
