"""What runs of each app, as the controllers last saw it: read by GetAppState."""

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ignite.db import tables
from ignite.domain.apps import AppStatus, ObservedReplica

_status = tables.app_status


class AppStatusStore:
    """Reads and writes app statuses of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, app_id: int) -> AppStatus:
        """Return the last status; an empty one before the first."""
        row = await self._connection.execute(select(_status).where(_status.c.app_id == app_id))
        found = row.mappings().one_or_none()
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

    async def put(self, app_id: int, status: AppStatus) -> None:
        """Replace the status of an app."""
        columns = {
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
            "updated_at": func.now(),
        }
        await self._connection.execute(
            insert(_status)
            .values(app_id=app_id, **columns)
            .on_conflict_do_update(index_elements=["app_id"], set_=columns)
        )
