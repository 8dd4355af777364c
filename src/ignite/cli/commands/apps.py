"""`ignite app`: an app's record, its configuration, and `deploy`, which does all of it."""

import sys
from typing import Any

import click

from ignite.cli.appconfig import app_options, create_request, split, update_request
from ignite.cli.code import CodeFlags, code_options, code_source, runtime
from ignite.cli.deploy import Deployed, Deployment
from ignite.cli.failures import INTERRUPTED, WrongUse
from ignite.cli.flags import Group
from ignite.cli.output import Column, moment, show_fields, show_list, show_record, show_tree, word
from ignite.cli.progress import Progress
from ignite.cli.records import bracket, limits_text, show_app, state_word, tier_word
from ignite.cli.session import Session, app_of, pages, session_of
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb


@click.group(cls=Group)
def app() -> None:
    """Create, deploy and look after apps."""


@app.command()
@click.argument("name")
@click.option("--runtime", "runtime_word", type=click.Choice(["python", "rust", "go", "deno"]))
@click.option("--rust-target", type=click.Choice(["native", "wasm"]))
@click.option("--toolchain")
@app_options
@click.pass_context
def create(
    ctx: click.Context,
    /,
    name: str,
    runtime_word: str | None,
    rust_target: str | None,
    toolchain: str | None,
    **values: Any,
) -> None:
    """Create an app's record; code comes with `draft save` or `app deploy`."""
    if runtime_word == "rust" and rust_target is None:
        raise WrongUse("--rust-target is needed with --runtime rust")
    if runtime_word:
        click.echo("Warning: --runtime is only noted; the code of the draft decides.", err=True)
    session = session_of(ctx)
    organization, app_name = app_of(session, name)
    request = create_request(organization, app_name, split(values))
    flags = _runtime_flags(rust_target, toolchain)
    request.runtime.CopyFrom(runtime(runtime_word or "python", flags))
    answer = session.call(session.compute.CreateApp, request)
    show_record(
        session.flags.output,
        answer,
        {
            "id": answer.app_id,
            "state": state_word(answer.deployment_state),
            "tier": tier_word(answer.applied_tier),
            "limits": limits_text(answer.applied_limits),
        },
    )


@app.command()
@click.argument("name")
@code_options
@app_options
@click.option("--follow", is_flag=True, help="Accepted; deploying always follows.")
@click.pass_context
def deploy(ctx: click.Context, /, name: str, follow: bool, **values: Any) -> None:
    """Make NAME run the code: create or update, save, compile, publish, wait until it serves."""
    del follow
    session = session_of(ctx)
    config = split(values)
    code = code_source(CodeFlags(**values))
    organization, app_name = app_of(session, name)
    progress = Progress()
    deployment = Deployment(session, progress, organization, app_name)
    try:
        deployed = deployment.run(config, code)
    except KeyboardInterrupt:
        if deployment.published_version:
            progress.say(
                f"Publishing of version {deployment.published_version} goes on; "
                f"`ignite app state {name}` shows it."
            )
        ctx.exit(INTERRUPTED)
    _show_deployed(session, deployed)


@app.command()
@click.argument("name")
@click.pass_context
def get(ctx: click.Context, name: str) -> None:
    """Show an app's full record."""
    session = session_of(ctx)
    show_app(session.flags.output, _get(session, name))


@app.command("list")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="One page of so many.")
@click.option("--cursor", default="")
@click.pass_context
def list_apps(ctx: click.Context, limit: int, cursor: str) -> None:
    """List the organisation's apps."""
    session = session_of(ctx)
    organization = session.organization

    def ask(start: str) -> pb.ListAppsResponse:
        request = pb.ListAppsRequest(organization_name=organization, limit=limit, cursor=start)
        return session.call(session.compute.ListApps, request)

    answers = pages(ask, cursor, only_one=limit > 0)
    found = [item for answer in answers for item in answer.apps]
    columns: list[Column[pb.AppSummary]] = [
        Column("NAME", lambda item: item.name),
        Column("STATE", lambda item: state_word(item.deployment_state)),
        Column("VERSION", lambda item: str(item.active_version or "-")),
        Column("TIER", lambda item: tier_word(item.resource_tier)),
        Column("UPDATED", lambda item: moment(item.updated_at_ms)),
        Column("URL", lambda item: next(iter(item.public_urls), "")),
        Column("CREATED", lambda item: moment(item.created_at_ms), wide=True),
        Column("DESCRIPTION", lambda item: item.description, wide=True),
    ]
    show_list(session.flags.output, "apps", found, columns, next_cursor=answers[-1].next_cursor)


