"""Indexes of two look-ups: equal code built before, and apps whose wishes are not yet observed."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = '5s'")
        op.execute("SET statement_timeout = '600s'")
        op.create_index(
            "ix_builds_artifact",
            "builds",
            ["organization", "code_hash"],
            postgresql_where=sa.text("state = 'succeeded'"),
            postgresql_concurrently=True,
            if_not_exists=True,
        )
        op.create_index(
            "ix_apps_behind",
            "apps",
            ["updated_at"],
            postgresql_where=sa.text("observed_generation < generation"),
            postgresql_concurrently=True,
            if_not_exists=True,
        )
        op.execute("RESET lock_timeout")
        op.execute("RESET statement_timeout")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    op.drop_index("ix_apps_behind", table_name="apps")
    op.drop_index("ix_builds_artifact", table_name="builds")
