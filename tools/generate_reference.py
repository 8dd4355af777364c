"""Writes docs/reference/ from the code; with --check fails when it would change anything.

settings.md: every variable, its default, its bound. errors.md: every status and reason word that a
caller may meet.
"""

import argparse
import ast
import sys
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from ignite.domain import errors
from ignite.rpc.status import CODES
from ignite.settings import Settings

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
SOURCES = ROOT / "src" / "ignite"
_HEAD = "<!-- Written by tools/generate_reference.py. -->\n"


def settings_page() -> str:
    """Return the table of all settings, a section a group."""
    lines = [
        _HEAD,
        "# Settings",
        "",
        "Every variable `ignite serve` and its roles read. Flags win over variables, variables",
        "over defaults; a value out of its bound stops the start and names the variable.",
        "",
    ]
    for group, info in Settings.model_fields.items():
        kind: Any = info.annotation
        about = (kind.__doc__ or "").strip().splitlines()[0]
        lines += [f"## {group}", "", about, "", "| variable | default | bound | what |"]
        lines.append("|---|---|---|---|")
        for field, found in kind.model_fields.items():
            names = [f"`IGNITE__{group}__{field}`".upper()]
            extra = found.json_schema_extra or {}
            names += [f"`{name}`" for name in extra.get("env", [])]
            lines.append(
                f"| {' '.join(names)} | {_default(found.default)} | {_bound(found)} "
                f"| {found.description} |"
            )
        lines.append("")
    return "\n".join(lines)


def _default(value: object) -> str:
    if value is None or value is PydanticUndefined or value in ("", ()):
        return "-"
    if hasattr(value, "get_secret_value"):
        return "-"
    return f"`{value}`"


def _bound(found: Any) -> str:
    words = []
    for rule in found.metadata:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (limit := getattr(rule, name, None)) is not None:
                words.append(f"{sign} {limit}")
        for name, sign in (("min_length", "length ≥"), ("max_length", "length ≤")):
            if (limit := getattr(rule, name, None)) is not None:
                words.append(f"{sign} {limit}")
    return ", ".join(words) or "-"


def errors_page() -> str:
    """Return statuses and the reason words that the code gives them."""
    reasons = _reasons()
    lines = [
        _HEAD,
        "# Errors",
        "",
        "A failed call carries a status, a text that names the field and the bound, and a reason",
        "word for programs (`google.rpc.ErrorInfo.reason`; over HTTP in `details`).",
        "",
        "| error | gRPC | reason words |",
        "|---|---|---|",
    ]
    for kind, code in sorted(CODES.items(), key=lambda row: row[1].value[0]):
        if kind is errors.IgniteError:
            continue
        own = {kind.default_reason} | reasons.get(kind.__name__, set())
        for other, words in reasons.items():
            subclass = getattr(errors, other, None)
            if isinstance(subclass, type) and subclass is not kind and issubclass(subclass, kind):
                own |= words | {subclass.default_reason}
        listed = " ".join(f"`{word}`" for word in sorted(own))
        lines.append(f"| {kind.__name__} | {code.name} | {listed} |")
    lines.append("")
    return "\n".join(lines)


def _reasons() -> dict[str, set[str]]:
    """Find `SomeError(..., reason="Word")` in the source."""
    found: dict[str, set[str]] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        if "/v1/" in str(path):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            for keyword in node.keywords:
                if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant):
                    found.setdefault(node.func.id, set()).add(str(keyword.value.value))
    return found


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, text in (("settings.md", settings_page()), ("errors.md", errors_page())):
        path = FOLDER / name
        if check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if stale:
        print(f"docs/reference is stale: {', '.join(stale)}; run `make reference`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
