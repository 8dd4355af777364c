"""`ignite login`, `token` and `config`: who the caller is, and what is kept about it."""

import sys

import click

from ignite.cli import config as files
from ignite.cli import tokens
from ignite.cli.failures import WrongUse
from ignite.cli.flags import Command, Group, flags_of
from ignite.cli.output import show_fields, show_tree
from ignite.cli.session import Session, session_of


@click.command(cls=Command)
@click.argument("service_account_id", required=False)
@click.argument("service_account_secret", required=False)
@click.option("--http-endpoint", help="Where tokens are exchanged; default: the local server's.")
@click.pass_context
def login(
    ctx: click.Context,
    service_account_id: str | None,
    service_account_secret: str | None,
    http_endpoint: str | None,
) -> None:
    """Keep a service account's credentials, or a token given by --token, for later commands.

    The secret is asked for when it is left out or "-".
    """
    session = session_of(ctx)
    if service_account_id is None:
        if not session.flags.token:
            raise WrongUse("give a service account's id and secret, or --token")
        account = {"service_account_id": "", "service_account_secret": ""}
        _keep(session, session.flags.token, account)
        return
    where = http_endpoint or session.http_endpoint
    if not where:
        raise WrongUse("no HTTP address to exchange tokens at: give --http-endpoint")
    secret = service_account_secret
    if secret in (None, "-"):
        stdin = sys.stdin
        secret = click.prompt("Secret", hide_input=True) if stdin.isatty() else stdin.read()
    credentials = tokens.Credentials(
        client_id=service_account_id, client_secret=str(secret).strip(), http_endpoint=where
    )
    account = {
        "service_account_id": credentials.client_id,
        "service_account_secret": credentials.client_secret,
        "http_endpoint": where,
    }
    _keep(session, tokens.exchange(credentials), account)


@click.command(cls=Command)
@click.pass_context
def token(ctx: click.Context) -> None:
    """Print a token that is good now: curl -H "Authorization: Bearer $(ignite token)"."""
    click.echo(session_of(ctx).bearer.token())


@click.group(cls=Group)
def config() -> None:
    """Read and write the configuration file."""


@config.command("set")
@click.argument("key")
@click.argument("value")
@click.pass_context
def set_key(ctx: click.Context, key: str, value: str) -> None:
    """Set KEY (org_id, org_name, token, api_endpoint, http_endpoint); an empty VALUE removes it."""
    files.save(files.load(flags_of(ctx)), {files.check_key(key): value})


@config.command()
@click.pass_context
def view(ctx: click.Context) -> None:
    """Show what is kept, credentials shortened."""
    flags = flags_of(ctx)
    kept = files.load(flags)
    if flags.output in ("json", "yaml"):
        show_tree(flags.output, {"path": str(kept.path), "ignite": kept.view()})
    else:
        show_fields({"file": str(kept.path), **kept.view()})


def _keep(session: Session, bearer: str, account: dict[str, str]) -> None:
    flags = session.flags
    organization = flags.org_name or flags.org or next(iter(tokens.organizations(bearer)), "")
    changes = {**account, "token": bearer}
    if organization:
        changes["org_id"] = organization
    if flags.api_endpoint:
        changes["api_endpoint"] = flags.api_endpoint
    files.save(session.config, changes)
    show_fields({"organisation": organization, "kept in": str(session.config.path)})
