"""What every managed runtime owes its apps, as a table: code a language, requests, answers.

A language joins by adding its code to the cases; a case without a language's code does not apply to
it (the contracts differ in what a handler may return).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

Code = Mapping[str, str]

IDS = {
    "x-ignite-execution-id": "exec_01",
    "x-ignite-function-id": "acme/hello",
    "x-ignite-organization-id": "org_7",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and what has to come back; None means anything."""

    method: str = "POST"
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunks: tuple[bytes, ...] = ()
    status: int = 200
    content_type: str | None = None
    answer: bytes | None = None
    answer_json: object = None
    error: Mapping[str, str] | None = None
    """Keys that the JSON answer to a failure must have, with a text that each holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Code and the requests to it, in order, of one replica."""

    name: str
    code: Mapping[str, Code]
    exchanges: tuple[Exchange, ...]


def python(text: str, **more: str) -> Mapping[str, Code]:
    """Return the code of a Python app."""
    return {"python": {"handler.py": text, **{f"{name}.py": code for name, code in more.items()}}}


ECHO = python("def handler(payload, ctx):\n    return payload\n")
JSON_VALUES: tuple[object, ...] = ({"a": [1, 2.5, None]}, [], True, None, 7)
BIG = bytes(range(256)) * 20_000

CASES = (
    Case(
        name="bytes come back as they are",
        code=ECHO,
        exchanges=(
            Exchange(
                body=b"\x00\xff\r\n",
                content_type="application/octet-stream",
                answer=b"\x00\xff\r\n",
            ),
            Exchange(body=b"", answer=b""),
            Exchange(body=BIG, answer=BIG),
            Exchange(chunks=(b"one ", b"two ", b"three"), answer=b"one two three"),
        ),
    ),
    Case(
        name="a string is text",
        code=python("def handler(payload, ctx):\n    return 'grüße ' + payload.decode()\n"),
        exchanges=(
            Exchange(
                body="日本".encode(),
                content_type="text/plain; charset=utf-8",
                answer="grüße 日本".encode(),
            ),
        ),
    ),
    Case(
        name="anything else is JSON",
        code=python("import json\ndef handler(p, c):\n    return json.loads(p)\n"),
        exchanges=tuple(
            Exchange(
                body=json.dumps(value).encode(),
                content_type="application/json",
                answer=json.dumps(value).encode(),
            )
            for value in JSON_VALUES
        ),
    ),
    Case(
        name="other kinds of bytes are bytes",
        code=python("def handler(p, c):\n    return memoryview(bytearray(p))\n"),
        exchanges=(Exchange(body=b"xyz", content_type="application/octet-stream", answer=b"xyz"),),
    ),
    Case(
        name="the context has exactly the three ids",
        code=python("def handler(p, c):\n    assert type(c) is dict\n    return c\n"),
        exchanges=(
            Exchange(
                headers=IDS,
                answer_json={
                    "execution_id": "exec_01",
                    "function_id": "acme/hello",
                    "organization_id": "org_7",
                },
            ),
        ),
    ),
    Case(
        name="an exception is a JSON answer",
        code=python("def handler(p, c):\n    raise KeyError('missing piece')\n"),
        exchanges=(
            Exchange(
                status=500,
                content_type="application/json",
                error={
                    "error": "missing piece",
                    "type": "KeyError",
                    "traceback": "handler.py",
                },
            ),
        ),
    ),
    Case(
        name="leaving the program is a failure of one request",
        code=python(
            "import sys\ndef handler(p, c):\n    if p == b'exit': sys.exit(3)\n    return p\n"
        ),
        exchanges=(
            Exchange(body=b"exit", status=500, error={"type": "SystemExit"}),
            Exchange(body=b"on", answer=b"on"),
        ),
    ),
    Case(
        name="a result that cannot be serialised is an error",
        code=python("def handler(p, c):\n    return object()\n"),
        exchanges=(Exchange(status=500, error={"type": "TypeError", "traceback": "Type"}),),
    ),
    Case(
        name="an async handler is awaited",
        code=python(
            "import asyncio\nasync def handler(p, c):\n    await asyncio.sleep(0)\n    return p\n"
        ),
        exchanges=(Exchange(body=b"x", answer=b"x"), Exchange(body=b"y", answer=b"y")),
    ),
    Case(
        name="an async handler that fails",
        code=python(
            "import asyncio, sys\nasync def handler(p, c):\n"
            "    if p == b'cancel': raise asyncio.CancelledError('mine')\n"
            "    if p == b'exit': sys.exit(3)\n    if p == b'stop': raise KeyboardInterrupt\n"
            "    return 1 / 0\n"
        ),
        exchanges=(
            Exchange(status=500, error={"type": "ZeroDivisionError"}),
            Exchange(body=b"cancel", status=500, error={"type": "CancelledError"}),
            Exchange(body=b"exit", status=500, error={"type": "SystemExit"}),
            Exchange(body=b"stop", status=500, error={"type": "KeyboardInterrupt"}),
        ),
    ),
    Case(
        name="an awaitable result of a plain function is awaited",
        code=python("async def later(p):\n    return p\ndef handler(p, c):\n    return later(p)\n"),
        exchanges=(Exchange(body=b"x", answer=b"x"),),
    ),
    Case(
        name="a callable object is a handler",
        code=python(
            "class Handler:\n    async def __call__(self, p, c):\n        return p\n"
            "handler = Handler()\n"
        ),
        exchanges=(Exchange(body=b"x", answer=b"x"),),
    ),
    Case(
        name="a generator streams",
        code=python(
            "def handler(p, c):\n    for part in (b'a', 'ü', b'', b'c'):\n        yield part\n"
        ),
        exchanges=(Exchange(content_type="application/octet-stream", answer="aüc".encode()),),
    ),
    Case(
        name="an async generator streams",
        code=python("async def handler(p, c):\n    for part in ('a', 'b'):\n        yield part\n"),
        exchanges=(Exchange(content_type="text/plain; charset=utf-8", answer=b"ab"),),
    ),
    Case(
        name="generators that other functions return stream",
        code=python(
            "def sync():\n    yield 's'\nasync def both():\n    yield 'a'\n"
            "def handler(p, c):\n    return both() if p else sync()\n"
        ),
        exchanges=(Exchange(answer=b"s"), Exchange(body=b"x", answer=b"a")),
    ),
    Case(
        name="a generator from an async handler streams",
        code=python(
            "def parts():\n    yield 's'\n    yield 't'\n"
            "async def handler(p, c):\n    return parts()\n"
        ),
        exchanges=(Exchange(answer=b"st"), Exchange(answer=b"st")),
    ),
    Case(
        name="an empty stream is an empty answer",
        code=python("def handler(p, c):\n    return\n    yield\n"),
        exchanges=(Exchange(answer=b""),),
    ),
    Case(
        name="a stream that fails before its first chunk is an error answer",
        code=python("def handler(p, c):\n    raise ValueError('early')\n    yield\n"),
        exchanges=(Exchange(status=500, error={"type": "ValueError", "error": "early"}),),
    ),
    Case(
        name="a stream of something else is an error",
        code=python("def handler(p, c):\n    yield {'a': 1}\n"),
        exchanges=(Exchange(status=500, error={"error": "bytes or str, not dict"}),),
    ),
    Case(
        name="health and the root belong to the platform",
        code=ECHO,
        exchanges=(
            Exchange(method="GET", path="/healthz", answer=b"ok\n"),
            Exchange(method="GET", path="/healthz?deep=1", answer=b"ok\n"),
            Exchange(method="HEAD", path="/healthz", answer=b""),
            Exchange(method="GET", path="/", answer=b"ok\n"),
        ),
    ),
    Case(
        name="every other verb and path reaches the handler",
        code=ECHO,
        exchanges=(
            Exchange(method="POST", path="/healthz", body=b"1", answer=b"1"),
            Exchange(method="GET", path="/things?x=1", answer=b""),
            Exchange(method="PUT", path="/", body=b"2", answer=b"2"),
            Exchange(method="DELETE", path="/a/b", answer=b""),
            Exchange(method="HEAD", path="/a", answer=b""),
            Exchange(method="PURGE", path="/a", answer=b""),
        ),
    ),
    Case(
        name="modules beside the handler can be imported",
        code=python(
            "import helper\ndef handler(p, c):\n    import late\n    return helper.A + late.B\n",
            helper="A = 'a'\n",
            late="B = 'b'\n",
        ),
        exchanges=(Exchange(answer=b"ab"),),
    ),
    Case(
        name="state of a module lives between requests",
        code=python(
            "count = 0\ndef handler(p, c):\n    global count\n    count += 1\n"
            "    return str(count)\n"
        ),
        exchanges=(Exchange(answer=b"1"), Exchange(answer=b"2"), Exchange(answer=b"3")),
    ),
    Case(
        name="context variables do not leak between requests",
        code=python(
            "import contextvars\nseen = contextvars.ContextVar('seen', default='clean')\n"
            "def handler(p, c):\n    before = seen.get()\n    seen.set('dirty')\n"
            "    return before\n"
        ),
        exchanges=(Exchange(answer=b"clean"), Exchange(answer=b"clean")),
    ),
)
