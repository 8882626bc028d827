"""What Alembic runs: the migrations, on the connection that was handed over."""

from __future__ import annotations

from alembic import context

from tellapart.server.records import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter columns otherwise
)
with context.begin_transaction():
    context.run_migrations()
