"""Every example deploys as it stands and answers what its page promises."""

import json
from collections.abc import Callable

import pytest
from tests.e2e.server import EXAMPLES, Server

CASES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "hello": ('{"name": "Ada"}', lambda out: json.loads(out)["greeting"] == "Hello, Ada!"),
    "async": ('{"seconds": 0.5}', lambda out: 0.5 <= json.loads(out)["took"] < 1.5),
    "streaming": ("3", lambda out: out == "1\n2\n3\n"),
    "background-work": ('{"steps": 2}', lambda out: json.loads(out)["steps"] == 2),
    "text-stats": (
        "to be or not to be",
        lambda out: (
            json.loads(out)
            == {
                "words": 6,
                "distinct": 4,
                "size": "18 Bytes",
                "top": [["to", 2], ["be", 2], ["or", 1]],
            }
        ),
    ),
}


def test_every_example_is_tried() -> None:
    assert set(CASES) == {path.name for path in EXAMPLES.iterdir() if path.is_dir()}


@pytest.mark.parametrize("name", CASES)
def test_example(server: Server, name: str) -> None:
    payload, is_right = CASES[name]
    app = f"example-{name}"
    done = server.cli("app", "deploy", app, "--code", str(EXAMPLES / name))
    assert done.returncode == 0, f"{done.stderr}\n{server.words()}"
    assert done.stdout.startswith(f"http://{server.host_of(app)}")
    called = server.cli("invoke", app, "--payload", payload)
    assert called.returncode == 0, called.stderr
    assert is_right(called.stdout), called.stdout
