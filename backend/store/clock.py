"""The database's clock, shared by all workers and backends; leases are measured by it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import FunctionElement

from backend.store.models import UtcDateTime


class DatabaseNow(FunctionElement[datetime]):
    """The current time on the database's clock, in UTC."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(DatabaseNow, "sqlite")
def _sqlite_now(element: Any, compiler: Any, **kw: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(DatabaseNow, "postgresql")
def _postgresql_now(element: Any, compiler: Any, **kw: Any) -> str:
    # now() would be the start of the transaction.
    return "clock_timestamp()"


def database_now(session: Session) -> datetime:
    """The database's current time: one clock for all workers and backends."""
    return session.execute(select(DatabaseNow())).scalar_one()
