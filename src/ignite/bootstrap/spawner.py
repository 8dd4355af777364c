"""The spawner: replicas and compiles in their sandboxes. Keeps root."""

from ignite.spawner.main import components

__all__ = ["components"]
