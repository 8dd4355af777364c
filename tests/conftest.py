"""What every tier shares: how tests are spread over workers, and fixtures of `tests/support`."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Tests import each other as `tests.…` whatever the folder pytest was started from.
sys.path.insert(0, str(Path(__file__).parents[1]))

# How fast examples are made says something about the machine, nothing about the code.
settings.register_profile("ignite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ignite")

pytest_plugins = [
    "tests.support.servers",
    "tests.support.postgres",
    "tests.support.openbao",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests on one worker, so that what its fixtures start is started once.

    All tests that use the one real server go to one worker.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            whole = item.get_closest_marker("e2e") is not None
            name = "server" if whole else item.nodeid.partition("::")[0]
            item.add_marker(pytest.mark.xdist_group(name))
