"""Who may pass at the activator: the same rules that Envoy holds for warm apps."""

import asyncio

from ignite.domain.errors import PermissionDenied, Unauthenticated, Unavailable
from ignite.domain.identity import Principal, Scope
from ignite.domain.routes import Route
from ignite.gateway.app_routes import CORS_HEADERS, CORS_MAX_AGE, CORS_METHODS
from ignite.gateway.heads import Head
from ignite.ports.identity import TokenVerifier

ISSUER_SECS = 5.0
ISSUER_AGAIN_SECS = 0.2

Answer = list[tuple[str, str]]


class Admission:
    """Checks public requests. `check_ids` compares organisation ids too, which only our own issuer
    knows."""

    def __init__(self, verifier: TokenVerifier, *, check_ids: bool) -> None:
        self._verifier = verifier
        self._check_ids = check_ids

    async def admit(self, route: Route, request: Head) -> None:
        """Return if the caller may invoke `route`. Raises Unauthenticated or PermissionDenied."""
        if route.allow_unauthenticated:
            return
        scheme, _, token = request.get("authorization").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("A valid bearer token is needed.", reason="MissingToken")
        principal = await self._verified(token.strip())
        if Scope.INVOKE_APP not in principal.scopes:
            raise PermissionDenied("The token lacks the scope InvokeApp.", reason="MissingScope")
        if route.is_public:
            return
        same = principal.organization.name == route.app.organization
        if same and self._check_ids and route.organization_id:
            same = principal.organization.id == route.organization_id
        if not same:
            raise PermissionDenied("The app belongs to another organization.", reason="OtherOrg")

    async def _verified(self, token: str) -> Principal:
        """Verify; an issuer that is away is waited for, because a restart is over soon."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + ISSUER_SECS
        while True:
            try:
                return await self._verifier.verify(token)
            except Unavailable:
                if loop.time() >= ends:
                    raise
            await asyncio.sleep(ISSUER_AGAIN_SECS)


def is_preflight(request: Head) -> bool:
    """Tell whether a browser asks what it may send."""
    return (
        request.method == b"OPTIONS"
        and bool(request.get("origin"))
        and bool(request.get("access-control-request-method"))
    )


def cors_vary(route: Route) -> Answer:
    """Return what tells caches that the answers of an open app are not for every origin."""
    return [("vary", "Origin")] if route.allow_unauthenticated else []


def preflight_answer(request: Head) -> Answer:
    """Return the headers that allow any origin."""
    return [
        ("access-control-allow-origin", request.get("origin")),
        ("access-control-allow-methods", CORS_METHODS),
        ("access-control-allow-headers", CORS_HEADERS),
        ("access-control-max-age", CORS_MAX_AGE),
    ]


def cors_answer(route: Route, request: Head) -> Answer:
    """Return the headers that let a browser of any origin read the answer."""
    origin = request.get("origin")
    if not (route.allow_unauthenticated and origin):
        return []
    return [("access-control-allow-origin", origin), ("access-control-expose-headers", "*")]
