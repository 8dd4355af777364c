"""Answers questions for names inside sandboxes: passes them to the machine's resolvers.

It looks at a message as far as matching an answer to its question needs and keeps nothing. Whether
an address in an answer may be reached is not decided here but where packets pass (`rules`), since
code needs no name to know an address. Bounds are for each asker, so that one cannot take the
answers of others; how many questions a second reach us at all is bounded by the kernel.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from ignite.sandbox.network.namespaces import NetworkFailed

logger = logging.getLogger(__name__)

MOST_QUESTION_BYTES = 1232
MOST_ANSWER_BYTES = 65_535
MOST_WAITING = 32
MOST_WAITING_IN_ALL = 512
ANSWER_SECS = 3.0
CONNECTION_SECS = 10.0

_HEAD_BYTES = 12
_RESPONSE = 0x80
_SERVER_FAILURE = 2
_TRIES = 20

Asked = Callable[[bytes], Awaitable[bytes]]


class Resolvers:
    """Asks resolvers in their order: those given, else those that the machine is set to now."""

    def __init__(
        self, given: tuple[str, ...] = (), *, file: Path = Path("/etc/resolv.conf"), port: int = 53
    ) -> None:
        self._given = given
        self._file = file
        self._port = port

    async def ask(self, question: bytes) -> bytes:
        """Return the answer to a datagram, a failure where nobody has one."""
        return await self._first(question, self._ask)

    async def ask_by_stream(self, question: bytes) -> bytes:
        """Return the answer to a question that came over a connection."""
        return await self._first(question, self._ask_by_stream)

    async def _first(self, question: bytes, ask: Callable[[str, bytes], Awaitable[bytes]]) -> bytes:
        # Another number than the asker's: whoever knows that one cannot forge the answer.
        number = secrets.token_bytes(2)
        for server in self._given or await asyncio.to_thread(servers, self._file):
            with contextlib.suppress(OSError, EOFError):
                async with asyncio.timeout(ANSWER_SECS):
                    answer = await ask(server, number + question[2:])
                return question[:2] + answer[2:]
        return failure(question)

    async def _ask(self, server: str, question: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        # One socket a question: its port is as hard to guess as its number.
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asking:
            await loop.sock_connect(asking, (server, self._port))
            await loop.sock_sendall(asking, question)
            while True:
                answer = await loop.sock_recv(asking, MOST_ANSWER_BYTES)
                if is_answer(answer, question):
                    return answer

    async def _ask_by_stream(self, server: str, question: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(server, self._port)
        try:
            await _write(writer, question)
            answer = await _read(reader)
        finally:
            writer.close()
        if not is_answer(answer, question):
            raise OSError("not the answer to the question")
        return answer


class NameServer:
    """Listens at one address, by datagrams and connections. `open` first, then `run`."""

    def __init__(self, resolvers: Resolvers) -> None:
        self._resolvers = resolvers
        self._waiting: Counter[str] = Counter()
        self._datagrams: socket.socket | None = None
        self._connections: socket.socket | None = None

    def open(self, address: IPv4Address) -> int:
        """Bind both at a free port and return it; no interface has to have the address yet."""
        for _ in range(_TRIES):
            datagrams = _bound(socket.SOCK_DGRAM, address, 0)
            port = int(datagrams.getsockname()[1])
            try:
                self._connections = _bound(socket.SOCK_STREAM, address, port)
            except OSError:
                datagrams.close()
                continue
            self._connections.listen(64)
            self._datagrams = datagrams
            return port
        raise NetworkFailed("no port is free for names")

    def close(self) -> None:
        """Stop listening."""
        for listening in (self._datagrams, self._connections):
            if listening is not None:
                listening.close()
        self._datagrams = self._connections = None

    async def run(self) -> None:
        """Answer until cancelled."""
        assert self._datagrams is not None
        assert self._connections is not None
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            server = await asyncio.start_server(self._serve, sock=self._connections)
            try:
                while True:
                    await self._next(loop, self._datagrams, tasks)
            finally:
                server.close()

    async def _next(
        self, loop: asyncio.AbstractEventLoop, listening: socket.socket, tasks: asyncio.TaskGroup
    ) -> None:
        try:
            question, asker = await loop.sock_recvfrom(listening, MOST_QUESTION_BYTES + 1)
        except OSError as error:
            # An answer of ours that did not arrive is told here.
            logger.debug("names", extra={"why": str(error)})
            return
        if is_question(question) and self._has_room(asker[0]):
            self._waiting[asker[0]] += 1
            tasks.create_task(self._answer(listening, question, asker))

    async def _answer(
        self, listening: socket.socket, question: bytes, asker: tuple[str, int]
    ) -> None:
        try:
            answer = await self._resolvers.ask(question)
        except Exception:  # one question that cannot be asked must not end the answers to all
            logger.exception("name not looked up")
        else:
            with contextlib.suppress(OSError):
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(ANSWER_SECS):
                    await loop.sock_sendto(listening, answer, asker)
        finally:
            self._forget(asker[0])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asker = str(writer.get_extra_info("peername")[0])
        try:
            if not self._has_room(asker):
                return
            self._waiting[asker] += 1
            try:
                await self._converse(reader, writer)
            finally:
                self._forget(asker)
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            async with asyncio.timeout(CONNECTION_SECS):
                while is_question(question := await _read(reader)):
                    await _write(writer, await self._resolvers.ask_by_stream(question))

    def _has_room(self, asker: str) -> bool:
        return self._waiting[asker] < MOST_WAITING and self._waiting.total() < MOST_WAITING_IN_ALL

    def _forget(self, asker: str) -> None:
        self._waiting[asker] -= 1
        if not self._waiting[asker]:
            del self._waiting[asker]


def servers(file: Path) -> tuple[str, ...]:
    """Return the addresses of the resolvers that `file` names, three at most as libc does."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        for line in file.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                with contextlib.suppress(ValueError):
                    ip_address(words[1].partition("%")[0])
                    found.append(words[1])
    return tuple(found[:3]) or ("127.0.0.1",)


