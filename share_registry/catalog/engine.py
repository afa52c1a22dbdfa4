"""Engines: how each database is opened.

Transactions are begun by us, not by the driver: the drivers' defaults lose updates silently
(SQLite) or say too little.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, Final, TypeVar
from urllib.parse import quote

from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import NoSuchModuleError
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from share_registry.errors import CatalogError

_LOG: Final = logging.getLogger(__name__)
_WRITES: Final = "share_registry_writes"
# How long a transaction waits for the locks of others
WAIT_S: Final = 30.0
# How long a reader does, before it answers without the database
BRIEF_S: Final = 0.5
_wait_s: Final = ContextVar("wait_s", default=WAIT_S)
_STATEMENT_S: Final = 120
# Key of the advisory locks of a catalog ("SHAREREG")
_LOCK: Final = 0x5348_4152_4552_4547
_LOCK_ALL: Final = text("SELECT pg_advisory_xact_lock(:key)")
_LOCK_SPACE: Final = text(
    "SELECT pg_advisory_xact_lock_shared(:key),"
    " pg_advisory_xact_lock(hashtextextended(:space, :key))"
)
# First SQLite release without the WAL-reset corruption
_SAFE_WAL: Final = (3, 51, 3)
_JOURNAL: Final = "wal" if sqlite3.sqlite_version_info >= _SAFE_WAL else "delete"
_PRAGMAS: Final = (
    "PRAGMA foreign_keys=ON",
    "PRAGMA synchronous=FULL",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
    # what a purge takes out of rows is not left in free pages
    "PRAGMA secure_delete=ON",
)

Bind = TypeVar("Bind", Engine, Connection)


class Mode(StrEnum):
    """What a catalog may be opened for."""

    READ = "r"
    WRITE = "w"
    CREATE = "c"


def engine_of(url: URL, *, mode: Mode) -> Engine:
    """Return the engine of a checked URL; nothing is opened yet.

    Raises CatalogError where the driver is not installed.
    """
    return _sqlite(url, mode) if url.get_backend_name() == "sqlite" else _postgresql(url, mode)


def memory_engine(original: sqlite3.Connection | None = None) -> Engine:
    """Return the engine of a SQLite database in memory.

    One connection, to be used by one thread at a time.

    Args:
        original: In a transaction that reads: what it reads is copied, 3 ms for 10 MB.
    """

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        if original is not None:
            original.backup(connection)
        return _prepared(connection)

    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)
    if original is not None:
        # while the original can be read
        engine.connect().close()
    return _with_own_begin(engine)


def for_transactions(bind: Bind, *, write: bool) -> Bind:
    """Return an engine or connection for transactions that write, or do not."""
    return bind.execution_options(**{_WRITES: write})


@contextmanager
def waiting(wait_s: float) -> Iterator[None]:
    """Let transactions that begin in a block wait so long for the locks of others."""
    token = _wait_s.set(wait_s)
    try:
        yield
    finally:
        _wait_s.reset(token)


def take_write_lock(connection: Connection, space: str | None) -> None:
    """Let one transaction at a time write, to a space or to anything, until this one ends.

    SQLite has such a lock, which BEGIN IMMEDIATE takes. PostgreSQL would let two transactions read
    the same head and find out at the first row that both change, when it is too late to tell a race
    that was lost from rows that are wrong.
    """
    if connection.dialect.name != "postgresql":
        return
    if (wait_s := _wait_s.get()) != WAIT_S:
        # 0 would be for ever
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, round(wait_s * 1000))}")
    if space is None:
        connection.execute(_LOCK_ALL, {"key": _LOCK})
    else:
        connection.execute(_LOCK_SPACE, {"key": _LOCK, "space": space})


def warn_if_unsafe(connection: Connection) -> None:
    """Log a warning where the PostgreSQL server may lose acknowledged rows (the store does not)."""
    for setting in ("fsync", "synchronous_commit"):
        if connection.exec_driver_sql(f"SHOW {setting}").scalar() == "off":
            _LOG.warning(
                "PostgreSQL runs with %s=off: after a crash the catalog may lag behind the store; "
                "`share-registry rebuild` repairs it.",
                setting,
            )


def _sqlite(url: URL, mode: Mode) -> Engine:
    access = {Mode.READ: "ro", Mode.WRITE: "rw", Mode.CREATE: "rwc"}[mode]
    location = f"file:{quote(url.database or '')}?mode={access}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            location,
            uri=True,
            isolation_level=None,
            timeout=_wait_s.get(),
            check_same_thread=False,
        )
        return _prepared(connection, journal=None if mode is Mode.READ else _JOURNAL)

    return _with_own_begin(create_engine(url, creator=connect, poolclass=NullPool))


def _prepared(connection: sqlite3.Connection, *, journal: str | None = None) -> sqlite3.Connection:
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        if (
            journal is not None
            and connection.execute("PRAGMA journal_mode").fetchone()[0] != journal
        ):
            connection.execute(f"PRAGMA journal_mode={journal}")
    except BaseException:
        connection.close()
        raise
    return connection


def _with_own_begin(engine: Engine) -> Engine:
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if (wait_s := _wait_s.get()) != connection.info.setdefault(_wait_s.name, wait_s):
            # a connection that is kept waits as each transaction says
            connection.exec_driver_sql(f"PRAGMA busy_timeout={round(wait_s * 1000)}")
            connection.info[_wait_s.name] = wait_s
        if connection.get_execution_options().get(_WRITES):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("BEGIN")
            # BEGIN alone takes no snapshot: what is in the way is to be seen here, not later
            connection.exec_driver_sql("SELECT 1 FROM sqlite_master LIMIT 1").first()

    return engine


def _postgresql(url: URL, mode: Mode) -> Engine:
    try:
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=5,
            max_overflow=10,
            pool_timeout=WAIT_S,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
            hide_parameters=True,
        )
    except (ImportError, NoSuchModuleError) as error:
        raise CatalogError(
            "PostgreSQL needs the driver psycopg, which is not installed.",
            hint="pip install 'share-registry[postgres]'",
        ) from error
    event.listen(engine, "connect", _settings(mode))
    return engine


def _settings(mode: Mode) -> Callable[[Any, object], None]:
    commands = [
        f"SET lock_timeout = '{WAIT_S:.0f}s'",
        f"SET statement_timeout = '{_STATEMENT_S}s'",
        # a writer whose machine is gone must not keep the others waiting
        f"SET idle_in_transaction_session_timeout = '{_STATEMENT_S}s'",
    ]
    if mode is Mode.READ:
        commands.append("SET default_transaction_read_only = on")

    def connected(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            for command in commands:
                cursor.execute(command)
        connection.commit()

    return connected