@app.command()
@click.argument("name")
@app_options
@click.pass_context
def update(ctx: click.Context, /, name: str, **values: Any) -> None:
    """Change an app's configuration; the running deployment follows."""
    session = session_of(ctx)
    organization, app_name = app_of(session, name)
    current = _get(session, name)
    request = update_request(organization, app_name, split(values), current)
    if request is not None:
        current = session.call(session.compute.UpdateAppConfig, request).app
    show_app(session.flags.output, current)


@app.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def delete(ctx: click.Context, name: str, yes: bool) -> None:
    """Remove an app with its versions, code and address."""
    session = session_of(ctx)
    organization, app_name = app_of(session, name)
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete {organization}/{app_name} and all its versions?", abort=True)
    request = pb.DeleteAppRequest(organization_name=organization, app_name=app_name)
    answer = session.call(session.compute.DeleteApp, request)
    show_record(session.flags.output, answer, {"deleted": f"{organization}/{app_name}"})


@app.command()
@click.argument("name")
@click.pass_context
def state(ctx: click.Context, name: str) -> None:
    """Show what serves, what is being rolled out, and the replicas."""
    session = session_of(ctx)
    organization, app_name = app_of(session, name)
    request = pb.GetAppStateRequest(organization_name=organization, app_name=app_name)
    answer = session.call(session.compute.GetAppState, request)
    show_record(
        session.flags.output,
        answer,
        {
            "state": state_word(answer.deployment_state),
            "active version": str(answer.active_version or "-"),
            "target version": str(answer.target_version or "-"),
            "replicas": f"{answer.ready_replicas} ready of {answer.desired_replicas}",
            "last error": f"{answer.last_error} {bracket(answer.last_error_reason)}".strip(),
        },
    )
    if session.flags.output in ("table", "wide") and answer.replicas:
        click.echo()
        columns: list[Column[common.AppReplica]] = [
            Column("REPLICA", lambda item: item.replica_id),
            Column("VERSION", lambda item: str(item.version)),
            Column(
                "STATE", lambda item: word(common.ReplicaState.Name(item.state), "REPLICA_STATE")
            ),
            Column("RESTARTS", lambda item: str(item.restarts)),
            Column("STARTED", lambda item: moment(item.started_at_ms)),
        ]
        show_list(session.flags.output, "replicas", answer.replicas, columns)


def _get(session: Session, name: str) -> common.AppMeta:
    organization, app_name = app_of(session, name)
    request = pb.GetAppRequest(organization_name=organization, app_name=app_name)
    return session.call(session.compute.GetApp, request).app


def _show_deployed(session: Session, deployed: Deployed) -> None:
    urls = list(deployed.app.public_urls)
    if session.flags.output in ("json", "yaml"):
        tree: dict[str, object] = {
            "appId": deployed.app.id,
            "version": deployed.version,
            "published": deployed.published,
            "publicUrls": urls,
        }
        show_tree(session.flags.output, tree)
    elif urls:
        click.echo("\n".join(urls))
    else:
        show_fields({"app": deployed.app.id, "version": str(deployed.version or "-")})


def _runtime_flags(rust_target: str | None, toolchain: str | None) -> CodeFlags:
    return CodeFlags(
        code=None,
        runtime=None,
        rust_target=rust_target,
        toolchain=toolchain,
        python_version=None,
        deno_version=None,
        image_ref=None,
        registry_secret_ref=None,
        git_url=None,
        git_ref=None,
        git_sub_path=None,
        git_secret_ref=None,
        dockerfile_path=None,
        build_arg={},
    )
