"""The signing keys of the running installation: read from the platform's secrets, kept in memory.

All processes that issue tokens share one document and change it by compare-and-set. While the store
is sealed or away, the ring in memory goes on signing and verifying.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from ignite.domain.errors import FailedPrecondition, IgniteError, Unavailable
from ignite.identity.jwks import VerificationKey
from ignite.identity.keys import ALGORITHM, KeyRing, SigningKey, new_key, ring_of
from ignite.ports.identity import KeyRotation
from ignite.ports.platform import DocumentChanged, PlatformSecrets
from ignite.settings import IdentitySettings

logger = logging.getLogger(__name__)

DOCUMENT = "identity-signing-keys"
# Beyond the last token's end: clocks that differ, and Envoy's own leeway of a minute.
KEEP_SLACK = timedelta(seconds=120)
MAX_REFRESH_SECS = 30.0
RETRY_SECS = 1.0
ATTEMPTS = 10


class KeyStore:
    """Holds the ring, keeps it fresh and rotates it. A lifecycle component."""

    name = "signing-keys"

    def __init__(
        self,
        secrets: PlatformSecrets,
        settings: IdentitySettings,
        clock: Callable[[], datetime],
    ) -> None:
        self._secrets = secrets
        self._clock = clock
        self._publish = timedelta(seconds=settings.key_publish_secs)
        self._keep = timedelta(seconds=settings.token_ttl_secs) + KEEP_SLACK
        self._refresh_secs = min(MAX_REFRESH_SECS, settings.key_publish_secs / 4)
        self._ring: KeyRing | None = None
        self._verifying: Mapping[str, VerificationKey] = {}

    async def run(self, ready: Callable[[], None]) -> None:
        """Load the ring, making the first key where there is none, and keep it fresh."""
        while self._ring is None:
            try:
                await self.load()
            except Unavailable as error:
                logger.warning("signing keys are out of reach", extra={"reason": error.reason})
                await asyncio.sleep(RETRY_SECS)
        ready()
        while True:
            await asyncio.sleep(self._refresh_secs)
            try:
                await self.load()
            except IgniteError as error:
                # The ring in memory goes on, whatever the document has become.
                logger.warning("signing keys not refreshed", extra={"reason": error.reason})

    async def load(self) -> KeyRing:
        """Read the ring from the store; the first ever key is made here and signs at once."""
        for _ in range(ATTEMPTS):
            document = await self._secrets.get(DOCUMENT)
            if document is not None:
                return self._take(ring_of(document.value))
            now = self._clock()
            ring = KeyRing(keys=(new_key(created_at=now, signs_from=now),))
            try:
                await self._secrets.put(DOCUMENT, ring.document(), expected=0)
            except DocumentChanged:
                continue
            logger.info("made the first signing key", extra={"key_id": ring.keys[0].id})
            return self._take(ring)
        raise Unavailable("the signing keys keep changing")

    async def rotate(self) -> KeyRotation:
        """See ports.identity.SigningKeys."""
        for _ in range(ATTEMPTS):
            document = await self._secrets.get(DOCUMENT)
            if document is None:
                await self.load()
                continue
            ring = ring_of(document.value)
            now = self._clock()
            if pending := ring.pending(now):
                raise FailedPrecondition(
                    "an earlier rotation is under way",
                    reason="RotationPending",
                    details={"key_id": pending.id},
                )
            key = new_key(created_at=now, signs_from=now + self._publish)
            rotated = ring.rotated(key, now, self._keep)
            try:
                await self._secrets.put(DOCUMENT, rotated.document(), expected=document.version)
            except DocumentChanged:
                continue
            self._take(rotated)
            logger.info("published a new signing key", extra={"key_id": key.id})
            return KeyRotation(
                key_id=key.id,
                signs_from=key.signs_from,
                previous_key_id=ring.signing(now).id,
                previous_verifies_until=key.signs_from + self._keep,
            )
        raise Unavailable("the signing keys keep changing")

    def jwks(self) -> Mapping[str, Sequence[Mapping[str, str]]]:
        """See ports.identity.SigningKeys."""
        return {"keys": [key.jwk() for key in self._published()]}

    def signing(self) -> SigningKey:
        """Return the key that signs now; raises Unavailable before the first load."""
        return self._loaded().signing(self._clock())

    async def find(self, key_id: str) -> VerificationKey | None:
        """Return the published key of that id."""
        if all(key.id != key_id for key in self._published()):
            return None
        return self._verifying.get(key_id)

    def _take(self, ring: KeyRing) -> KeyRing:
        if ring != self._ring:
            self._ring = ring
            self._verifying = {
                key.id: VerificationKey(id=key.id, algorithms=(ALGORITHM,), key=key.public)
                for key in ring.keys
            }
        return ring

    def _published(self) -> tuple[SigningKey, ...]:
        return self._loaded().published(self._clock(), self._keep)

    def _loaded(self) -> KeyRing:
        if self._ring is None:
            raise Unavailable("the signing keys are not loaded yet", reason="KeysNotLoaded")
        return self._ring
