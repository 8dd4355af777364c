"""`ignite invoke`: call an app; its body goes to stdout as it comes."""

from typing import Any

import click

from ignite.cli.failures import Failure
from ignite.cli.flags import Command
from ignite.cli.payload import end_line, payload_of, payload_options, write_body
from ignite.cli.session import app_of, session_of
from ignite.v1 import ignite_compute_pb2 as pb


@click.command(cls=Command)
@click.argument("app")
@payload_options
@click.option("-i", "--include", is_flag=True, help="Print status and headers to stderr.")
@click.pass_context
def invoke(ctx: click.Context, /, app: str, include: bool, **values: Any) -> None:
    """Call APP and print its answer. Exit code 1 when the app answers no 2xx."""
    session = session_of(ctx)
    organization, name = app_of(session, app)
    context, body = payload_of(values)
    request = pb.InvokeRequest(
        organization_name=organization, app_name=name, http=context, body=body
    )
    head = pb.InvokeHead()
    last = b""
    for frame in session.stream(session.compute.Invoke, request):
        match frame.WhichOneof("frame"):
            case "head":
                head = frame.head
                if include:
                    _show_head(head)
            case "chunk":
                last = frame.chunk or last
                write_body(frame.chunk)
            case _:
                pass
    end_line(last)
    if not 200 <= head.status_code < 300:
        raise Failure(
            f"{organization}/{name} answered HTTP {head.status_code} ({head.execution_id})",
            reason="AppFailed" if head.status_code >= 500 else "AppRefused",
        )


def _show_head(head: pb.InvokeHead) -> None:
    click.echo(f"HTTP {head.status_code}", err=True)
    for header in head.header_list:
        click.echo(f"{header.name}: {header.value}", err=True)
    click.echo(f"execution: {head.execution_id}", err=True)
