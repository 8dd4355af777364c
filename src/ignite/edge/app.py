"""The ASGI app: routes, and the one place where an exception becomes an HTTP answer."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ignite.domain.errors import IgniteError, NotFound, Unimplemented
from ignite.edge.discovery import DiscoveryEndpoint, KeysEndpoint
from ignite.edge.http import Disconnected, Receive, Request, Scope, Send, error_answer
from ignite.edge.invoke import InvokeEndpoint, Invoker
from ignite.edge.token import TokenEndpoint, TokenGrant
from ignite.edge.unbuilt import UNBUILT, UnbuiltEndpoint
from ignite.ports.identity import SigningKeys, TokenVerifier
from ignite.rpc.calls import CallsUnderWay
from ignite.rpc.errors import to_ignite_error
from ignite.rpc.request_id import accept_request_id
from ignite.settings import IdentitySettings, LimitSettings

Endpoint = Callable[[Request], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path; `{name}` stands for one segment."""

    method: str
    pattern: re.Pattern[str]
    endpoint: Endpoint


def route(method: str, path: str, endpoint: Endpoint) -> Route:
    """Return the route of a path template."""
    text = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))
    return Route(method, re.compile(text), endpoint)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeParts:
    """What the edge serves from."""

    issuer: str
    identity: IdentitySettings
    limits: LimitSettings
    keys: SigningKeys
    grant: TokenGrant
    verifier: TokenVerifier
    invoker: Invoker
    calls: CallsUnderWay


def build_routes(parts: EdgeParts) -> Sequence[Route]:
    """Return all routes of the edge."""
    realm = f"/realms/{parts.identity.realm}"
    oidc = f"{realm}/protocol/openid-connect"
    keys = KeysEndpoint(parts.keys, parts.identity.key_publish_secs)
    invoke = InvokeEndpoint(parts.verifier, parts.invoker, parts.limits, parts.calls)
    return (
        route("POST", "/v1/ignite/app/{organization}/{app}/invoke", invoke),
        route("POST", f"{oidc}/token", TokenEndpoint(parts.grant)),
        route("GET", f"{oidc}/certs", keys),
        route("GET", f"{realm}/.well-known/openid-configuration", DiscoveryEndpoint(parts.issuer)),
        *(
            route(method, path, UnbuiltEndpoint(parts.verifier, name))
            for method, path, name in UNBUILT
        ),
    )


class EdgeApp:
    """Finds the route and answers errors."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        request = Request(scope, receive, send, {})
        try:
            await self._serve(request)
        except Disconnected:
            return
        except Exception as error:  # noqa: BLE001 - the edge of every request
            identifier = accept_request_id(request.header(b"x-request-id"))
            known = to_ignite_error(error, identifier, scope["path"][:100])
            await error_answer(known).send(send)

    async def _serve(self, request: Request) -> None:
        path, method = request.scope["path"], request.scope["method"]
        served: set[str] = set()
        for one in self._routes:
            found = one.pattern.fullmatch(path)
            if found is None:
                continue
            if one.method == method or (one.method, method) == ("GET", "HEAD"):
                await one.endpoint(
                    Request(request.scope, request.receive, request.send, found.groupdict())
                )
                return
            served |= {one.method, "HEAD"} if one.method == "GET" else {one.method}
        raise _no_route(method, served)


def _no_route(method: str, served: set[str]) -> IgniteError:
    if served:
        allow = {"allow": ", ".join(sorted(served))}
        text = f"{method[:16]} is not served here"
        return Unimplemented(text, reason="MethodNotAllowed", details=allow)
    return NotFound("there is nothing at this path")
