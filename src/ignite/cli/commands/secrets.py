"""`ignite secret`: named credentials of the organisation, for registries and git."""

import sys

import click

from ignite.cli.failures import WrongUse
from ignite.cli.flags import Group
from ignite.cli.output import Column, moment, show_list, show_record
from ignite.cli.session import pages, session_of
from ignite.v1 import ignite_secret_pb2 as pb


@click.group(cls=Group)
def secret() -> None:
    """Keep credentials for private registries and repositories."""


@secret.command()
@click.argument("name")
@click.option("--type", "kind", type=click.Choice(["registry", "git"]), required=True)
@click.option("--username", default="")
@click.option("--password", help="Of a registry; - asks or reads stdin.")
@click.option("--server-address", default="", help="Of a registry; default: Docker Hub.")
@click.option("--token", help="For git; - asks or reads stdin.")
@click.pass_context
def create(
    ctx: click.Context,
    name: str,
    kind: str,
    username: str,
    password: str | None,
    server_address: str,
    token: str | None,
) -> None:
    """Create a slot, or overwrite it: that is how credentials rotate."""
    value = pb.SecretValue()
    if kind == "git":
        if password is not None or server_address:
            raise WrongUse("--password and --server-address are for --type registry")
        if token is None:
            raise WrongUse("--token is needed with --type git")
        value.git_secret.username = username
        value.git_secret.token = _typed(token, "Token")
    else:
        if token is not None:
            raise WrongUse("--token is for --type git")
        if password is None:
            raise WrongUse("--password is needed with --type registry")
        value.registry_secret.username = username
        value.registry_secret.password = _typed(password, "Password")
        value.registry_secret.server_address = server_address
    session = session_of(ctx)
    request = pb.CreateSecretRequest(name=name, value=value)
    answer = session.call(session.secrets.CreateSecret, request)
    show_record(session.flags.output, answer, _fields(answer.metadata))


@secret.command("list")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="One page of so many.")
@click.option("--cursor", default="")
@click.pass_context
def list_secrets(ctx: click.Context, limit: int, cursor: str) -> None:
    """List the slots, without their values."""
    session = session_of(ctx)

    def ask(start: str) -> pb.ListSecretsResponse:
        request = pb.ListSecretsRequest(limit=limit, cursor=start)
        return session.call(session.secrets.ListSecrets, request)

    answers = pages(ask, cursor, only_one=limit > 0)
    found = [item for answer in answers for item in answer.secrets]
    columns: list[Column[pb.SecretMetadata]] = [
        Column("NAME", lambda item: item.name),
        Column("TYPE", lambda item: item.type),
        Column("UPDATED", lambda item: moment(item.updated_at_ms)),
        Column("CREATED", lambda item: moment(item.created_at_ms), wide=True),
    ]
    show_list(session.flags.output, "secrets", found, columns, next_cursor=answers[-1].next_cursor)


@secret.command()
@click.argument("name")
@click.pass_context
def get(ctx: click.Context, name: str) -> None:
    """Show a slot with its value."""
    session = session_of(ctx)
    answer = session.call(session.secrets.GetSecret, pb.GetSecretRequest(name=name)).secret
    git, registry = answer.value.git_secret, answer.value.registry_secret
    show_record(
        session.flags.output,
        answer,
        {
            **_fields(answer.metadata),
            "username": git.username or registry.username,
            "token": git.token,
            "password": registry.password,
            "server address": registry.server_address,
        },
    )


@secret.command()
@click.argument("name")
@click.pass_context
def delete(ctx: click.Context, name: str) -> None:
    """Delete a slot; one that is not there is no failure."""
    session = session_of(ctx)
    answer = session.call(session.secrets.DeleteSecret, pb.DeleteSecretRequest(name=name))
    show_record(session.flags.output, answer, {"deleted": name})


def _fields(metadata: pb.SecretMetadata) -> dict[str, str]:
    return {
        "name": metadata.name,
        "type": metadata.type,
        "created": moment(metadata.created_at_ms),
        "updated": moment(metadata.updated_at_ms),
    }


def _typed(value: str, what: str) -> str:
    if value != "-":
        return value
    stdin = sys.stdin
    typed: str = click.prompt(what, hide_input=True) if stdin.isatty() else stdin.read()
    return typed.rstrip("\r\n")
