"""Alembic's entry point: runs the migrations on the connection that the store passes in."""

from __future__ import annotations

from alembic import context

from backend.store.models import Base

connection = context.config.attributes["connection"]
# No batch mode: it recreates tables and drops the old ones, and SQLite then deletes the rows that refer to them.
context.configure(connection=connection, target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
