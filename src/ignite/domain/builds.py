"""Builds: one compile of some code into an artifact. States, legal moves, results."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.versions import Code


class BuildState(StrEnum):
    """A build ends in one of the last three."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Tell whether no move leads out."""
        return not MOVES[self]


MOVES: Mapping[BuildState, frozenset[BuildState]] = {
    BuildState.PENDING: frozenset({BuildState.RUNNING, BuildState.CANCELLED}),
    # A lease that ran out puts a build back: RUNNING → RUNNING under another lease.
    BuildState.RUNNING: frozenset(
        {BuildState.RUNNING, BuildState.SUCCEEDED, BuildState.FAILED, BuildState.CANCELLED}
    ),
    BuildState.SUCCEEDED: frozenset(),
    BuildState.FAILED: frozenset(),
    BuildState.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One compile. `id` is also the `build_id` of the wire; `deploy_id` names its live log."""

    id: str
    deploy_id: str
    app_id: int
    organization: OrganizationName
    organization_id: OrganizationId
    app_name: str
    code: Code
    state: BuildState
    artifact: str
    error: str
    error_reason: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLine:
    """One line of a build's log. `number` counts from 1."""

    number: int
    at: datetime
    stream: str
    message: str
