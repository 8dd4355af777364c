"""Hashes of service-account secrets: scrypt, salted, a few at a time.

The secrets are 32 random bytes, so the cost is a second line only; the bound on how many run at
once keeps a flood of logins from eating the machine. A secret that was right is remembered under a
key of this process, so that a client that fetches tokens often pays once.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets as random
from collections import OrderedDict

MAX_SECRET_CHARS = 512
CONCURRENCY = 2
REMEMBERED = 1024

_N, _R, _P, _LENGTH = 2**14, 8, 1, 32


class ScryptHasher:
    """Makes and checks `scrypt$n$r$p$salt$hash`."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(CONCURRENCY)
        self._key = random.token_bytes(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()

    async def hash(self, secret: str) -> str:
        """See ports.identity.SecretHasher."""
        salt = random.token_bytes(16)
        digest = await self._scrypt(secret, salt, (_N, _R, _P))
        parts = ("scrypt", str(_N), str(_R), str(_P), _b64(salt), _b64(digest))
        return "$".join(parts)

    async def verify(self, secret: str, hashed: str) -> bool:
        """See ports.identity.SecretHasher."""
        if len(secret) > MAX_SECRET_CHARS:
            return False
        if self.remembers(secret, hashed):
            return True
        name, n, r, p, salt, digest = hashed.split("$")
        if name != "scrypt":
            return False
        found = await self._scrypt(secret, _unb64(salt), (int(n), int(r), int(p)))
        if not hmac.compare_digest(found, _unb64(digest)):
            return False
        self._right[self._tag(secret, hashed)] = None
        if len(self._right) > REMEMBERED:
            self._right.popitem(last=False)
        return True

    def remembers(self, secret: str, hashed: str) -> bool:
        """Tell at no cost whether the pair was right before; False says nothing."""
        return self._tag(secret, hashed) in self._right

    def _tag(self, secret: str, hashed: str) -> bytes:
        text = f"{hashed}\0{secret}".encode(errors="surrogatepass")
        return hmac.digest(self._key, text, "sha256")

    async def _scrypt(self, secret: str, salt: bytes, cost: tuple[int, int, int]) -> bytes:
        n, r, p = cost
        async with self._turns:
            return await asyncio.to_thread(
                hashlib.scrypt,
                secret.encode(errors="surrogatepass"),
                salt=salt,
                n=n,
                r=r,
                p=p,
                dklen=_LENGTH,
                maxmem=64 * 1024 * 1024,
            )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text)
