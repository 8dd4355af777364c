"""Fixtures of the conformance suite."""

from collections.abc import Iterator

import pytest
from tests.conformance.replicas import Replicas


@pytest.fixture
def replicas() -> Iterator[Replicas]:
    made = Replicas()
    yield made
    made.close()
