"""What Alembic runs around the migrations; the connection comes from `upgrade`."""

from __future__ import annotations

from alembic import context

from batchwright.store.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,  # SQLite can, though Alembic does not expect it
)
with context.begin_transaction():
    context.run_migrations()
