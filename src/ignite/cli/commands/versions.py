"""`ignite version`: what was published, and going back to it."""

from pathlib import Path
from typing import Any

import click

from ignite.cli.code import runtime_name
from ignite.cli.failures import USAGE, Failure
from ignite.cli.flags import Group, reason_of
from ignite.cli.output import Column, moment, show_list, show_record
from ignite.cli.payload import payload_of, payload_options, show_test, write_body
from ignite.cli.records import show_app, state_word, status_word, tier_word
from ignite.cli.session import app_of, pages, session_of
from ignite.v1 import ignite_compute_pb2 as pb

NUMBER = click.IntRange(min=0, max=2**32 - 1)


@click.group(cls=Group)
def version() -> None:
    """List, read, test and roll back to published versions."""


@version.command("list")
@click.argument("app")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="One page of so many.")
@click.option("--cursor", default="")
@click.pass_context
def list_versions(ctx: click.Context, app: str, limit: int, cursor: str) -> None:
    """List an app's versions, newest first."""
    session = session_of(ctx)
    organization, name = app_of(session, app)

    def ask(start: str) -> pb.ListAppVersionsResponse:
        request = pb.ListAppVersionsRequest(
            organization_name=organization, app_name=name, limit=limit, cursor=start
        )
        return session.call(session.compute.ListAppVersions, request)

    answers = pages(ask, cursor, only_one=limit > 0)
    found = [item for answer in answers for item in answer.versions]
    columns: list[Column[pb.AppVersionInfo]] = [
        Column("VERSION", lambda item: str(item.version)),
        Column("STATUS", lambda item: status_word(item.status)),
        Column("RUNTIME", lambda item: runtime_name(item.runtime) or item.image_ref),
        Column("TIER", lambda item: tier_word(item.resource_tier)),
        Column("CODE", lambda item: item.code_hash),
        Column("CREATED", lambda item: moment(item.created_at_ms)),
        Column("REASON", lambda item: item.error_reason),
        Column("ERROR", lambda item: " ".join(item.error.split())[:120], wide=True),
    ]
    show_list(session.flags.output, "versions", found, columns, next_cursor=answers[-1].next_cursor)


@version.command()
@click.argument("app")
@click.argument("number", type=NUMBER, metavar="VERSION")
@click.pass_context
def get(ctx: click.Context, app: str, number: int) -> None:
    """Show the app as it was when VERSION was published."""
    session = session_of(ctx)
    organization, name = app_of(session, app)
    request = pb.GetAppVersionRequest(organization_name=organization, app_name=name, version=number)
    show_app(session.flags.output, session.call(session.compute.GetAppVersion, request).app)


@version.command()
@click.argument("app")
@click.argument("number", type=NUMBER, metavar="VERSION")
@click.pass_context
def rollback(ctx: click.Context, app: str, number: int) -> None:
    """Serve an earlier version again."""
    session = session_of(ctx)
    organization, name = app_of(session, app)
    request = pb.RollbackAppRequest(organization_name=organization, app_name=name, version=number)
    answer = session.call(session.compute.RollbackApp, request)
    show_record(
        session.flags.output,
        answer,
        {
            "active version": str(answer.active_version or "-"),
            "target version": str(answer.target_version or "-"),
            "state": state_word(answer.deployment_state),
        },
    )


@version.command()
@click.argument("app")
@click.option("--version", "number", type=NUMBER, help="Default: the active one; 0: the draft.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File to write; - is stdout. Default: the server's name for it, here.",
)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.pass_context
def code(ctx: click.Context, app: str, number: int | None, out: Path | None, force: bool) -> None:
    """Fetch the source of a version as it was saved."""
    session = session_of(ctx)
    organization, name = app_of(session, app)
    request = pb.GetAppCodeRequest(organization_name=organization, app_name=name, version=number)
    answer = session.call(session.compute.GetAppCode, request)
    if out is not None and str(out) == "-":
        write_body(answer.code)
        return
    path = out or Path(Path(answer.file_name).name or f"{name}-{answer.version}.code")
    try:
        with path.open("wb" if force else "xb") as file:
            file.write(answer.code)
    except FileExistsError as error:
        raise Failure(
            f"{path} exists; --force overwrites it", reason="AlreadyExists", exit_code=USAGE
        ) from error
    except OSError as error:
        raise Failure(f"cannot write {path}: {reason_of(error)}") from error
    show_record(
        "table",
        answer,
        {
            "version": str(answer.version),
            "code hash": answer.code_hash,
            "written to": str(path),
            "bytes": str(len(answer.code)),
        },
    )


@version.command()
@click.argument("app")
@click.argument("number", type=NUMBER, metavar="VERSION")
@payload_options
@click.pass_context
def test(ctx: click.Context, /, app: str, number: int, **values: Any) -> None:
    """Run VERSION once without making it active, and print what it answers."""
    session = session_of(ctx)
    organization, name = app_of(session, app)
    context, body = payload_of(values)
    request = pb.TestAppVersionRequest(
        organization_name=organization, app_name=name, version=number, http=context, payload=body
    )
    answer = session.call(session.compute.TestAppVersion, request)
    show_test(session.flags.output, answer, answer.execution, answer.status_code)
