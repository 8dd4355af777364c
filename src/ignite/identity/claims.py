"""From verified claims to a Principal: ours by scopes, another issuer's by roles.

Exactly one organisation, whatever the source: a token that lists two is refused everywhere, since
a rule at the edge that looks for one key would accept it for either.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ignite.domain.errors import InvalidArgument, Unauthenticated
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    Principal,
    Scope,
    check_organization_name,
    scopes_of,
)

Claims = Mapping[str, Any]
ReadPrincipal = Callable[[Claims], Principal]

MAX_SUBJECT_CHARS = 256
MAX_ID_CHARS = 128

_SCOPES = {scope.value: scope for scope in Scope}


def built_in_principal(claims: Claims) -> Principal:
    """Read a token of ours; raises Unauthenticated."""
    scope = claims.get("scope")
    words = scope.split(" ") if isinstance(scope, str) else ()
    return Principal(
        subject=_subject(claims),
        organization=_organization(claims),
        scopes=frozenset(_SCOPES[word] for word in words if word in _SCOPES),
    )


def principal_by_roles(roles_claim: str) -> ReadPrincipal:
    """Return a reader for tokens of another issuer, whose roles lie at a dotted path."""
    path = roles_claim.split(".")

    def read(claims: Claims) -> Principal:
        place: Any = claims
        for name in path:
            place = place.get(name) if isinstance(place, Mapping) else None
        return Principal(
            subject=_subject(claims),
            organization=_organization(claims, fallback=True),
            scopes=scopes_of(_words(place)),
        )

    return read


def _subject(claims: Claims) -> str:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARS:
        raise Unauthenticated("the token names no subject")
    return subject


def _organization(claims: Claims, *, fallback: bool = False) -> Organization:
    claim = claims.get("organization")
    if claim is None and fallback:
        return _checked(claims.get("org_name"), claims.get("org_id"))
    if not isinstance(claim, Mapping) or not claim:
        raise Unauthenticated("the token names no organization")
    if len(claim) != 1:
        raise Unauthenticated("the token names more than one organization")
    name, about = next(iter(claim.items()))
    return _checked(name, about.get("id") if isinstance(about, Mapping) else None)


def _checked(name: object, identifier: object) -> Organization:
    if not isinstance(name, str) or not isinstance(identifier, str):
        raise Unauthenticated("the token names no organization")
    if not 0 < len(identifier) <= MAX_ID_CHARS:
        raise Unauthenticated("the token names no organization")
    try:
        return Organization(id=OrganizationId(identifier), name=check_organization_name(name))
    except InvalidArgument:
        raise Unauthenticated("the token's organization is no valid name") from None


def _words(claim: object) -> frozenset[str]:
    """Return the words of a list; anything else grants nothing, as at Envoy, which asks a list."""
    if isinstance(claim, list):
        return frozenset(word for word in claim if isinstance(word, str))
    return frozenset()
