"""Tokens, good and forged. Every forgery is signed as well as a forger can."""

import base64
import hashlib
import hmac
import json
import string
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.support.clocks import ManualClock

from ignite.domain.errors import Unauthenticated
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    OrganizationName,
    Scope,
)
from ignite.identity.claims import built_in_principal
from ignite.identity.issuer import Issuer
from ignite.identity.jwks import VerificationKey
from ignite.identity.keys import SigningKey, new_key
from ignite.identity.verifier import (
    MAX_TOKEN_CHARS,
    REMEMBERED,
    ChainVerifier,
    JwtVerifier,
)
from ignite.settings import IdentitySettings

ISSUER = "http://localhost:8080/realms/dodil"
ACME = Organization(id=OrganizationId("01ACME"), name=OrganizationName("acme"))
CLOCK = ManualClock()
NOW = int(CLOCK.now.timestamp())
KEY = new_key(created_at=CLOCK.now, signs_from=CLOCK.now)
OTHER = new_key(created_at=CLOCK.now, signs_from=CLOCK.now)
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Keys:
    """One key that signs and verifies, and an RSA key that verifies."""

    def signing(self) -> SigningKey:
        return KEY

    def __init__(self) -> None:
        self.own: VerificationKey | None = VerificationKey(
            id=KEY.id, algorithms=("ES256",), key=KEY.public
        )

    async def find(self, key_id: str) -> VerificationKey | None:
        if key_id == KEY.id:
            return self.own
        if key_id == "rsa":
            return VerificationKey(id="rsa", algorithms=("RS256",), key=RSA_KEY.public_key())
        return None


def verifier(clock: ManualClock = CLOCK) -> JwtVerifier:
    return JwtVerifier(
        Keys(), issuer=ISSUER, audience="ignite", read=built_in_principal, clock=clock
    )


def issuer(clock: ManualClock = CLOCK, **settings: Any) -> Issuer:
    return Issuer(Keys(), ISSUER, IdentitySettings(**settings), clock)


GOOD: Mapping[str, Any] = {
    "iss": ISSUER,
    "aud": "ignite",
    "sub": "sa_1",
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 900,
    "organization": {"acme": {"id": "01ACME"}},
    "scope": "GetApp",
}


def signed(claims: Any, key: Any = KEY.private, alg: str = "ES256", **header: Any) -> str:
    return jwt.encode(claims, key, algorithm=alg, headers={"kid": KEY.id, **header})


def changed(**claims: Any) -> dict[str, Any]:
    merged = {**GOOD, **claims}
    return {name: value for name, value in merged.items() if value is not ...}


