"""docs/states.md draws the legal moves of the code, all of them and no other."""

import re
from pathlib import Path

from ignite.domain.builds import MOVES as BUILD_MOVES
from ignite.domain.versions import MOVES as VERSION_MOVES

PAGE = Path(__file__).parents[3] / "docs" / "states.md"
ARROW = re.compile(r"^ +(\w+) --> (\w+)", re.MULTILINE)


def drawn(title: str) -> set[tuple[str, str]]:
    section = PAGE.read_text().partition(f"## {title} ")[2].partition("\n## ")[0]
    return set(ARROW.findall(section))


def test_moves_of_versions_are_drawn() -> None:
    legal = {(source.name, to.name) for source, targets in VERSION_MOVES.items() for to in targets}
    assert drawn("Version") == legal


def test_moves_of_builds_are_drawn() -> None:
    legal = {(source.value, to.value) for source, targets in BUILD_MOVES.items() for to in targets}
    assert drawn("Build") == legal
