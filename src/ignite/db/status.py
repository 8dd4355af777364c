"""What runs of each app, as the controllers last saw it: read by GetAppState."""

from datetime import UTC, datetime

from sqlalchemy import BigInteger, Integer, SmallInteger, String, bindparam, select, text
from sqlalchemy.dialects.postgresql import JSONB

from ignite.db import tables
from ignite.db.connection import Connection, prepared
from ignite.domain.apps import AppStatus, DeploymentState, ObservedReplica

_status = tables.app_status

# Every cold start writes this once, so it is one statement, and its text is made once.
_RECORD = text(
    """
    WITH app AS (
        UPDATE apps SET state = :state, observed_generation = :generation
        WHERE id = :app_id AND generation = :generation
        RETURNING id
    )
    INSERT INTO app_status
        (app_id, desired_replicas, replicas, error, error_reason, updated_at)
    SELECT id, :desired_replicas, :replicas, :error, :error_reason, now() FROM app
    ON CONFLICT (app_id) DO UPDATE SET
        desired_replicas = excluded.desired_replicas,
        replicas = excluded.replicas,
        error = excluded.error,
        error_reason = excluded.error_reason,
        updated_at = excluded.updated_at
    RETURNING app_id
    """
).bindparams(
    bindparam("app_id", type_=BigInteger),
    bindparam("generation", type_=BigInteger),
    bindparam("state", type_=SmallInteger),
    bindparam("desired_replicas", type_=Integer),
    bindparam("replicas", type_=JSONB),
    bindparam("error", type_=String),
    bindparam("error_reason", type_=String),
)
_PREPARED_RECORD = prepared(_RECORD)
_GET = prepared(select(_status).where(_status.c.app_id == bindparam("app_id")))


class AppStatusStore:
    """Reads and writes app statuses of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(self, app_id: int) -> AppStatus:
        """Return the last status; an empty one before the first."""
        row = await self._connection.execute(_GET, {"app_id": app_id})
        found = row.one_or_none()
        if found is None:
            return AppStatus()
        return AppStatus(
            desired_replicas=found["desired_replicas"],
            replicas=tuple(
                ObservedReplica(
                    id=replica["id"],
                    version=replica["version"],
                    state=replica["state"],
                    started_at=datetime.fromtimestamp(replica["started_at_ms"] / 1000, UTC),
                )
                for replica in found["replicas"]
            ),
            error=found["error"],
            error_reason=found["error_reason"],
        )

    async def record(
        self, app_id: int, generation: int, state: DeploymentState, status: AppStatus
    ) -> bool:
        """Write where an app stands and that `generation` has been made so.

        False, and nothing is written, when the app has another generation by now, or is gone.
        """
        done = await self._connection.execute(
            _PREPARED_RECORD,
            {
                "app_id": app_id,
                "generation": generation,
                "state": int(state),
                **_columns(status),
            },
        )
        return done.one_or_none() is not None


def _columns(status: AppStatus) -> dict[str, object]:
    return {
        "desired_replicas": status.desired_replicas,
        "replicas": [
            {
                "id": replica.id,
                "version": replica.version,
                "state": replica.state,
                "started_at_ms": int(replica.started_at.timestamp() * 1000),
            }
            for replica in status.replicas
        ],
        "error": status.error,
        "error_reason": status.error_reason,
    }