def raw(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


async def refused(token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await verifier().verify(token)
    return caught.value.message


class TestGood:
    async def test_issued_token_is_believed(self) -> None:
        token = issuer().issue("sa_1", ACME, {Scope.GET_APP, Scope.INVOKE_APP})
        principal = await verifier().verify(token.token)
        assert principal.subject == "sa_1"
        assert principal.organization == ACME
        assert principal.scopes == {Scope.GET_APP, Scope.INVOKE_APP}

    def test_claims_are_those_of_the_contract(self) -> None:
        token = issuer().issue("sa_1", ACME, {Scope.GET_APP})
        claims = jwt.decode(token.token, options={"verify_signature": False})
        assert claims.pop("jti")
        assert claims == GOOD
        assert jwt.get_unverified_header(token.token) == {
            "alg": "ES256",
            "kid": KEY.id,
            "typ": "JWT",
        }
        assert token.token not in repr(token)

    def test_ids_of_tokens_differ(self) -> None:
        assert issuer().issue("a", ACME, set()).token != issuer().issue("a", ACME, set()).token

    @pytest.mark.parametrize(("asked", "got"), [(None, 600), (60, 60), (100_000, 600)])
    def test_life_is_bounded_by_the_settings(self, asked: int | None, got: int) -> None:
        token = issuer(token_ttl_secs=600).issue("a", ACME, set(), ttl_secs=asked)
        assert token.expires_in_secs == got

    async def test_audience_may_be_a_list(self) -> None:
        assert await verifier().verify(signed(changed(aud=["x", "ignite"])))

    async def test_unknown_scopes_grant_nothing(self) -> None:
        principal = await verifier().verify(signed(changed(scope="Root 1 GetApp")))
        assert principal.scopes == {Scope.GET_APP}

    async def test_token_just_ended_is_within_the_leeway(self) -> None:
        assert await verifier().verify(signed(changed(exp=NOW - 4)))


class TestTime:
    async def test_expired(self) -> None:
        assert "expired" in await refused(signed(changed(exp=NOW - 5)))

    async def test_expires_as_the_clock_moves(self) -> None:
        clock = ManualClock()
        token = issuer(clock).issue("a", ACME, set()).token
        clock.forward(904)
        await verifier(clock).verify(token)
        clock.forward(1)
        with pytest.raises(Unauthenticated):
            await verifier(clock).verify(token)

    async def test_without_end(self) -> None:
        assert "no end" in await refused(signed(changed(exp=...)))

    async def test_not_before_in_the_future(self) -> None:
        assert "not valid yet" in await refused(signed(changed(nbf=NOW + 6)))

    async def test_issued_in_the_future(self) -> None:
        assert "not valid yet" in await refused(signed(changed(iat=NOW + 6)))

    @pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
    @pytest.mark.parametrize("value", ["9999999999", True, [NOW], {}, float("inf"), float("nan")])
    async def test_time_that_is_none(self, name: str, value: object) -> None:
        await refused(signed(changed(**{name: value})))


class TestRememberedSignature:
    """A token that was good before is still checked in all but the arithmetic."""

    async def test_time_is_checked_again(self) -> None:
        clock = ManualClock()
        trust = verifier(clock)
        token = signed(GOOD)
        await trust.verify(token)
        await trust.verify(token)
        clock.forward(1000)
        with pytest.raises(Unauthenticated):
            await trust.verify(token)

    async def test_key_that_is_gone_ends_it(self) -> None:
        keys = Keys()
        trust = JwtVerifier(
            keys, issuer=ISSUER, audience="ignite", read=built_in_principal, clock=CLOCK
        )
        token = signed(GOOD)
        await trust.verify(token)
        keys.own = None
        with pytest.raises(Unauthenticated):
            await trust.verify(token)

    async def test_other_key_under_the_same_id_ends_it(self) -> None:
        keys = Keys()
        trust = JwtVerifier(
            keys, issuer=ISSUER, audience="ignite", read=built_in_principal, clock=CLOCK
        )
        token = signed(GOOD)
        await trust.verify(token)
        keys.own = VerificationKey(id=KEY.id, algorithms=("ES256",), key=OTHER.public)
        with pytest.raises(Unauthenticated):
            await trust.verify(token)

    async def test_refused_tokens_are_not_remembered_as_good(self) -> None:
        trust = verifier()
        token = signed(GOOD, OTHER.private)
        for _ in range(2):
            with pytest.raises(Unauthenticated):
                await trust.verify(token)

    async def test_memory_is_bounded(self) -> None:
        trust = verifier()
        for number in range(REMEMBERED + 5):
            await trust.verify(signed(changed(jti=str(number))))
        assert len(trust._seen) == REMEMBERED


class TestSignature:
    @pytest.mark.parametrize("alg", ["none", "None", "NONE", ""])
    @pytest.mark.parametrize("signature", [b"", b"x"])
    async def test_algorithm_none(self, alg: str, signature: bytes) -> None:
        await refused(raw({"alg": alg, "kid": KEY.id}, GOOD, signature))

    @pytest.mark.parametrize("form", ["pem", "der", "jwk"])
    async def test_public_key_used_as_a_shared_secret(self, form: str) -> None:
        secrets = {
            "pem": KEY.public.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
            "der": KEY.public.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
            "jwk": json.dumps(KEY.jwk()).encode(),
        }
        head = raw({"alg": "HS256", "kid": KEY.id}, GOOD).rpartition(".")[0]
        signature = hmac.digest(secrets[form], head.encode(), hashlib.sha256)
        text = base64.urlsafe_b64encode(signature).decode().rstrip("=")
        assert "algorithm" in await refused(f"{head}.{text}")

    async def test_key_of_somebody_else(self) -> None:
        assert "signature" in await refused(signed(GOOD, OTHER.private))

    async def test_unknown_key_id(self) -> None:
        assert "not known" in await refused(signed(GOOD, OTHER.private, kid=OTHER.id))

    @pytest.mark.parametrize("kid", ["", "../../etc/passwd", "x' OR 1=1"])
    async def test_strange_key_ids(self, kid: str) -> None:
        await refused(signed(GOOD, kid=kid))

    async def test_no_key_id(self) -> None:
        await refused(jwt.encode(dict(GOOD), KEY.private, algorithm="ES256"))

    async def test_algorithm_of_another_key(self) -> None:
        await refused(signed(GOOD, RSA_KEY, "RS256"))
        await refused(signed(GOOD, RSA_KEY, "PS256", kid="rsa"))

    async def test_keys_that_the_token_brings_are_ignored(self) -> None:
        brought: dict[str, Any] = {
            "jwk": OTHER.jwk(),
            "jku": "http://127.0.0.1:1/keys",
            "x5u": "http://127.0.0.1:1/cert",
            "x5c": ["AAAA"],
        }
        assert "signature" in await refused(signed(GOOD, OTHER.private, **brought))
        assert await verifier().verify(signed(GOOD, **brought))

    async def test_critical_extension_is_refused(self) -> None:
        await refused(signed(GOOD, crit=["b64"], b64=True))

    async def test_claims_changed_after_signing(self) -> None:
        head, _, signature = signed(GOOD).split(".")
        claims = base64.urlsafe_b64encode(json.dumps(changed(sub="root")).encode())
        await refused(f"{head}.{claims.decode().rstrip('=')}.{signature}")

    async def test_signature_of_another_curve_point_form(self) -> None:
        head = signed(GOOD).rpartition(".")[0]
        der = KEY.private.sign(head.encode(), ec.ECDSA(hashes.SHA256()))
        await refused(f"{head}.{base64.urlsafe_b64encode(der).decode().rstrip('=')}")
        zeros = base64.urlsafe_b64encode(bytes(64)).decode().rstrip("=")
        await refused(f"{head}.{zeros}")


class TestClaims:
    @pytest.mark.parametrize("audience", ["other", ["other"], ..., None, {"ignite": 1}, 7])
    async def test_wrong_audience(self, audience: object) -> None:
        assert "audience" in await refused(signed(changed(aud=audience)))

    @pytest.mark.parametrize(
        "name", ["http://evil/realms/dodil", ISSUER + "/", ..., None, [ISSUER]]
    )
    async def test_wrong_issuer(self, name: object) -> None:
        # The library refuses to make some of these, so sign by hand.
        token = signed(GOOD)
        header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
        head = raw(header, changed(iss=name)).rpartition(".")[0]
        signature = jwt.algorithms.ECAlgorithm(
            jwt.algorithms.ECAlgorithm.SHA256, ec.SECP256R1
        ).sign(head.encode(), KEY.private)
        text = base64.urlsafe_b64encode(signature).decode().rstrip("=")
        assert "issuer" in await refused(f"{head}.{text}")

    @pytest.mark.parametrize("subject", [..., "", "x" * 257])
    async def test_no_usable_subject(self, subject: object) -> None:
        await refused(signed(changed(sub=subject)))

    @pytest.mark.parametrize(
        "organization",
        [
            ...,
            None,
            {},
            "acme",
            ["acme"],
            {"acme": "01ACME"},
            {"acme": {}},
            {"acme": {"id": ""}},
            {"acme": {"id": 7}},
            {"acme": None},
            {"Acme Corp": {"id": "1"}},
            {"": {"id": "1"}},
            {"acme": {"id": "01ACME"}, "globex": {"id": "01GLOBEX"}},
        ],
    )
    async def test_not_exactly_one_organization(self, organization: object) -> None:
        assert "organization" in await refused(signed(changed(organization=organization)))

    async def test_fallback_claims_do_not_count_for_our_own_tokens(self) -> None:
        await refused(signed(changed(organization=..., org_name="acme", org_id="1")))

    async def test_over_long_token(self) -> None:
        token = signed(changed(padding="x" * MAX_TOKEN_CHARS))
        assert "too long" in await refused(token)

    @pytest.mark.parametrize("token", ["", ".", "..", "a.b", "a.b.c.d", "é.é.é", "null.null.null"])
    async def test_no_token_at_all(self, token: str) -> None:
        await refused(token)

    async def test_claims_that_are_no_object(self) -> None:
        head = raw({"alg": "ES256", "kid": KEY.id}, {}).split(".")[0]
        for body in (b"[]", b'"x"', b"1", b"null", b"\xff"):
            text = f"{head}.{base64.urlsafe_b64encode(body).decode().rstrip('=')}"
            signature = jwt.algorithms.ECAlgorithm(
                jwt.algorithms.ECAlgorithm.SHA256, ec.SECP256R1
            ).sign(text.encode(), KEY.private)
            await refused(f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}")


class TestProperties:
    @given(text=st.text(max_size=200))
    async def test_any_text_is_refused_and_nothing_else(self, text: str) -> None:
        for token in (text, f"{text}.{text}.{text}"):
            with pytest.raises(Unauthenticated):
                await verifier().verify(token)

    @given(place=st.integers(min_value=0), char=st.sampled_from(string.ascii_letters))
    async def test_any_changed_character_is_refused(self, place: int, char: str) -> None:
        token = signed(GOOD)
        place %= len(token)
        # The last character of a part carries unused bits.
        ends = {len(token.rsplit(".", count)[0]) - 1 for count in (0, 1, 2)}
        if token[place] in (char, ".") or place in ends:
            return
        with pytest.raises(Unauthenticated):
            await verifier().verify(token[:place] + char + token[place + 1 :])

    @given(
        claims=st.dictionaries(
            st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "organization", "scope"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=20),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=5), inner, max_size=3)
                ),
                max_leaves=8,
            ),
        )
    )
    async def test_signed_nonsense_never_fails_otherwise(self, claims: dict[str, Any]) -> None:
        head = raw({"alg": "ES256", "kid": KEY.id}, changed(**claims)).rpartition(".")[0]
        signature = jwt.algorithms.ECAlgorithm(
            jwt.algorithms.ECAlgorithm.SHA256, ec.SECP256R1
        ).sign(head.encode(), KEY.private)
        token = f"{head}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
        try:
            principal = await verifier().verify(token)
        except Unauthenticated:
            return
        assert principal.organization.name


