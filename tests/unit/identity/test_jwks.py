"""Key sets of other issuers: what is taken from them, when they are fetched, what survives."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from tests.support.clocks import ManualClock

from ignite.domain.errors import Unavailable
from ignite.identity.jwks import JwksCache, keys_of


def ec_row(kid: str, **changes: Any) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return {**ECAlgorithm.to_jwk(key, as_dict=True), "kid": kid, **changes}


def rsa_row(bits: int, **changes: Any) -> dict[str, Any]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits).public_key()
    return {**RSAAlgorithm.to_jwk(key, as_dict=True), "kid": "r", **changes}


def a_set(*rows: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": rows}).encode()


class Source:
    """An issuer that counts fetches and can be away."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.fetches = 0
        self.away = False

    async def __call__(self) -> bytes:
        self.fetches += 1
        if self.away:
            raise Unavailable("away")
        return self.content


def cache(source: Source, clock: ManualClock, kept: Path | None = None) -> JwksCache:
    return JwksCache(
        source, refresh_secs=100, min_interval_secs=10, monotonic=clock.monotonic, kept=kept
    )


class TestKeysOf:
    def test_algorithm_follows_from_the_key(self) -> None:
        okp = ed25519.Ed25519PrivateKey.generate().public_key()
        found = keys_of(
            a_set(
                ec_row("e"),
                rsa_row(2048),
                {**OKPAlgorithm.to_jwk(okp, as_dict=True), "kid": "o"},
            )
        )
        assert found["e"].algorithms == ("ES256",)
        assert "RS256" in found["r"].algorithms
        assert found["o"].algorithms == ("EdDSA",)

    def test_named_algorithm_narrows(self) -> None:
        assert keys_of(a_set(rsa_row(2048, alg="PS256")))["r"].algorithms == ("PS256",)

    @pytest.mark.parametrize(
        "row",
        [
            {"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "HS256"},
            ec_row("e", use="enc"),
            ec_row("e", alg="HS256"),
            ec_row("e", alg="RS256"),
            ec_row(""),
            ec_row("e", x="AA"),
            rsa_row(1024),
            {"kty": "EC", "kid": "e"},
            "text",
            None,
        ],
    )
    def test_useless_rows_are_skipped(self, row: Any) -> None:
        assert keys_of(a_set(ec_row("good"), row)).keys() == {"good"}
        with pytest.raises(ValueError, match="without a usable key"):
            keys_of(a_set(row))

    @pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"keys":{}}', b"\xff"])
    def test_no_set(self, content: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - of the JSON parser or ours
            keys_of(content)


class TestCache:
    async def test_known_key_is_not_fetched_again(self) -> None:
        source, clock = Source(a_set(ec_row("a"))), ManualClock()
        keys = cache(source, clock)
        for _ in range(3):
            assert await keys.find("a")
        assert source.fetches == 1

    async def test_unknown_key_fetches_at_most_once_an_interval(self) -> None:
        source, clock = Source(a_set(ec_row("a"))), ManualClock()
        keys = cache(source, clock)
        for number in range(20):
            assert await keys.find(f"forged-{number}") is None
        assert source.fetches == 1
        clock.forward(10)
        source.content = a_set(ec_row("a"), ec_row("b"))
        assert await keys.find("b")
        assert source.fetches == 2

    async def test_old_keys_serve_while_the_issuer_is_away(self) -> None:
        source, clock = Source(a_set(ec_row("a"))), ManualClock()
        keys = cache(source, clock)
        assert await keys.find("a")
        source.away = True
        clock.forward(1000)
        assert not await keys.refresh()
        assert await keys.find("a")
        with pytest.raises(Unavailable):
            await keys.find("b")

    async def test_key_taken_back_by_the_issuer_is_forgotten(self) -> None:
        source, clock = Source(a_set(ec_row("a"), ec_row("b"))), ManualClock()
        keys = cache(source, clock)
        assert await keys.find("b")
        source.content = a_set(ec_row("a"))
        assert await keys.refresh()
        clock.forward(10)
        assert await keys.find("b") is None

    async def test_nonsense_from_the_issuer_changes_nothing(self) -> None:
        source, clock = Source(a_set(ec_row("a"))), ManualClock()
        keys = cache(source, clock)
        await keys.refresh()
        source.content = b"<html>"
        assert not await keys.refresh()
        assert await keys.find("a")

    async def test_a_change_of_the_set_is_told_and_nothing_else(self) -> None:
        row = ec_row("a")
        source, clock = Source(a_set(row)), ManualClock()
        keys, seen = cache(source, clock), list[str]()
        keys.on_change(lambda: seen.append(keys.digest))
        for content in (
            a_set(row),
            a_set({**row, "note": "the same key"}),
            b"<html>",
            a_set(row, ec_row("b")),
            a_set(row),
            a_set(ec_row("a")),
        ):
            source.content = content
            await keys.refresh()
        assert len(seen) == 4
        assert seen[0] == seen[2]
        assert len(set(seen)) == 3

    async def test_set_on_disk_survives_a_restart_without_the_issuer(self, tmp_path: Path) -> None:
        source, clock, kept = (
            Source(a_set(ec_row("a"))),
            ManualClock(),
            tmp_path / "g" / "jwks.json",
        )
        await cache(source, clock, kept).refresh()
        assert kept.stat().st_mode & 0o777 == 0o600
        source.away = True
        assert await cache(source, clock, kept).find("a")

    async def test_broken_file_is_as_none(self, tmp_path: Path) -> None:
        kept = tmp_path / "jwks.json"
        kept.write_bytes(b"\0broken")
        source = Source(a_set(ec_row("a")))
        assert await cache(source, ManualClock(), kept).find("a")
