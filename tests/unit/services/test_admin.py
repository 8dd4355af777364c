"""Organisations, service accounts and logins."""

from typing import Any

import jwt
import pytest
from tests.fakes.accounts import FakeAccountStore
from tests.support.clocks import ManualClock

from ignite.domain.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
)
from ignite.domain.identity import Scope, ServiceAccountId
from ignite.identity.hashing import ScryptHasher
from ignite.identity.issuer import Issuer
from ignite.identity.keys import SigningKey, new_key
from ignite.services.admin.accounts import NewSecret, ServiceAccounts
from ignite.services.admin.logins import MAX_ACCOUNTS, FailedLogins
from ignite.services.admin.organizations import Organizations
from ignite.services.admin.tokens import ClientCredentials, OperatorTokens
from ignite.settings import IdentitySettings, LimitSettings


class House:
    """Everything over one fake store."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.key = new_key(created_at=self.clock.now, signs_from=self.clock.now)
        self.store = FakeAccountStore(self.clock)
        self.hasher = ScryptHasher()
        limits = LimitSettings()
        issuer = Issuer(self, "http://issuer", IdentitySettings(), self.clock)
        self.organizations = Organizations(self.store, limits)
        self.accounts = ServiceAccounts(self.store, self.hasher, limits, self.clock)
        self.failures = FailedLogins(3, 100, self.clock.monotonic)
        self.logins = ClientCredentials(self.store, self.hasher, issuer, self.failures, self.clock)
        self.operator = OperatorTokens(self.accounts, self.store, issuer)

    def signing(self) -> SigningKey:
        return self.key

    async def account(self, *roles: str) -> NewSecret:
        await self.organizations.ensure("acme")
        return await self.accounts.create("acme", "ci", "", roles or ("ignite.app-viewer",))

    def claims(self, token: str) -> dict[str, Any]:
        found: dict[str, Any] = jwt.decode(
            token,
            self.key.public,
            algorithms=["ES256"],
            options={
                "verify_aud": False,
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
        return found


@pytest.fixture
def house() -> House:
    return House()


class TestOrganizations:
    async def test_created_one_is_found(self, house: House) -> None:
        made = await house.organizations.create("acme", "text")
        assert await house.organizations.get("acme") == made
        assert len(made.organization.id) == 26

    async def test_second_of_a_name_is_refused(self, house: House) -> None:
        await house.organizations.create("acme", "")
        with pytest.raises(AlreadyExists):
            await house.organizations.create("acme", "")

    async def test_ensure_makes_once(self, house: House) -> None:
        first = await house.organizations.ensure("acme")
        assert await house.organizations.ensure("acme") == first

    @pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a-", "a.b", "x" * 41, "é", "a\n"])
    async def test_name_that_is_no_label_is_refused(self, house: House, name: str) -> None:
        with pytest.raises(InvalidArgument):
            await house.organizations.create(name, "")

    async def test_description_is_bounded(self, house: House) -> None:
        with pytest.raises(InvalidArgument):
            await house.organizations.create("acme", "x" * 5000)

    async def test_one_with_apps_stays(self, house: House) -> None:
        await house.organizations.create("acme", "")
        house.store.with_apps.add("acme")
        with pytest.raises(FailedPrecondition):
            await house.organizations.delete("acme")

    async def test_delete_takes_the_accounts_along(self, house: House) -> None:
        made = await house.account()
        await house.organizations.delete("acme")
        with pytest.raises(NotFound):
            await house.accounts.get(made.account.id)


class TestServiceAccounts:
    async def test_secret_is_long_and_not_kept(self, house: House) -> None:
        made = await house.account()
        assert len(made.secret) >= 43
        assert made.secret not in str(house.store.__dict__)
        assert made.secret not in repr(made)

    async def test_unknown_role_is_refused(self, house: House) -> None:
        with pytest.raises(InvalidArgument) as caught:
            await house.account("root")
        assert caught.value.field == "roles"

    async def test_roles_are_kept_once_each(self, house: House) -> None:
        made = await house.account("ignite.admin", "ignite.admin")
        assert made.account.roles == ("ignite.admin",)

    async def test_unknown_organization_is_not_found(self, house: House) -> None:
        with pytest.raises(NotFound):
            await house.accounts.create("none", "ci", "", ())

    @pytest.mark.parametrize("account_id", ["", "x", "sa_", "sa_" + "U" * 26, "sa_\0"])
    async def test_text_that_is_no_id_is_not_found(self, house: House, account_id: str) -> None:
        with pytest.raises(NotFound):
            await house.accounts.get(account_id)

    async def test_list_is_of_one_organization_or_all(self, house: House) -> None:
        made = await house.account()
        await house.organizations.create("globex", "")
        other = await house.accounts.create("globex", "ci", "", ())
        assert await house.accounts.list("acme", after="", limit=9) == (made.account,)
        everyone = await house.accounts.list("", after="", limit=9)
        assert {one.id for one in everyone} == {made.account.id, other.account.id}


class TestLogins:
    async def test_right_secret_gets_the_scopes_of_the_roles(self, house: House) -> None:
        made = await house.account("ignite.model-user")
        token = await house.logins.grant(made.account.id, made.secret)
        claims = house.claims(token.token)
        assert claims["sub"] == made.account.id
        assert claims["organization"] == {"acme": {"id": made.account.organization.id}}
        assert claims["scope"] == Scope.INVOKE_MODEL.value

    async def test_wrong_and_unknown_sound_the_same(self, house: House) -> None:
        made = await house.account()
        texts = set()
        for client_id in (made.account.id, "sa_" + "0" * 26, "x", "", "sa_\0"):
            with pytest.raises(Unauthenticated) as caught:
                await house.logins.grant(client_id, "wrong")
            texts.add(caught.value.message)
        assert len(texts) == 1

    async def test_old_secret_stops_at_once(self, house: House) -> None:
        made = await house.account()
        await house.logins.grant(made.account.id, made.secret)
        fresh = await house.accounts.rotate_secret(made.account.id)
        with pytest.raises(Unauthenticated):
            await house.logins.grant(made.account.id, made.secret)
        await house.logins.grant(made.account.id, fresh.secret)

    async def test_deleted_account_cannot_log_in(self, house: House) -> None:
        made = await house.account()
        await house.logins.grant(made.account.id, made.secret)
        await house.accounts.delete(made.account.id)
        with pytest.raises(Unauthenticated):
            await house.logins.grant(made.account.id, made.secret)

    async def test_changed_roles_change_the_next_token(self, house: House) -> None:
        made = await house.account()
        await house.accounts.set_roles(made.account.id, ())
        token = await house.logins.grant(made.account.id, made.secret)
        assert house.claims(token.token)["scope"] == ""

    async def test_last_use_is_recorded_once_a_minute(self, house: House) -> None:
        made = await house.account()
        for _ in range(3):
            await house.logins.grant(made.account.id, made.secret)
        assert house.store.touches == 1
        house.clock.forward(60)
        await house.logins.grant(made.account.id, made.secret)
        assert house.store.touches == 2
        assert (await house.accounts.get(made.account.id)).last_used_at == house.clock.now

    async def test_guessing_is_slowed_and_then_let_in_again(self, house: House) -> None:
        made = await house.account()
        for _ in range(3):
            with pytest.raises(Unauthenticated):
                await house.logins.grant(made.account.id, "wrong")
        with pytest.raises(ResourceExhausted) as caught:
            await house.logins.grant(made.account.id, "wrong")
        assert caught.value.details["retry_after_secs"] == "20"
        house.clock.forward(20)
        await house.logins.grant(made.account.id, made.secret)

    async def test_client_known_to_this_process_is_not_locked_out_by_guessers(
        self, house: House
    ) -> None:
        made = await house.account()
        await house.logins.grant(made.account.id, made.secret)
        for _ in range(5):
            with pytest.raises((Unauthenticated, ResourceExhausted)):
                await house.logins.grant(made.account.id, "wrong")
        await house.logins.grant(made.account.id, made.secret)

    async def test_right_secrets_cost_no_turns(self, house: House) -> None:
        made = await house.account()
        for _ in range(20):
            await house.logins.grant(made.account.id, made.secret)


class TestFailedLogins:
    def test_unknown_ids_do_not_block_real_accounts(self) -> None:
        clock = ManualClock()
        failures = FailedLogins(3, 5, clock.monotonic)
        for _ in range(5):
            failures.attempt(None)
        with pytest.raises(ResourceExhausted):
            failures.attempt(None)
        failures.attempt("sa_1")

    def test_total_bounds_all_accounts(self) -> None:
        clock = ManualClock()
        failures = FailedLogins(3, 5, clock.monotonic)
        for number in range(5):
            failures.attempt(f"sa_{number}")
        with pytest.raises(ResourceExhausted):
            failures.attempt("sa_new")
        clock.forward(12)
        failures.attempt("sa_new")

    def test_attempts_at_once_cannot_slip_through(self) -> None:
        failures = FailedLogins(3, 100, ManualClock().monotonic)
        for _ in range(3):
            failures.attempt("sa_1")
        with pytest.raises(ResourceExhausted):
            failures.attempt("sa_1")
        failures.succeeded("sa_1")
        failures.attempt("sa_1")

    def test_memory_is_bounded(self) -> None:
        clock = ManualClock()
        failures = FailedLogins(1, 10_000, clock.monotonic)
        for number in range(MAX_ACCOUNTS + 10):
            clock.forward(1)
            failures.attempt(f"sa_{number}")
        assert len(failures._accounts) == MAX_ACCOUNTS


class TestOperatorTokens:
    async def test_for_an_account(self, house: House) -> None:
        made = await house.account("ignite.model-user")
        token = await house.operator.for_account(made.account.id, 60)
        assert token.expires_in_secs == 60
        assert house.claims(token.token)["sub"] == made.account.id

    async def test_for_development(self, house: House) -> None:
        await house.organizations.create("acme", "")
        token = await house.operator.for_development("acme", "ann", ["ignite.admin"], 0)
        claims = house.claims(token.token)
        assert (claims["sub"], token.expires_in_secs) == ("dev:ann", 900)
        assert set(claims["scope"].split()) == {scope.value for scope in Scope}

    @pytest.mark.parametrize(
        ("organization", "name", "roles", "error"),
        [
            ("none", "ann", [], NotFound),
            ("acme", "", [], InvalidArgument),
            ("acme", "x" * 129, [], InvalidArgument),
            ("acme", "a\nb", [], InvalidArgument),
            ("acme", "ann", ["root"], InvalidArgument),
            ("", "ann", [], InvalidArgument),
        ],
    )
    async def test_refusals(
        self, house: House, organization: str, name: str, roles: list[str], error: type[Exception]
    ) -> None:
        await house.organizations.create("acme", "")
        with pytest.raises(error):
            await house.operator.for_development(organization, name, roles, 0)

    async def test_deleted_account_gets_none(self, house: House) -> None:
        made = await house.account()
        await house.accounts.delete(made.account.id)
        with pytest.raises(NotFound):
            await house.operator.for_account(ServiceAccountId(made.account.id), 0)
