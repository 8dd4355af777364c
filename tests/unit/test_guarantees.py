"""Every bound a caller can meet stands in docs/guarantees.md, beside the test that proves it."""

from pathlib import Path

from ignite.settings import LimitSettings

PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"


def test_every_limit_has_a_row_with_a_test() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    proven = [row for row in rows if ".py::test_" in row]
    names = [f"`limits.{name}`" for name in LimitSettings.model_fields]
    missing = [name for name in names if not any(name in row for row in proven)]
    assert missing == []


def test_no_row_of_a_bound_is_without_a_test() -> None:
    text = PAGE.read_text().partition("## Bounds")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    same_as_above = "the same"
    assert [row for row in rows if "::test_" not in row and same_as_above not in row] == []
