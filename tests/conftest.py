"""What every tier shares: how examples are made, and fixtures of `tests/support`."""

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# Tests import each other as `tests.…` whatever the folder pytest was started from.
sys.path.insert(0, str(Path(__file__).parents[1]))

# How fast examples are made says something about the machine, nothing about the code. The same
# examples each time: what fails here fails everywhere. To look for others:
# pytest --hypothesis-profile=search
settings.register_profile(
    "ignite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", settings.get_profile("ignite"), derandomize=False)
settings.load_profile("ignite")

pytest_plugins = [
    "tests.support.servers",
    "tests.support.postgres",
    "tests.support.openbao",
]
