"""What an artifact was compiled for, beside it: the machine's default may change meanwhile."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    for table in ("versions", "builds"):
        op.add_column(
            table, sa.Column("runtime_version", sa.Text(), server_default="", nullable=False)
        )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in ("builds", "versions"):
        op.drop_column(table, "runtime_version")
