"""The database's clock, by which leases are measured: one for all workers and backends."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import FunctionElement

from backend.store.models import UtcDateTime


class DatabaseNow(FunctionElement[datetime]):
    """The present time by the database's clock, in UTC."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(DatabaseNow, "sqlite")
def _sqlite_now(element: Any, compiler: Any, **kw: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(DatabaseNow, "postgresql")
def _postgresql_now(element: Any, compiler: Any, **kw: Any) -> str:
    # now() would be the beginning of the transaction.
    return "clock_timestamp()"


def database_now(session: Session) -> datetime:
    """The database's present time: one clock for all workers and backends, whatever their own clocks say."""
    return session.execute(select(DatabaseNow())).scalar_one()
