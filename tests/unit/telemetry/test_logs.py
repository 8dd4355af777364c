"""Logs: one JSON object a line, and no credential in any of its places."""

import io
import json
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from pydantic import SecretStr

from ignite.telemetry.logs import REDACTED, JsonFormatter, configure, redact

JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzYS0xIn0.c2lnbmF0dXJl_-x"
STORE_TOKEN = "s." + "TPOfSxKgvLkH5FihLAWuVopQ"
BATCH_TOKEN = "hvb." + "AAAAAQKr2kV4X0f1c7d0b9e8"

Emit = Callable[..., dict[str, Any]]


@pytest.fixture
def emit() -> Emit:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("api", lambda: "req_1"))
    logger = logging.Logger("ignite.sample")  # noqa: LOG001 - apart from all others
    logger.addHandler(handler)

    def write(message: str, *args: object, **more: Any) -> dict[str, Any]:
        logger.warning(message, *args, **more)
        (line,) = stream.getvalue().splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    return write


def test_line_has_time_level_role_logger_message_request_and_facts(emit: Emit) -> None:
    line = emit("child is up", extra={"child": "postgres", "delay_secs": 0.5, "pids": [1, 2]})
    assert line.pop("ts").endswith("+00:00")
    assert line == {
        "level": "warning",
        "role": "api",
        "logger": "ignite.sample",
        "message": "child is up",
        "request_id": "req_1",
        "child": "postgres",
        "delay_secs": 0.5,
        "pids": [1, 2],
    }


@pytest.mark.parametrize(
    "secret",
    [JWT, STORE_TOKEN, BATCH_TOKEN, "postgresql://ignite:0a1b2c@/ignite", "Bearer abcdef123456"],
)
def test_credential_is_redacted_wherever_it_stands(emit: Emit, secret: str) -> None:
    try:
        raise ValueError(f"bad header {secret!r}")
    except ValueError:
        text = json.dumps(
            emit(
                f"in the message {secret}",
                extra={"plain": secret, "deep": {"list": [secret]}, "object": ValueError(secret)},
                exc_info=True,
            )
        )
    kept = secret.removeprefix("Bearer ").removeprefix("postgresql://").removesuffix("@/ignite")
    assert kept not in text
    assert text.count(REDACTED) == 5


def test_value_under_a_telling_name_is_redacted_whatever_it_looks_like(emit: Emit) -> None:
    line = emit(
        "x", extra={"password": "p", "access_token": "t", "headers": {"Authorization": "a"}}
    )
    assert line["password"] == line["access_token"] == REDACTED
    assert line["headers"] == {"Authorization": REDACTED}


def test_secret_of_settings_is_never_shown(emit: Emit) -> None:
    line = emit("x", extra={"setting": SecretStr("hunter2")})
    assert "hunter2" not in json.dumps(line)


@pytest.mark.parametrize(
    "text",
    ["org-1.apps.localhost", "sa.name", "https://host:8080/path@x", "s.short", "eyJ", "user:x@y"],
)
def test_plain_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_line_ends_cannot_forge_a_second_line(emit: Emit) -> None:
    assert emit('a\n{"level": "error"}', extra={"path": "b\nc"})["path"] == "b\nc"


def test_configure_sets_level_and_replaces_earlier_handlers() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    current: ContextVar[str] = ContextVar("current", default="req_2")
    first, second = io.StringIO(), io.StringIO()
    try:
        configure("debug", "api", stream=first)
        configure("info", "gateway", request_id=current.get, stream=second)
        logging.getLogger("ignite.x").debug("hidden")
        logging.getLogger("ignite.x").info("shown")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert first.getvalue() == ""
    line = json.loads(second.getvalue())
    assert (line["message"], line["role"], line["request_id"]) == ("shown", "gateway", "req_2")
