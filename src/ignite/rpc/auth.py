"""Authentication and authorisation of calls. Deny by default.

Who calls is read from the bearer token alone; metadata such as `x-organization-name` is never
looked at. The organisation that a message names has to be the token's own.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import grpc

from ignite.domain.errors import PermissionDenied, Unauthenticated
from ignite.domain.identity import PUBLIC_ORGANIZATION, Principal
from ignite.ports.identity import TokenVerifier
from ignite.rpc.calls import CallsUnderWay
from ignite.rpc.handlers import Context, Continuation, Handler, MessageCheck, accept, wrap
from ignite.rpc.policy import ORGANIZATION_FIELD, MethodPolicy
from ignite.rpc.request_id import metadata_value

OPEN_SERVICES = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
)

_principal: ContextVar[Principal | None] = ContextVar("ignite_principal", default=None)
_UNKNOWN = MethodPolicy(scope=None, is_public=False, names_organization=False)


def principal_of(context: object) -> Principal:  # noqa: ARG001 - names whose principal it is
    """Return the verified caller of the call that this task serves; raises Unauthenticated."""
    principal = _principal.get()
    if principal is None:
        raise Unauthenticated("a bearer token is needed")
    return principal


def bearer_of(authorization: str) -> str:
    """Return the token of an `Authorization` value; raises Unauthenticated."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("a bearer token is needed")
    return token.strip()


class BearerAuthInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call through when its token is good, has the scope and stays in its organisation.

    `open_to_public` names the methods that any caller with the scope may use on what belongs to the
    organisation `public`. `calls` bounds how many a caller may have under way; None: no bound.
    """

    def __init__(
        self,
        verifier: TokenVerifier,
        policies: Mapping[str, MethodPolicy],
        open_to_public: frozenset[str] = frozenset(),
        calls: CallsUnderWay | None = None,
    ) -> None:
        self._verifier = verifier
        self._policies = policies
        self._open_to_public = open_to_public
        self._calls = calls

    async def intercept_service(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wrap the handler."""
        handler = await continuation(details)
        if handler is None:
            return None
        method = details.method
        if method.split("/")[1] in OPEN_SERVICES:
            return handler
        policy = self._policies.get(method, _UNKNOWN)
        if policy.is_public:
            return handler

        @asynccontextmanager
        async def around(context: Context) -> AsyncIterator[MessageCheck]:
            principal = await self._admit(context, policy)
            token = _principal.set(principal)
            try:
                with self._calls.one_of(principal) if self._calls else nullcontext():
                    yield self._check(method, policy, principal)
            finally:
                _principal.reset(token)

        return wrap(handler, around)

    async def _admit(self, context: Context, policy: MethodPolicy) -> Principal:
        token = bearer_of(metadata_value(context, "authorization"))
        principal = await self._verifier.verify(token)
        if policy.scope is None:
            raise PermissionDenied("nobody may call this method", reason="NoScopeDefined")
        if policy.scope not in principal.scopes:
            raise PermissionDenied(
                f"the scope {policy.scope} is needed",
                reason="ScopeMissing",
                details={"scope": policy.scope.value},
            )
        return principal

    def _check(self, method: str, policy: MethodPolicy, principal: Principal) -> MessageCheck:
        if not policy.names_organization:
            return accept
        own = principal.organization.name

        def check(message: Any) -> None:
            named = getattr(message, ORGANIZATION_FIELD)
            if not named or named == own:
                return
            if named == PUBLIC_ORGANIZATION and method in self._open_to_public:
                return
            raise PermissionDenied(
                "the token is of another organization", reason="OtherOrganization"
            )

        return check


class CertificateAuthInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call through when TLS has verified a certificate of the client.

    The listener demands one already; this refuses should it ever be bound without.
    """

    async def intercept_service(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wrap the handler."""
        handler = await continuation(details)
        return handler and wrap(handler, self._around)

    @asynccontextmanager
    async def _around(self, context: Context) -> AsyncIterator[MessageCheck]:
        if not _has_certificate(context):
            raise Unauthenticated("a client certificate is needed")
        yield accept


def _has_certificate(context: Context) -> bool:
    facts = context.auth_context()
    transport = list(facts.get("transport_security_type", ()))
    return transport in ([b"ssl"], [b"tls"]) and bool(list(facts.get("x509_pem_cert", ())))
