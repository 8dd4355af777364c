"""Hashes of secrets."""

import pytest

from ignite.identity.hashing import MAX_SECRET_CHARS, ScryptHasher


async def test_right_secret_verifies_and_others_do_not() -> None:
    hasher = ScryptHasher()
    hashed = await hasher.hash("right")
    assert await hasher.verify("right", hashed)
    assert not await hasher.verify("wrong", hashed)
    assert not await hasher.verify("", hashed)
    assert not await hasher.verify("x" * (MAX_SECRET_CHARS + 1), hashed)


async def test_hash_is_salted_and_holds_no_secret() -> None:
    hasher = ScryptHasher()
    first, second = await hasher.hash("right"), await hasher.hash("right")
    assert first != second
    assert "right" not in first


async def test_another_process_verifies() -> None:
    hashed = await ScryptHasher().hash("right")
    assert await ScryptHasher().verify("right", hashed)


async def test_only_right_secrets_are_remembered() -> None:
    hasher = ScryptHasher()
    hashed = await hasher.hash("right")
    await hasher.verify("wrong", hashed)
    assert not hasher.remembers("wrong", hashed)
    await hasher.verify("right", hashed)
    assert hasher.remembers("right", hashed)
    assert not hasher.remembers("right", await hasher.hash("right"))


async def test_unknown_form_is_never_right() -> None:
    assert not await ScryptHasher().verify("x", "plain$1$1$1$eA==$eA==")
    with pytest.raises(ValueError, match="unpack"):
        await ScryptHasher().verify("x", "x")
