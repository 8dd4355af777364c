"""`ignite draft`: version 0, step by step; `app deploy` is the same in one."""

from typing import Any

import click
import grpc

from ignite.cli.code import CodeFlags, code_options, code_source, runtime_name
from ignite.cli.deploy import compile_draft
from ignite.cli.failures import Failure, RpcFailure, WrongUse
from ignite.cli.flags import Group, text_or_file
from ignite.cli.output import moment, show_record, show_tree
from ignite.cli.payload import payload_of, payload_options, show_test
from ignite.cli.progress import Progress
from ignite.cli.records import state_word, status_word
from ignite.cli.session import Session, app_of, session_of
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb


class DraftGroup(Group):
    """`status` is another name of `info`."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name or alias."""
        return super().get_command(ctx, "info" if cmd_name == "status" else cmd_name)


@click.group(cls=DraftGroup)
def draft() -> None:
    """Save, compile, test and publish an app's next version."""


@draft.command()
@click.argument("app")
@code_options
@click.option("-d", "--dependency", multiple=True, help="Ignored: requirements.txt names them.")
@click.option("--input-schema", callback=text_or_file, help="JSON Schema, or @file.")
@click.option("--output-schema", callback=text_or_file, help="JSON Schema, or @file.")
@click.pass_context
def save(
    ctx: click.Context,
    /,
    app: str,
    dependency: tuple[str, ...],
    input_schema: str | None,
    output_schema: str | None,
    **values: Any,
) -> None:
    """Replace the draft's code. Compiles nothing and publishes nothing."""
    if dependency:
        click.echo(
            "Warning: --dependency is ignored; the archive's requirements.txt decides.", err=True
        )
    session = session_of(ctx)
    code = code_source(CodeFlags(**values))
    if code is None:
        raise WrongUse("nothing to save: give --code, --image-ref or --git-url")
    organization, name = app_of(session, app)
    request = pb.SaveDraftRequest(
        organization_name=organization,
        app_name=name,
        code=code,
        input_schema=input_schema or "",
        output_schema=output_schema or "",
    )
    _show(session, session.call(session.compute.SaveDraft, request).draft)


@draft.command()
@click.argument("app")
@click.pass_context
def info(ctx: click.Context, app: str) -> None:
    """Show the saved draft and its last compile."""
    session = session_of(ctx)
    saved = _draft(session, app)
    if saved is None:
        show_tree("yaml" if session.flags.output == "yaml" else "json", {"status": "no draft"})
    else:
        _show(session, saved)


@draft.command("compile")
@click.argument("app")
@click.option("--follow", "follows", is_flag=True, help="Print the log and wait for the end.")
@click.pass_context
def compile_command(ctx: click.Context, app: str, follows: bool) -> None:
    """Compile the draft."""
    session = session_of(ctx)
    organization, name = app_of(session, app)
    if follows:
        with Progress().step("Compile") as step:
            compile_draft(session, organization, name, step)
        saved = _draft(session, app)
        if saved is not None:
            _show(session, saved)
        return
    request = pb.CompileDraftRequest(organization_name=organization, app_name=name)
    answer = session.call(session.compute.CompileDraft, request)
    show_record(
        session.flags.output,
        answer,
        {
            "deploy id": answer.deploy_id,
            "build id": answer.build_id,
            "status": status_word(answer.status),
        },
    )


@draft.command("compile-logs")
@click.argument("app")
@click.pass_context
def compile_logs(ctx: click.Context, app: str) -> None:
    """Print the log of the draft's last compile, following it while it runs."""
    session = session_of(ctx)
    saved = _draft(session, app)
    if saved is None or not saved.deploy_id:
        raise Failure("the draft has not been compiled", reason="NotFound", exit_code=5)
    request = pb.StreamCompileLogsRequest(deploy_id=saved.deploy_id)
    for frame in session.stream(session.compute.StreamCompileLogs, request):
        if frame.HasField("line"):
            click.echo(frame.line.message)
        if frame.status == common.VERSION_STATUS_FAILED:
            raise Failure(
                f"the compile failed: {frame.error or 'see the log above'}",
                reason=frame.error_reason or "CompileFailed",
            )


@draft.command()
@click.argument("app")
@payload_options
@click.pass_context
def test(ctx: click.Context, /, app: str, **values: Any) -> None:
    """Run the draft once without publishing it, and print what it answers."""
    session = session_of(ctx)
    organization, name = app_of(session, app)
    context, body = payload_of(values)
    request = pb.TestDraftRequest(
        organization_name=organization, app_name=name, http=context, payload=body
    )
    answer = session.call(session.compute.TestDraft, request)
    show_test(session.flags.output, answer, answer.execution, answer.status_code)


@draft.command()
@click.argument("app")
@click.pass_context
def publish(ctx: click.Context, app: str) -> None:
    """Make the draft the next version; traffic moves once it is ready."""
    session = session_of(ctx)
    organization, name = app_of(session, app)
    request = pb.PublishDraftRequest(organization_name=organization, app_name=name)
    answer = session.call(session.compute.PublishDraft, request)
    show_record(
        session.flags.output,
        answer,
        {
            "version": str(answer.version),
            "state": state_word(answer.deployment_state),
            "urls": " ".join(answer.public_urls),
        },
    )


def _draft(session: Session, app: str) -> pb.DraftInfo | None:
    organization, name = app_of(session, app)
    request = pb.GetDraftInfoRequest(organization_name=organization, app_name=name)
    try:
        answer = session.call(session.compute.GetDraftInfo, request)
    except RpcFailure as failure:
        if failure.code is grpc.StatusCode.NOT_FOUND and failure.reason == "NoDraft":
            return None
        raise
    return answer.draft if answer.HasField("draft") else None


def _show(session: Session, saved: pb.DraftInfo) -> None:
    show_record(
        session.flags.output,
        saved,
        {
            "status": status_word(saved.status),
            "runtime": runtime_name(saved.runtime),
            "image": saved.image_ref,
            "code hash": saved.code_hash,
            "saved": moment(saved.created_at_ms),
            "compiled": moment(saved.compiled_at_ms),
            "deploy id": saved.deploy_id,
            "error": f"{saved.error} ({saved.error_reason})" if saved.error else "",
        },
    )