class TestChain:
    async def test_token_goes_to_its_issuers_verifier(self) -> None:
        chain = ChainVerifier({ISSUER: verifier()})
        assert (await chain.verify(signed(GOOD))).subject == "sa_1"
        with pytest.raises(Unauthenticated):
            await chain.verify(signed(changed(iss="http://evil")))

    async def test_remembered_issuer_ends_with_the_key_and_with_the_time(self) -> None:
        keys, clock = Keys(), ManualClock()
        trust = JwtVerifier(
            keys, issuer=ISSUER, audience="ignite", read=built_in_principal, clock=clock
        )
        chain, token = ChainVerifier({ISSUER: trust}), signed(GOOD)
        for _ in range(2):
            await chain.verify(token)
        good, keys.own = keys.own, None
        with pytest.raises(Unauthenticated, match="key"):
            await chain.verify(token)
        keys.own = good
        await chain.verify(token)
        clock.now += timedelta(seconds=1000)
        with pytest.raises(Unauthenticated, match="expired"):
            await chain.verify(token)

    async def test_forged_tokens_push_nobody_out(self) -> None:
        chain = ChainVerifier({ISSUER: verifier()})
        await chain.verify(signed(GOOD))
        before = list(chain._seen)
        for number in range(3):
            with pytest.raises(Unauthenticated):
                await chain.verify(signed(changed(jti=str(number)), OTHER.private))
        assert list(chain._seen) == before

    async def test_memory_of_issuers_is_bounded(self) -> None:
        chain = ChainVerifier({ISSUER: verifier()})
        for number in range(REMEMBERED + 5):
            await chain.verify(signed(changed(jti=str(number))))
        assert len(chain._seen) == REMEMBERED

    async def test_foreign_key_cannot_sign_in_our_name(self) -> None:
        foreign = JwtVerifier(
            _Foreign(), issuer="http://idp", audience="ignite", read=built_in_principal, clock=CLOCK
        )
        chain = ChainVerifier({ISSUER: verifier(), "http://idp": foreign})
        assert await chain.verify(signed(changed(iss="http://idp"), OTHER.private, kid=OTHER.id))
        with pytest.raises(Unauthenticated):
            await chain.verify(signed(GOOD, OTHER.private, kid=OTHER.id))

    @pytest.mark.parametrize("token", ["", "a.b.c", "x" * 10_000])
    async def test_no_token(self, token: str) -> None:
        with pytest.raises(Unauthenticated):
            await ChainVerifier({ISSUER: verifier()}).verify(token)


class _Foreign:
    async def find(self, key_id: str) -> VerificationKey | None:
        if key_id != OTHER.id:
            return None
        return VerificationKey(id=OTHER.id, algorithms=("ES256",), key=OTHER.public)
