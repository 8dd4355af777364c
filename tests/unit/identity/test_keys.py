"""The key ring: who signs when, who verifies how long."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import pytest
from tests.fakes.platform import FakePlatformSecrets
from tests.support.clocks import ManualClock

from ignite.domain.errors import FailedPrecondition, Internal, Unavailable
from ignite.identity.keys import KeyRing, new_key, ring_of
from ignite.identity.keystore import KEEP_SLACK, KeyStore
from ignite.settings import IdentitySettings

SETTINGS = IdentitySettings(key_publish_secs=300, token_ttl_secs=900)


def store(secrets: FakePlatformSecrets, clock: ManualClock) -> KeyStore:
    return KeyStore(secrets, SETTINGS, clock)


def published(keys: KeyStore) -> set[str]:
    return {str(key["kid"]) for key in keys.jwks()["keys"]}


class TestFirstKey:
    async def test_first_key_signs_at_once(self) -> None:
        keys = store(FakePlatformSecrets(), ManualClock())
        await keys.load()
        assert published(keys) == {keys.signing().id}

    async def test_two_processes_agree_on_one_first_key(self) -> None:
        secrets, clock = FakePlatformSecrets(), ManualClock()
        one, two = store(secrets, clock), store(secrets, clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(one.load())
            tasks.create_task(two.load())
        assert one.signing().id == two.signing().id

    async def test_restart_reads_the_same_key(self) -> None:
        secrets, clock = FakePlatformSecrets(), ManualClock()
        one = store(secrets, clock)
        await one.load()
        two = store(secrets, clock)
        await two.load()
        assert one.signing().id == two.signing().id
        assert two.signing().private.private_numbers() == one.signing().private.private_numbers()

    async def test_before_the_first_load_nothing_is_signed(self) -> None:
        with pytest.raises(Unavailable):
            store(FakePlatformSecrets(), ManualClock()).signing()

    async def test_run_waits_for_the_store_then_is_ready(self) -> None:
        secrets = FakePlatformSecrets()
        secrets.away = True
        ready = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(store(secrets, ManualClock()).run(ready.set))
            await asyncio.sleep(0)
            assert not ready.is_set()
            secrets.away = False
            async with asyncio.timeout(10):
                await ready.wait()
            task.cancel()


class TestRotation:
    async def test_new_key_is_published_before_it_signs(self) -> None:
        clock = ManualClock()
        keys = store(FakePlatformSecrets(), clock)
        await keys.load()
        old = keys.signing().id
        rotation = await keys.rotate()
        assert published(keys) == {old, rotation.key_id}
        clock.forward(299)
        assert keys.signing().id == old
        clock.forward(1)
        assert keys.signing().id == rotation.key_id

    async def test_old_key_verifies_until_its_last_token_has_ended(self) -> None:
        clock = ManualClock()
        keys = store(FakePlatformSecrets(), clock)
        await keys.load()
        old = keys.signing().id
        rotation = await keys.rotate()
        # The last token of the old key is signed just before the new one takes over.
        clock.forward(300 + 900 + KEEP_SLACK.total_seconds() - 1)
        assert old in published(keys)
        assert await keys.find(old) is not None
        clock.forward(1)
        assert published(keys) == {rotation.key_id}
        assert await keys.find(old) is None
        assert rotation.previous_key_id == old
        assert rotation.previous_verifies_until == clock.now

    async def test_other_process_sees_the_rotation_on_its_next_load(self) -> None:
        secrets, clock = FakePlatformSecrets(), ManualClock()
        one, two = store(secrets, clock), store(secrets, clock)
        await one.load()
        await two.load()
        rotation = await one.rotate()
        await two.load()
        assert rotation.key_id in published(two)

    async def test_rotation_under_way_is_refused(self) -> None:
        clock = ManualClock()
        keys = store(FakePlatformSecrets(), clock)
        await keys.load()
        await keys.rotate()
        with pytest.raises(FailedPrecondition):
            await keys.rotate()
        clock.forward(300)
        await keys.rotate()

    async def test_document_forgets_keys_that_verify_nothing(self) -> None:
        secrets, clock = FakePlatformSecrets(), ManualClock()
        keys = store(secrets, clock)
        await keys.load()
        for _ in range(5):
            await keys.rotate()
            clock.forward(3600)
        (document,) = secrets.documents.values()
        assert len(ring_of(document.value).keys) == 2

    async def test_rotation_survives_a_lost_race(self) -> None:
        secrets, clock = FakePlatformSecrets(), ManualClock()
        one = store(secrets, clock)
        await one.load()

        class Racing(FakePlatformSecrets):
            """Somebody writes between this store's first read and write."""

            raced = False

            async def put(
                self, name: str, value: Mapping[str, str], *, expected: int | None
            ) -> int:
                if not self.raced:
                    self.raced = True
                    await super().put(name, self.documents[name].value, expected=None)
                return await super().put(name, value, expected=expected)

        racing = Racing()
        racing.documents = secrets.documents
        rotation = await store(racing, clock).rotate()
        await one.load()
        assert rotation.key_id in published(one)

    async def test_ring_in_memory_serves_while_the_store_is_away(self) -> None:
        secrets, clock = FakePlatformSecrets(), ManualClock()
        keys = store(secrets, clock)
        await keys.load()
        secrets.away = True
        with pytest.raises(Unavailable):
            await keys.rotate()
        assert published(keys) == {keys.signing().id}


class TestRing:
    def test_clock_set_back_still_signs(self) -> None:
        now = ManualClock().now
        ring = KeyRing(keys=(new_key(created_at=now, signs_from=now),))
        assert ring.signing(now - timedelta(days=1)) == ring.keys[0]

    def test_document_reads_back(self) -> None:
        now = ManualClock().now
        ring = KeyRing(
            keys=tuple(
                new_key(created_at=now, signs_from=now + timedelta(seconds=at)) for at in (0, 300)
            )
        )
        assert ring_of(ring.document()) == ring

    @pytest.mark.parametrize(
        "value", [{}, {"ring": "["}, {"ring": "[]"}, {"ring": '[{"pem":"x"}]'}]
    )
    def test_unreadable_document_is_internal(self, value: dict[str, str]) -> None:
        with pytest.raises(Internal):
            ring_of(value)

    def test_public_form_has_no_private_part(self) -> None:
        now = ManualClock().now
        key = new_key(created_at=now, signs_from=now)
        assert set(key.jwk()) == {"crv", "kty", "x", "y", "kid", "use", "alg"}
        assert "PRIVATE" not in repr(KeyRing(keys=(key,)))
