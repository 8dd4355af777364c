"""Tests here run in virtual time."""

from tests.fakes.clock import virtual_loops as pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
