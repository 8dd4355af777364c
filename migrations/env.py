"""Alembic's entry: runs the migrations over the connection that `ignite.db.migrate` hands in."""

from alembic import context

from ignite.db.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
