"""Every case of the table, with every language that has code for it."""

import json
from collections.abc import Iterator

import pytest
from tests.conformance.cases import CASES, Case, Exchange
from tests.conformance.replicas import Answer, Replica, Replicas, pythons

from ignite.sandbox.interpreters import Interpreter


@pytest.fixture(params=pythons(), ids=lambda one: f"python-{one.minor}")
def python_replicas(request: pytest.FixtureRequest) -> Iterator[Replicas]:
    python: Interpreter = request.param
    made = Replicas(python)
    yield made
    made.close()


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name) for case in CASES if "python" in case.code]
)
def test_python(case: Case, python_replicas: Replicas) -> None:
    replica = python_replicas.start(case.code["python"])
    for exchange in case.exchanges:
        check(exchange, send(replica, exchange))


def send(replica: Replica, exchange: Exchange) -> Answer:
    return replica.request(
        exchange.method,
        exchange.path,
        iter(exchange.chunks) if exchange.chunks else exchange.body,
        exchange.headers,
    )


def check(exchange: Exchange, answer: Answer) -> None:
    assert answer.status == exchange.status, answer
    if exchange.content_type is not None:
        assert answer.headers["content-type"] == exchange.content_type
    if exchange.answer is not None:
        assert answer.body == exchange.answer
    if exchange.answer_json is not None:
        assert json.loads(answer.body) == exchange.answer_json
    if exchange.error is not None:
        found = json.loads(answer.body)
        assert found.keys() == {"error", "type", "traceback"}
        for key, text in exchange.error.items():
            assert text in found[key]
