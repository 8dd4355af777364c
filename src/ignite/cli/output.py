"""Results on stdout: a table for people, JSON or YAML as the HTTP API would answer for programs."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import click
import yaml
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Column(Generic[Item]):
    """One column of a table; `wide` ones show only with `-o wide`."""

    title: str
    value: Callable[[Item], str]
    wide: bool = False


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message as the API's JSON: camelCase, 64-bit numbers as strings, no defaults."""
    return MessageToDict(message)


def show_list(
    output: str,
    field: str,
    items: Sequence[Item],
    columns: Sequence[Column[Item]],
    *,
    next_cursor: str = "",
) -> None:
    """Print many things. `field` is their name in JSON, present even when there are none."""
    if output in ("json", "yaml"):
        tree: dict[str, object] = {
            field: [as_dict(item) for item in items if isinstance(item, Message)]
        }
        if next_cursor:
            tree["nextCursor"] = next_cursor
        show_tree(output, tree)
        return
    shown = [column for column in columns if output == "wide" or not column.wide]
    _table([column.title for column in shown], [[c.value(item) for c in shown] for item in items])


def show_record(output: str, message: Message, fields: Mapping[str, str]) -> None:
    """Print one thing: `fields` that are not empty as lines, or the message."""
    if output in ("json", "yaml"):
        show_tree(output, as_dict(message))
        return
    show_fields(fields)


def show_fields(fields: Mapping[str, str]) -> None:
    """Print `name  value` lines, leaving out what is empty."""
    present = {name: value for name, value in fields.items() if value}
    width = max(map(len, present), default=0)
    for name, value in present.items():
        click.echo(f"{name:<{width}}  {value}")


def show_tree(output: str, tree: Mapping[str, object]) -> None:
    """Print plain data as JSON or YAML."""
    if output == "yaml":
        text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
        click.echo(text, nl=False)
    else:
        click.echo(json.dumps(tree, indent=2, ensure_ascii=False))


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [titles, *(row for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(titles))]
    for line in lines:
        cells = [f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def moment(ms: int) -> str:
    """Return Unix milliseconds as UTC, nothing for 0."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z" if ms else ""


def word(name: str, prefix: str) -> str:
    """Return an enum's wire name in short: `DEPLOYMENT_STATE_COLD` is `cold`."""
    short = name.removeprefix(f"{prefix}_").lower()
    return "" if short == "unspecified" else short