def is_question(message: bytes) -> bool:
    """Tell whether it is one message with one question that we pass on."""
    return (
        _HEAD_BYTES < len(message) <= MOST_QUESTION_BYTES
        and not message[2] & _RESPONSE
        and message[4:6] == b"\0\1"
    )


def is_answer(message: bytes, question: bytes) -> bool:
    """Tell whether a message answers `question`: its number and, where repeated, its words."""
    if len(message) < _HEAD_BYTES or message[:2] != question[:2] or not message[2] & _RESPONSE:
        return False
    asked = _asked(question)
    # A failure may come without the question.
    is_bare = message[4:6] == b"\0\0" and message[3] & 0xF != 0
    return is_bare or _asked(message).lower() == asked.lower()


def failure(question: bytes) -> bytes:
    """Return the answer that there is none."""
    flags = bytes((question[2] & 0x79 | _RESPONSE, 0x80 | _SERVER_FAILURE))
    return question[:2] + flags + b"\0\1" + bytes(6) + _asked(question)


def _asked(message: bytes) -> bytes:
    """Return name, type and class of the first question."""
    at = _HEAD_BYTES
    while at < len(message) and message[at]:
        at += message[at] + 1
    return message[_HEAD_BYTES : at + 5]


async def _read(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2)))


async def _write(writer: asyncio.StreamWriter, message: bytes) -> None:
    writer.write(len(message).to_bytes(2) + message)
    await writer.drain()


def _bound(kind: socket.SocketKind, address: IPv4Address, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # From Linux' own header; `socket` has no name for it before Python 3.12.
        ip_freebind = 15
        made.setsockopt(socket.IPPROTO_IP, ip_freebind, 1)
        made.bind((str(address), port))
    except OSError:
        made.close()
        raise
    return made
