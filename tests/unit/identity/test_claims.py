"""What verified claims grant."""

from collections.abc import Mapping
from typing import Any

import pytest

from ignite.domain.errors import Unauthenticated
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    OrganizationName,
    Scope,
)
from ignite.identity.claims import built_in_principal, principal_by_roles

GOOD: Mapping[str, Any] = {
    "sub": "sa_1",
    "organization": {"acme": {"id": "01ACME"}},
    "scope": "GetApp",
}


class TestRoles:
    READ = staticmethod(principal_by_roles("realm_access.roles"))

    def test_roles_at_a_dotted_path_become_scopes(self) -> None:
        claims = {**GOOD, "realm_access": {"roles": ["ignite.model-user", "offline_access"]}}
        assert self.READ(claims).scopes == {Scope.INVOKE_MODEL}

    @pytest.mark.parametrize(
        "access",
        [
            None,
            "ignite.admin",
            ["ignite.admin"],
            {"roles": {"ignite.admin": 1}},
            # Envoy looks for a word in a list: what it would refuse grants nothing here either.
            {"roles": "ignite.admin ignite.model-user"},
            {"roles": "ignite.admin"},
            {},
        ],
    )
    def test_roles_elsewhere_grant_nothing(self, access: object) -> None:
        assert self.READ({**GOOD, "realm_access": access}).scopes == frozenset()

    def test_our_scope_is_one_string(self) -> None:
        assert built_in_principal({**GOOD, "scope": ["GetApp"]}).scopes == frozenset()

    def test_scopes_of_another_issuer_grant_nothing(self) -> None:
        assert self.READ({**GOOD, "scope": "Admin"}).scopes == frozenset()

    def test_organization_may_come_from_the_fallback_claims(self) -> None:
        claims = {"sub": "u", "org_name": "acme", "org_id": "7"}
        assert self.READ(claims).organization == Organization(
            id=OrganizationId("7"), name=OrganizationName("acme")
        )

    def test_fallback_never_repairs_a_wrong_claim(self) -> None:
        claims = {"sub": "u", "organization": {"a": {"id": "1"}, "b": {"id": "2"}}}
        with pytest.raises(Unauthenticated):
            self.READ({**claims, "org_name": "a", "org_id": "1"})
