"""Has Envoy forget the tokens that it remembers whenever a key set changes.

Envoy's memory of good signatures outlives the key that made them. A change of the keys, as this
process sees it, renews the filter that holds the memory. Envoy fetches the keys by itself and may
have met an older set a moment later (an issuer of several servers), so the memory is renewed once
more when its next fetch is behind it.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence

from ignite.ports.identity import PublishedKeys


def generation_of(key_sets: Sequence[PublishedKeys]) -> str:
    """Return the name of what all issuers publish now, "" where nobody tells."""
    if not key_sets:
        return ""
    digests = "\n".join(keys.digest for keys in key_sets)
    return hashlib.sha256(digests.encode()).hexdigest()[:16]


class KeyWatch:
    """Calls `trust` with a new name at each change of a key set and once more when it has settled.

    A lifecycle component. `settle_secs` is longer than Envoy keeps a set before it asks again.
    """

    name = "keys"

    def __init__(
        self,
        key_sets: Sequence[PublishedKeys],
        trust: Callable[[str], None],
        *,
        settle_secs: float,
    ) -> None:
        self._key_sets = key_sets
        self._trust = trust
        self._settle_secs = settle_secs
        self._changed = asyncio.Event()
        self._known = generation_of(key_sets)
        for keys in key_sets:
            keys.on_change(self._changed.set)

    async def run(self, ready: Callable[[], None]) -> None:
        """Follow the key sets until cancelled."""
        ready()
        # What changed while other parts started is not in the first snapshot.
        if generation_of(self._key_sets) != self._known:
            self._changed.set()
        while True:
            await self._changed.wait()
            while self._changed.is_set():
                self._changed.clear()
                self._trust(f"{generation_of(self._key_sets)}~")
                await self._wait_for_change()
            self._trust(generation_of(self._key_sets))

    async def _wait_for_change(self) -> None:
        try:
            async with asyncio.timeout(self._settle_secs):
                await self._changed.wait()
        except TimeoutError:
            return
