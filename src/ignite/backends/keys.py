"""A queue of keys that work is due for: a key that waits already is not queued twice."""

import asyncio


class KeyQueue:
    """First in, first out; for one reader. Its size is bounded by the number of keys there are."""

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}
        self._filled = asyncio.Event()

    def put(self, key: str) -> None:
        """Queue a key unless it waits already."""
        self._keys[key] = None
        self._filled.set()

    async def get(self) -> str:
        """Return the key that waits longest, waiting for one if there is none."""
        while not self._keys:
            self._filled.clear()
            await self._filled.wait()
        key = next(iter(self._keys))
        del self._keys[key]
        return key
