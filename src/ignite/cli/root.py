"""The `ignite` command: finds commands by name, imports only the one that runs, ends with a code.

Importing late keeps two promises: a client-only installation works without the server's
libraries, and a role of the server does not load the client.
"""

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from ignite.cli.failures import INTERRUPTED, OTHER, USAGE, Failure, WrongUse
from ignite.cli.flags import Flags, flags_of, global_options

CLIENT_COMMANDS = {
    "app": "apps:app",
    "config": "login:config",
    "draft": "drafts:draft",
    "invoke": "invoke:invoke",
    "login": "login:login",
    "organization": "admin:organization",
    "secret": "secrets:secret",
    "service-account": "admin:service_account",
    "token": "login:token",
    "version": "versions:version",
}
ALIASES = {"function": "app", "fn": "app"}
ROLE_COMMANDS = (
    "serve",
    "api",
    "controllers",
    "gateway",
    "spawner",
    "migrate",
    "doctor",
)


class Root(click.Group):
    """Knows all names, imports on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names for the help text."""
        return [*sorted(CLIENT_COMMANDS), *ROLE_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command of the client or of the server."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name in CLIENT_COMMANDS:
            module, _, attribute = CLIENT_COMMANDS[name].partition(":")
            found = getattr(import_module(f"ignite.cli.commands.{module}"), attribute)
            assert isinstance(found, click.Command)
            return found
        if name in ROLE_COMMANDS:
            return _role(ctx, name)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Remember that the command is a role: its failures keep their trace."""
        flags_of(ctx).serves = bool(args) and args[0] in ROLE_COMMANDS
        return super().resolve_command(ctx, args)


def _role(ctx: click.Context, name: str) -> click.Command | None:
    try:
        roles = import_module("ignite.cli.roles").roles
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.startswith("ignite.") and missing != "ignite.cli.roles":
            raise
        return _without_server(name, missing)
    assert isinstance(roles, click.Group)
    return roles.get_command(ctx, name)


def _without_server(name: str, missing: str) -> click.Command:
    def refuse() -> None:
        raise Failure(
            f"`ignite {name}` needs the server ({missing} is not installed): "
            "pip install 'ignite[server]'"
        )

    return click.Command(
        name, callback=refuse, short_help="Needs the server: pip install 'ignite[server]'."
    )


root = Root(
    name="ignite",
    params=list(global_options(root=True)),
    help="Ignite: serverless you run yourself.\n\nSource code in, scaled-to-zero HTTP apps out.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
click.version_option(package_name="ignite", message="%(version)s")(root)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; print failures as one line."""
    flags = Flags()
    try:
        code = root.main(list(arguments), prog_name="ignite", standalone_mode=False, obj=flags)
        sys.stdout.flush()
    except Failure as failure:
        return _fail(failure, flags)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "ignite"
        return _fail(_usage(error, where), flags)
    except click.ClickException as error:
        return _fail(Failure(error.format_message(), exit_code=error.exit_code), flags)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return OTHER
    except Exception as error:
        if flags.serves:
            raise
        if flags.debug:
            traceback.print_exc()
        kind = type(error).__name__
        return _fail(
            Failure(f"unexpected {kind}; --debug shows where", reason="Internal", exit_code=10),
            flags,
        )
    return code if isinstance(code, int) else 0


def _usage(error: click.UsageError, where: str) -> Failure:
    message = error.format_message().rstrip(".")
    return WrongUse(f"{message}; see `{where} --help`")


def _fail(failure: Failure, flags: Flags) -> int:
    click.echo(failure.line(), err=True)
    if flags.debug and failure.request_id:
        click.echo(f"request id: {failure.request_id}", err=True)
    return failure.exit_code


def _forget_stdout() -> None:
    """Close stdout whose reader is gone, so that the interpreter does not try again at its end."""
    try:
        sys.stdout.close()
    except BrokenPipeError:
        return
