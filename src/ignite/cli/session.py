"""One run's way to the server: address, organisation, token and deadline, resolved once.

Order (spec 15): flags, then variables (both in `Flags`), then the configuration file, then the
server on this machine.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from typing import Protocol, TypeVar

import click
import grpc

from ignite.cli import config as files
from ignite.cli import endpoints, tokens
from ignite.cli.endpoints import Endpoint
from ignite.cli.failures import DEADLINE_EXCEEDED, Failure, WrongUse, rpc_failure
from ignite.cli.flags import Flags, flags_of
from ignite.cli.local import LocalServer, find_local
from ignite.v1.ignite_compute_pb2_grpc import ComputeServiceStub
from ignite.v1.ignite_secret_pb2_grpc import SecretServiceStub

MAX_MESSAGE = 256 * 1024 * 1024
OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
)

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)
Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class Unary(Protocol[Request, Response]):
    """A stub's method that answers once."""

    def __call__(
        self,
        request: Request,
        timeout: float | None = None,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> Response:
        """Call it."""


class Streaming(Protocol[Request, Response]):
    """A stub's method that answers many times."""

    def __call__(
        self,
        request: Request,
        timeout: float | None = None,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> Iterator[Response]:
        """Call it."""


class Session:
    """Calls the server with the caller's token, within the command's bound."""

    def __init__(self, flags: Flags) -> None:
        self.flags = flags
        self._open = ExitStack()
        self._ends = (
            None if flags.timeout is None else time.monotonic() + flags.timeout.total_seconds()
        )

    def close(self) -> None:
        """Close the connections."""
        self._open.close()

    @cached_property
    def config(self) -> files.Config:
        """The configuration file."""
        return files.load(self.flags)

    @cached_property
    def local(self) -> LocalServer | None:
        """The server on this machine, if one left its connection file."""
        return find_local(self.flags)

    @cached_property
    def endpoint(self) -> Endpoint:
        """The gRPC address."""
        text = self.flags.api_endpoint or self.config.get("api_endpoint")
        if text is None and self.local is not None:
            # The file names no scheme: both listeners have a certificate or none has.
            scheme = "https://" if self.local.http.startswith("https://") else ""
            text = self.local.grpc and f"{scheme}{self.local.grpc}"
        if not text:
            raise WrongUse("no server: start one with `make run`, or set IGNITE_API_ENDPOINT")
        return endpoints.parse(text, plaintext=self.flags.debug)

    @cached_property
    def http_endpoint(self) -> str | None:
        """The HTTP address, where tokens are exchanged."""
        known = self.config.get("http_endpoint")
        return known or (self.local.http if self.local is not None else None)

    @cached_property
    def bearer(self) -> tokens.Bearer:
        """The caller's token."""
        if self.flags.token:
            return tokens.Bearer(self.flags.token, None)
        kept, account = self.config.get("token"), self._kept_account()
        if kept or account:
            return tokens.Bearer(kept or "", account)
        if self.local is not None:
            return tokens.Bearer(self.local.token, self._local_account(self.local))
        return tokens.Bearer("", None)

    @cached_property
    def organization(self) -> str:
        """The organisation's name, where a command names none."""
        assert self.endpoint  # without a server nothing below matters
        named = self.flags.org_name or self.flags.org
        named = named or self.config.get("org_name") or self.config.get("org_id")
        listed = tokens.organizations(self.bearer.token())
        if named:
            return next((name for name, known in listed.items() if known == named), named)
        if listed:
            return next(iter(listed))
        if self.local is not None and self.local.org:
            return self.local.org
        raise WrongUse("no organisation: write org:app, or give --org")

    @cached_property
    def compute(self) -> ComputeServiceStub:
        """ComputeService."""
        return ComputeServiceStub(self._channel)

    @cached_property
    def secrets(self) -> SecretServiceStub:
        """SecretService."""
        return SecretServiceStub(self._channel)

    def call(self, method: Unary[Asked, Answered], request: Asked) -> Answered:
        """Call `method` with the caller's token; a refusal becomes a `Failure`."""
        try:
            return method(request, timeout=self.remaining(), metadata=self.metadata())
        except grpc.RpcError as error:
            raise rpc_failure(error, self.endpoint.target) from error

    def stream(self, method: Streaming[Asked, Answered], request: Asked) -> Iterator[Answered]:
        """Like `call`, frame by frame."""
        try:
            yield from method(request, timeout=self.remaining(), metadata=self.metadata())
        except grpc.RpcError as error:
            raise rpc_failure(error, self.endpoint.target) from error

    def remaining(self) -> float | None:
        """Return the seconds left for this command; None is without end."""
        if self._ends is None:
            return None
        left = self._ends - time.monotonic()
        if left <= 0:
            raise Failure(
                "the command took longer than --timeout allows",
                reason="DeadlineExceeded",
                exit_code=DEADLINE_EXCEEDED,
            )
        return left

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what is sent along: the token, and nothing else."""
        return (("authorization", f"Bearer {self.bearer.token()}"),)

    @cached_property
    def _channel(self) -> grpc.Channel:
        return self._open.enter_context(open_channel(self.endpoint))

    def _kept_account(self) -> tokens.Credentials | None:
        client_id = self.config.get("service_account_id")
        secret = self.config.get("service_account_secret")
        if not client_id or not secret or not self.http_endpoint:
            return None
        return tokens.Credentials(
            client_id=client_id, client_secret=secret, http_endpoint=self.http_endpoint
        )

    def _local_account(self, server: LocalServer) -> tokens.Credentials | None:
        if not server.client_id or not server.client_secret or not server.http:
            return None
        return tokens.Credentials(
            client_id=server.client_id,
            client_secret=server.client_secret,
            http_endpoint=server.http,
        )


def open_channel(endpoint: Endpoint) -> grpc.Channel:
    """Open a channel; a proxy of the environment never stands before this machine."""
    host = endpoint.target.rpartition(":")[0].strip("[]")
    beside = (("grpc.enable_http_proxy", 0),) if endpoints.is_loopback(host) else ()
    options = (*OPTIONS, *beside)
    if not endpoint.secure:
        return grpc.insecure_channel(endpoint.target, options=options)
    return grpc.secure_channel(endpoint.target, grpc.ssl_channel_credentials(), options=options)


def session_of(ctx: click.Context) -> Session:
    """Return a session for a command, closed when it ends."""
    session = Session(flags_of(ctx))
    ctx.call_on_close(session.close)
    return session


class Page(Protocol):
    """An answer that may have a next one."""

    @property
    def next_cursor(self) -> str:
        """Where the next page begins; empty at the end."""


PageT = TypeVar("PageT", bound=Page)


def pages(ask: Callable[[str], PageT], cursor: str = "", *, only_one: bool = False) -> list[PageT]:
    """Ask page after page, from `cursor` to the end, or once."""
    found = [ask(cursor)]
    while found[-1].next_cursor and not only_one:
        found.append(ask(found[-1].next_cursor))
    return found


def app_of(session: Session, text: str) -> tuple[str, str]:
    """Return organisation and name of `org:app` or `app`."""
    organization, colon, name = text.rpartition(":")
    if colon and not organization:
        raise WrongUse(f"{text!r} is not app or org:app")
    return organization or session.organization, name
