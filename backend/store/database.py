"""The store's connection: SQLite in WAL mode or PostgreSQL, and the migrations that create its tables."""

from __future__ import annotations

import select
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, create_engine, event, make_url, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    DisconnectionError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from backend.private import private_file
from trajseg.errors import InputError, ServiceError, StoreError

BUSY_SECONDS = 60
"""How long SQLite waits for another writer; a backup tool may lock the file for half a minute."""
CONNECTIONS = 20
"""Connections kept open: each request thread may need one, and opening one takes longer than a query."""
MORE_CONNECTIONS = 20
MIGRATION_LOCK = 0x7472616A
"""Key of the PostgreSQL advisory lock that lets only one process migrate at a time."""


class Database:
    """Sessions on one database; safe to share between threads.

    Args:
        url: an SQLAlchemy URL of SQLite or PostgreSQL; `postgres://` and `postgresql://` mean psycopg 3.

    Raises InputError for any other URL; methods raise ServiceError if the database does not answer.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
        except (ArgumentError, ValueError) as error:
            raise InputError(
                "DATABASE_URL is not a database URL.",
                "Write sqlite:///file or postgresql://user:password@host/name.",
            ) from error
        if self.url.drivername in ("postgres", "postgresql"):
            self.url = self.url.set(drivername="postgresql+psycopg")
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if not self.is_sqlite and self.url.get_backend_name() != "postgresql":
            raise InputError(
                f"DATABASE_URL names {self.url.get_backend_name()!r}, which trajseg cannot use.",
                "Use SQLite or PostgreSQL.",
            )
        self.engine = _sqlite_engine(self.url) if self.is_sqlite else _postgres_engine(self.url)
        # In SQLite a read transaction sees one state of the data. In PostgreSQL each statement has its own snapshot
        # anyway, and a transaction would cost two round trips.
        reads = self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reads = sessionmaker(reads, expire_on_commit=False)
        self._writes = sessionmaker(self.engine.execution_options(writes=True), expire_on_commit=False)
        self._shared = threading.local()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read-only session."""
        shared: Session | None = getattr(self._shared, "session", None)
        if shared is not None:
            yield shared
            return
        with _reachable(self), self._reads() as session:
            yield session

    @contextmanager
    def reads(self) -> Iterator[None]:
        """All reads of this thread inside the block share one session. Nothing is written inside."""
        with self.read() as session:
            before, self._shared.session = getattr(self._shared, "session", None), session
            try:
                yield
            finally:
                self._shared.session = before

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction, committed at the end, rolled back on an exception."""
        with _reachable(self), self._writes.begin() as session:
            yield session

    def migrate(self) -> None:
        """Upgrades the tables to this version; several processes may call it at once."""
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        with _reachable(self), self.engine.execution_options(writes=True).begin() as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise ServiceError(
                    f"The store at {self.name} was created by a newer version of trajseg ({error}).",
                    "Upgrade trajseg, or point DATABASE_URL at another database.",
                ) from error

    @property
    def name(self) -> str:
        """The URL without its password, for messages."""
        return self.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()


@contextmanager
def _reachable(database: Database) -> Iterator[None]:
    try:
        yield
    except (DataError, OverflowError) as error:
        # The value is not quoted: it may be anything.
        raise InputError(
            "The request has a value that the database cannot hold, such as a NUL character or a number too large.",
            "Remove it from the request.",
        ) from error
    except (IntegrityError, ProgrammingError):
        # Bugs of ours are raised as they are; the rest is the database's state: down, read-only, a damaged file.
        raise
    except (DatabaseError, InterfaceError) as error:
        raise StoreError(
            f"The store at {database.name} does not answer ({error.orig}).",
            "Check DATABASE_URL, that the server runs and is no standby, that the disk is writable and not full, and "
            "that the file is not damaged.",
        ) from error
    except PoolTimeoutError as error:
        raise StoreError(
            f"The store at {database.name} is too busy: all its connections are in use.",
            "Try again later; if this persists, look for a lock held in the database.",
        ) from error


def _postgres_engine(url: URL) -> Engine:
    engine = create_engine(url, pool_size=CONNECTIONS, max_overflow=MORE_CONNECTIONS)

    @event.listens_for(engine, "checkout")
    def _replace(connection: Any, record: Any, proxy: Any) -> None:
        # Replaces a connection that the server has closed, or that a signal left in the middle of a statement. A ping
        # would find them too, for a round trip on each of the few statements of a request.
        if connection.info.transaction_status != TransactionStatus.IDLE or _has_news(connection.fileno()):
            raise DisconnectionError

    return engine


def _has_news(file: int) -> bool:
    """Whether a socket is readable: on an idle connection that means the server's last message, or the end."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _sqlite_engine(url: Any) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InputError("DATABASE_URL does not name an SQLite file.", "Write sqlite:///path/to/file.db.")
    # SQLite gives its side files the same mode as the main file.
    private_file(Path(url.database).resolve())
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        pool_size=CONNECTIONS,
        max_overflow=MORE_CONNECTIONS,
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, record: Any) -> None:
        # The driver must not begin transactions itself: `_begin` does, and knows which ones write.
        connection.isolation_level = None
        cursor = connection.cursor()
        # Switching a new file to WAL fails at once, despite the busy timeout, if another process is doing the same.
        waiting = Retrying(
            retry=retry_if_exception(_is_busy),
            wait=wait_random(0.01, 0.1),
            stop=stop_after_delay(BUSY_SECONDS),
            reraise=True,
        )
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            waiting(cursor.execute, f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads before it writes would fail at once, despite the busy timeout, if another writer came
        # in between. Taking the write lock at the start makes it wait instead.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
