"""A second issuer: at Envoy for warm apps and at the activator, by the same rules."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.support.envoy import Rig, needs_envoy, running_rig
from tests.support.tokens import Keys

from ignite.domain.errors import Unauthenticated
from ignite.domain.identity import Principal
from ignite.identity.claims import principal_by_roles

pytestmark = needs_envoy

THEIRS = "https://login.example.com/realms/x"
ROLES = {"realm_access": {"roles": ["ignite.app-developer"]}}
CASES: list[tuple[Mapping[str, Any], int]] = [
    ({"organization": {"acme": {"id": "their-own-id"}}, **ROLES}, 200),
    ({"organization": {"acme": {"id": "1"}, "other": {"id": "2"}}, **ROLES}, 403),
    ({"organization": {"other": {"id": "1"}}, **ROLES}, 403),
    ({"organization": {"acme": {"id": "1"}}, "realm_access": {"roles": ["other"]}}, 403),
    ({"organization": {"acme": {"id": "1"}}, "scope": "InvokeApp"}, 403),
    ({"organization": None, "org_name": "acme", "org_id": "1", **ROLES}, 200),
    ({"organization": None, "org_name": "other", "org_id": "1", **ROLES}, 403),
]


class BothKeys(Keys):
    """Verifies the tokens of both issuers, as the server's chain does."""

    def __init__(self, theirs: Keys) -> None:
        super().__init__()
        self.theirs = theirs

    async def verify(self, token: str) -> Principal:
        try:
            return await super().verify(token)
        except Unauthenticated:
            claims = self.theirs.read(token, audience="them", issuer=THEIRS)
            return principal_by_roles("realm_access.roles")(claims)


@asynccontextmanager
async def keys_server(keys: Keys) -> AsyncIterator[int]:
    """Serve a JWK set on a loopback port."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps(keys.jwks()).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def rig_of(*, has_address: bool) -> AsyncIterator[tuple[Rig, Keys]]:
    theirs = Keys("their-key")
    async with keys_server(theirs) as port:
        identity = {"external_issuer": THEIRS, "external_audience": "them"}
        if has_address:
            identity["external_jwks_url"] = f"http://127.0.0.1:{port}/keys"
        async with running_rig(keys=BothKeys(theirs), identity=identity) as rig:
            yield rig, theirs


def token(keys: Keys, claims: Mapping[str, Any]) -> str:
    return keys.token(**{"iss": THEIRS, "aud": "them", "scope": "", **claims})


@pytest.mark.parametrize("has_address", [True, False])
async def test_both_issuers_are_believed_by_the_same_rules(has_address: bool) -> None:
    async with rig_of(has_address=has_address) as (rig, theirs):
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("two", replica))
        for claims, status in CASES:
            got = await rig.get(rig.host("two"), token=token(theirs, claims))
            if (
                "other" in dict(claims.get("organization") or {})
                and len(claims["organization"]) > 1
            ):
                # The activator calls a token of two organisations a bad one.
                assert got.status in (401, 403)
            else:
                assert got.status == status, claims
        assert (await rig.get(rig.host("two"))).status == 200
        bad = rig.keys.token(iss=THEIRS, aud="them", **ROLES)
        assert (await rig.get(rig.host("two"), token=bad)).status == 401


async def test_who_brings_no_token_or_an_old_one_is_told_so() -> None:
    async with rig_of(has_address=True) as (rig, theirs):
        await rig.controllers.settle(rig.route("told", await rig.replica()))
        words = {
            None: "MissingToken",
            rig.keys.token(exp=1): "TokenExpired",
            token(theirs, {"exp": 1}): "TokenExpired",
            theirs.token(): "Unauthenticated",
            rig.keys.token(aud="other"): "Unauthenticated",
            "garbage": "Unauthenticated",
        }
        for host, path in ((rig.host("told"), "/"), ("localhost", "/v1/ignite/secrets")):
            for bearer, word in words.items():
                got = await rig.get(host, path, token=bearer)
                info = got.json()["details"][0]
                said = (got.status, got.json()["code"], info["reason"])
                assert said == (401, 16, word), (host, bearer)
                assert got.header("x-ignite-error") == word
                assert ("expired" in got.json()["message"]) == (word == "TokenExpired")


async def test_the_internal_way_needs_no_keys() -> None:
    async with rig_of(has_address=False) as (rig, _):
        await rig.controllers.settle(rig.route("inner", await rig.replica()))
        _, dump = await rig.admin.get("/config_dump")
        assert b"internal/acme:inner@1" in dump
        assert b"public/acme:inner" not in dump


async def test_the_api_gets_calls_of_both_issuers_and_of_nobody_whom_envoy_can_tell() -> None:
    path = "/v1/ignite/secrets"
    async with rig_of(has_address=True) as (rig, theirs):
        flat = token(theirs, {"organization": None, "org_name": "acme", "org_id": "1"})
        for good in (rig.keys.token(), token(theirs, {}), flat):
            assert (await rig.get("localhost", path, token=good)).status == 501
        for bad in (theirs.token(), token(rig.keys, {}), token(theirs, {"aud": "ignite"})):
            assert (await rig.get("localhost", path, token=bad)).status == 401
    async with rig_of(has_address=False) as (rig, theirs):
        assert (await rig.get("localhost", path, token=token(theirs, {}))).status == 501
