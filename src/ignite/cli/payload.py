"""The request that a person gives on the command line, and what a single run answered."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from google.protobuf.message import Message

from ignite.cli.failures import Failure, WrongUse
from ignite.cli.flags import reason_of
from ignite.cli.output import as_dict, show_tree
from ignite.v1 import ignite_common_pb2 as common

METHODS = ("POST", "GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")


def payload_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of a request to a command."""
    options = [
        click.option("-p", "--payload", help="Body, as it is."),
        click.option(
            "--payload-file",
            type=click.Path(path_type=Path, allow_dash=True),
            help="Body from a file; - is stdin.",
        ),
        click.option("--path", default="", help="Default /."),
        click.option("--method", type=click.Choice(METHODS, case_sensitive=False)),
        click.option("--query", default="", help="Without the leading ?."),
        click.option("-H", "--header", multiple=True, metavar="NAME: VALUE", help="Repeatable."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def payload_of(values: dict[str, Any]) -> tuple[common.HttpContext, bytes]:
    """Return the request's head and body."""
    context = common.HttpContext(path=values["path"], query=values["query"])
    if values["method"]:
        context.method = common.HttpMethod.Value(f"HTTP_METHOD_{values['method'].upper()}")
    names: set[str] = set()
    for text in values["header"]:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise WrongUse(f"header {text!r} is not NAME: VALUE")
        name = name.strip()
        if name.lower() in names:  # a map keeps one of them
            context.header_list.add(name=name, value=value.strip())
        else:
            context.headers[name] = value.strip()
            names.add(name.lower())
    return context, _body(values["payload"], values["payload_file"])


def _body(payload: str | None, path: Path | None) -> bytes:
    if payload is not None and path is not None:
        raise WrongUse("--payload and --payload-file exclude one another")
    if payload is not None:
        return payload.encode("utf-8", "surrogateescape")
    if path is None:
        return b""
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read()
        return path.read_bytes()
    except OSError as error:
        raise WrongUse(f"cannot read {path}: {reason_of(error)}") from error


def show_test(output: str, answer: Message, execution: common.Execution, status_code: int) -> None:
    """Print a run's result, and fail when the run did."""
    if output in ("json", "yaml"):
        show_tree(output, as_dict(answer))
    else:
        write_body(execution.result)
        end_line(execution.result)
    if execution.status != common.EXECUTION_STATUS_COMPLETED:
        status = f"HTTP {status_code}: " if status_code else ""
        raise Failure(
            f"{status}{execution.error or 'the run failed'}",
            reason=execution.error_reason or execution.error_class or "Failed",
        )


def write_body(data: bytes) -> None:
    """Write bytes to stdout now."""
    out = sys.stdout.buffer
    out.write(data)
    out.flush()


def end_line(last: bytes) -> None:
    """End the line on a terminal, where the prompt would follow on it."""
    if last and not last.endswith(b"\n") and sys.stdout.isatty():
        click.echo()
