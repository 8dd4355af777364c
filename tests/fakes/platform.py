"""A fake of ports.platform: documents in memory, and a store that can be away."""

from collections.abc import Mapping

from ignite.domain.errors import Unavailable
from ignite.ports.platform import DocumentChanged, PlatformDocument


class FakePlatformSecrets:
    """Keeps documents in a dict; `away` makes every call fail."""

    def __init__(self) -> None:
        self.documents: dict[str, PlatformDocument] = {}
        self.away = False

    async def get(self, name: str) -> PlatformDocument | None:
        self._reach()
        return self.documents.get(name)

    async def put(self, name: str, value: Mapping[str, str], *, expected: int | None) -> int:
        self._reach()
        found = self.documents.get(name)
        version = found.version if found else 0
        if expected is not None and expected != version:
            raise DocumentChanged(name)
        self.documents[name] = PlatformDocument(version=version + 1, value=dict(value))
        return version + 1

    def _reach(self) -> None:
        if self.away:
            raise Unavailable("the store is sealed")
