"""Authentication and authorisation of calls. Deny by default.

Who calls is read from the bearer token alone; metadata such as `x-organization-name` is never
looked at. The organisation that a message names has to be the token's own.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ignite.domain.errors import PermissionDenied, Unauthenticated
from ignite.domain.identity import PUBLIC_ORGANIZATION, Principal
from ignite.ports.identity import TokenVerifier
from ignite.rpc.calls import CallsUnderWay
from ignite.rpc.gates import OPEN, Caller, Gate, OpenGate
from ignite.rpc.handlers import Context
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
        raise Unauthenticated("a bearer token is needed", reason="MissingToken")
    return token.strip()


class BearerAuth:
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

    def gate(self, method: str) -> Gate:
        """See rpc.gates.Auth."""
        policy = self._policies.get(method, _UNKNOWN)
        if policy.is_public or method.split("/")[1] in OPEN_SERVICES:
            return OPEN
        return _BearerGate(
            verifier=self._verifier,
            policy=policy,
            is_open_to_public=method in self._open_to_public,
            calls=self._calls,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _BearerGate:
    """Before one method."""

    verifier: TokenVerifier
    policy: MethodPolicy
    is_open_to_public: bool
    calls: CallsUnderWay | None

    async def enter(self, context: Context) -> Principal:
        principal = await self.verifier.verify(bearer_of(metadata_value(context, "authorization")))
        scope = self.policy.scope
        if scope is None:
            raise PermissionDenied("nobody may call this method", reason="NoScopeDefined")
        if scope not in principal.scopes:
            raise PermissionDenied(
                f"the scope {scope} is needed",
                reason="ScopeMissing",
                details={"scope": scope.value},
            )
        if self.calls is not None:
            self.calls.begin(principal)
        _principal.set(principal)
        return principal

    def check(self, caller: Caller, message: Any) -> None:
        if not self.policy.names_organization:
            return
        named = getattr(message, ORGANIZATION_FIELD)
        if not named or (caller is not None and named == caller.organization.name):
            return
        if named == PUBLIC_ORGANIZATION and self.is_open_to_public:
            return
        raise PermissionDenied("the token is of another organization", reason="OtherOrganization")

    def leave(self, caller: Caller) -> None:
        if self.calls is not None and caller is not None:
            self.calls.end(caller)


class CertificateAuth(OpenGate):
    """Lets a call through when TLS has verified a certificate of the client.

    The listener demands one already; this refuses should it ever be bound without.
    """

    def gate(self, method: str) -> Gate:  # noqa: ARG002 - the same before all
        """See rpc.gates.Auth."""
        return self

    async def enter(self, context: Context) -> Caller:
        """Return None: an operator has no name; raises Unauthenticated."""
        if not _has_certificate(context):
            raise Unauthenticated("a client certificate is needed")
        return None


def _has_certificate(context: Context) -> bool:
    facts = context.auth_context()
    transport = list(facts.get("transport_security_type", ()))
    return transport in ([b"ssl"], [b"tls"]) and bool(list(facts.get("x509_pem_cert", ())))
