"""The flags that every command takes, before or after its name (spec 15).

Click knows only flags of the command they follow, so each command carries a hidden copy of the
global ones that writes into the same `Flags`. Variables are read here, by the root's copy alone.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from ignite.cli.failures import Failure

OUTPUTS = ("table", "json", "yaml", "wide")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(slots=True, kw_only=True)
class Flags:
    """What was given by flag or variable; None where nothing was."""

    output: str = "table"
    api_endpoint: str | None = None
    token: str | None = None
    org: str | None = None
    org_name: str | None = None
    debug: bool = False
    timeout: timedelta | None = timedelta(minutes=5)
    config: Path | None = None
    config_dir: Path | None = None
    data_dir: Path | None = None
    serves: bool = False  # the command is a role of the server, not a client's


class Duration(click.ParamType[timedelta | None]):
    """`5m`, `1h30m`, `500ms` or plain seconds; 0 is without end."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta | None:
        """Return the duration, None for 0."""
        if value is None or isinstance(value, timedelta):
            return value
        text = str(value)
        if re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        elif text and not _PART.sub("", text):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        else:
            self.fail(f"{text!r} is not a duration such as 30s, 5m or 1h30m", param, ctx)
        return timedelta(seconds=seconds) if seconds else None


def global_options(*, root: bool) -> list[click.Option]:
    """Return the global flags; the root's read variables, the others' are hidden."""

    def option(*names: str, env: tuple[str, ...] = (), **more: Any) -> click.Option:
        more.setdefault("hidden", not root)
        return click.Option(
            names,
            envvar=list(env) if root and env else None,
            expose_value=False,
            callback=_store,
            **more,
        )

    return [
        option("-o", "--output", type=click.Choice(OUTPUTS), help="table (default), json, yaml …"),
        option(
            "--api-endpoint",
            env=("IGNITE_API_ENDPOINT", "IGNITE_GRPC"),
            metavar="HOST:PORT",
            help="The server's gRPC address.",
        ),
        option("--token", env=("DODIL_TOKEN", "IGNITE_TOKEN"), help="Bearer token."),
        option("--org", env=("IGNITE_ORG_ID",), help="Organisation; default: the token's."),
        option(
            "--org-name",
            env=("IGNITE_ORG_NAME",),
            help="Organisation by name, for development and tests.",
        ),
        option(
            "--debug",
            env=("IGNITE_DEBUG",),
            is_flag=True,
            default=None,
            help="Say more on failures, and speak plain text instead of TLS.",
        ),
        option("--timeout", type=Duration(), help="Bound on the whole command (default 5m)."),
        option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Configuration file.",
        ),
        option(
            "--config-dir",
            env=("DODIL_CONFIG_DIR", "IGNITE_CONFIG_DIR"),
            type=click.Path(path_type=Path),
            hidden=True,
        ),
        option(
            "--local-data-dir",
            "data_dir",
            env=("IGNITE_DATA_DIR",),
            type=click.Path(path_type=Path),
            hidden=True,
        ),
    ]


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    source = ctx.get_parameter_source(param.name or "")
    given = source in (
        click.core.ParameterSource.COMMANDLINE,
        click.core.ParameterSource.ENVIRONMENT,
    )
    if given and value != "":
        setattr(flags_of(ctx), param.name or "", value)
    return value


def flags_of(ctx: click.Context) -> Flags:
    """Return the one `Flags` of this run."""
    return ctx.ensure_object(Flags)


class Command(click.Command):
    """A command that also takes the global flags it does not define itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        add_global_options(self)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        add_global_options(self)


def add_global_options(command: click.Command) -> None:
    """Append the hidden copies, except where the command has a flag of that name."""
    taken = {name for param in command.params for name in param.opts}
    for option in global_options(root=False):
        if not taken & set(option.opts):
            command.params.append(option)


def key_values(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Click callback: turn repeated `K=V` into a dictionary."""
    pairs: dict[str, str] = {}
    for value in values:
        key, sign, text = value.partition("=")
        if not sign or not key:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE", ctx, param)
        pairs[key] = text
    return pairs


def text_or_file(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Click callback: `@path` reads the text from a file."""
    if value is None or not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read {value[1:]}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Return an operating system error in words, without the path it repeats."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
