"""A catalog as a resource: open it, run transactions on it, close it.

It may be shared by threads, and used on after a fork, which waits for the transactions of other
threads. It is never the truth: whatever happens here can be made good by a rebuild from the store.
"""

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from threading import RLock, local
from typing import Final, Self

from sqlalchemy import select
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.orm import Session

from share_registry.catalog import schema
from share_registry.catalog.database_errors import hide_password, parse_url, translate_errors
from share_registry.catalog.engine import (
    BRIEF_S,
    WAIT_S,
    Mode,
    engine_of,
    for_transactions,
    memory_engine,
    take_write_lock,
    waiting,
    warn_if_unsafe,
)
from share_registry.catalog.overlay import lay_over
from share_registry.catalog.tables import IdentityRow
from share_registry.errors import CatalogError, ShareRegistryError, ensure
from share_registry.outside.files import Kind, Outside
from share_registry.outside.forks import transaction_on

_MEMORY: Final = "sqlite://"
_STORE: Final = select(IdentityRow.store)


class _PerThread(local):
    # whether a thread keeps a connection over its transactions, which, and whether in one of them
    keeps = False
    connection: Connection | None = None
    in_transaction = False


class Catalog:
    """An open catalog. Make one with `Catalog.open` or `Catalog.in_memory`.

    Attributes:
        is_in_memory: Whether it vanishes with the process.
        store_id: The uuid of the store that it is an index of.
    """

    def __init__(self, engine: Engine, *, url: URL, mode: Mode, in_memory: bool = False) -> None:
        self._reading = engine
        self._writing = for_transactions(engine, write=True)
        self._url = url
        self._mode = mode
        self.is_in_memory = in_memory
        self._lock = RLock()
        self._process = os.getpid()
        self._thread = _PerThread()
        self._overlay: Callable[[Session], None] | None = None
        self.store_id: str | None = None
        if in_memory:
            # once no thread uses it any more
            weakref.finalize(self, engine.dispose)

    @classmethod
    def open(
        cls, url: str, *, mode: str = "c", store_id: str | None = None, wait_s: float = WAIT_S
    ) -> Self:
        """Open a catalog and check its schema.

        Args:
            url: `sqlite:///path` or `postgresql+psycopg://...`.
            mode: "r" never writes, not even a journal; "w" expects a catalog; "c" makes one where
                there is none.
            store_id: Which store it is an index of; written where it says nothing yet and may be
                written. Whether it fits is the caller's to check.
            wait_s: How long to wait until it can be read.

        Raises:
            InvalidInputError: the URL is malformed or of an unsupported database.
            CatalogError: it cannot be used as it is. With mode "r" that covers a missing file, an
                unreachable server and any other schema version: a reader can go on with
                `Catalog.in_memory` and a rebuild.
            ConflictError: locked for too long or, with mode "r", left in the middle of a COMMIT.
        """
        catalog = cls._unchecked(url, Mode(mode))
        if catalog._mode is Mode.CREATE and not catalog.is_on_server:
            # SQLite would give it to its owner alone; where it cannot be made, SQLite says why
            with suppress(ShareRegistryError):
                Outside().make_file(Path(catalog._url.database or ""))
        try:
            catalog._check(store_id, wait_s)
        except BaseException:
            catalog.close()
            raise
        return catalog

    @classmethod
    def _unchecked(cls, url: str, mode: Mode) -> Self:
        parsed = parse_url(url)
        return cls(engine_of(parsed, mode=mode), url=parsed, mode=mode)

    @classmethod
    def in_memory(cls, store_id: str | None = None) -> Self:
        """Return an empty catalog that lives as long as this process."""
        url = make_url(_MEMORY)
        catalog = cls(memory_engine(), url=url, mode=Mode.CREATE, in_memory=True)
        with translate_errors(url), catalog._writing.begin() as connection:
            schema.create(connection)
        catalog._identify(store_id)
        return catalog

    def overlaid(self, write: Callable[[Session], None]) -> Self:
        """Return a catalog that also says what `write` writes; the database is left as it is.

        From SQLite that is a copy in memory, into which more can be written. PostgreSQL is asked
        anew in every transaction: `write` runs first, into temporary tables, and all is taken back
        at the end. So what `write` raises is raised by `begin`, and CatalogError where the server
        grants no temporary tables.

        Raises ConflictError where another process has kept it from being read for half a second.
        """
        if not self.is_on_server:
            catalog = self._copy_to_memory()
            with catalog.begin(write=True) as session:
                write(session)
        else:
            engine = self._reading.execution_options(isolation_level="REPEATABLE READ")
            catalog = type(self)(engine, url=self._url, mode=Mode.READ)
            catalog._overlay, catalog.store_id = write, self.store_id
        return catalog

    @contextmanager
    def begin(
        self, *, write: bool = False, space: str | None = None, wait_s: float = WAIT_S
    ) -> Iterator[Session]:
        """Begin a transaction.

        It is committed at the end of the block, rolled back by an exception.

        Args:
            write: Takes the write lock at once, so that what was read is still true when it is
                written.
            space: The only space that is written to: on PostgreSQL, writers of others go on.
            wait_s: How long to wait for the locks of other processes.

        Raises:
            CatalogError: the database cannot be used, or was opened for reading and `write` is
                asked.
            ConflictError: another process holds a lock too long or wrote the same rows.
        """
        if write and self._mode is Mode.READ:
            raise CatalogError(
                f"catalog {self.safe_url} is open for reading.", hint="Open with mode 'w'."
            )
        self._notice_fork()
        with (
            self._alone(),
            translate_errors(self._url),
            self._bind(write=write, wait_s=wait_s) as bind,
            Session(bind, expire_on_commit=False) as session,
            session.begin(),
        ):
            with waiting(wait_s):
                connection = session.connection()
                if write:
                    take_write_lock(connection, space)
            if self._overlay is None:
                yield session
            else:
                lay_over(connection)
                self._overlay(session)
                yield session
                session.rollback()

    @contextmanager
    def keep_connection(self) -> Iterator[None]:
        """Keep one connection of this thread to a SQLite file over the transactions of a block.

        To open it and read its schema takes as long as ten statements. Between blocks none is open,
        so that a file put in its place is seen, and none survives a fork.
        """
        if self._thread.keeps or self.is_on_server or self.is_in_memory:
            yield
            return
        self._notice_fork()
        thread = self._thread
        thread.keeps = True
        try:
            yield
        finally:
            connection, thread.keeps, thread.connection = thread.connection, False, None
            if connection is not None:
                connection.close()

    @property
    def is_overlaid(self) -> bool:
        """Whether every transaction lays over it what it lacks, which may fail."""
        return self._overlay is not None

    @property
    def is_on_server(self) -> bool:
        """Whether a server keeps it, for several machines."""
        return self._url.get_backend_name() == "postgresql"

    @property
    def safe_url(self) -> str:
        """The URL without its password."""
        return hide_password(self._url)

    @property
    def schema_version(self) -> str | None:
        """The version of its schema, None where the database holds no catalog."""
        with self.begin() as session:
            return schema.version_of(session.connection())

    def close(self) -> None:
        """Close every connection."""
        self._notice_fork()
        self._reading.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Catalog({self.safe_url!r}, mode={self._mode.value!r})"

    def _check(self, store_id: str | None, wait_s: float) -> None:
        with self.keep_connection():
            with self.begin(wait_s=wait_s) as session:
                version = schema.version_of(session.connection())
            if version is None and self._mode is Mode.CREATE:
                self._migrate()
            else:
                schema.check(version)
            self._identify(store_id, wait_s)
        if self._mode is not Mode.READ and self.is_on_server:
            with self.begin() as session:
                warn_if_unsafe(session.connection())

    def _migrate(self) -> None:
        with self.begin(write=True) as session:
            schema.migrate(session.connection())

    def _identify(self, store_id: str | None, wait_s: float = WAIT_S) -> None:
        """Read which store it is an index of.

        Say so where it says nothing yet and may be written.
        """
        with self.begin(wait_s=wait_s) as session:
            self.store_id = session.scalar(_STORE)
        if self.store_id is None and store_id is not None and self._mode is not Mode.READ:
            with self.begin(write=True) as session:
                # another process may have been faster
                self.store_id = session.scalar(_STORE)
                if self.store_id is None:
                    session.execute(IdentityRow.table.insert(), [{"store": store_id}])
                    self.store_id = store_id

    def _alone(self) -> AbstractContextManager[object]:
        """Return what keeps threads apart in memory, and forks from transactions on a file."""
        if self.is_in_memory:
            return self._lock
        return nullcontext() if self.is_on_server else transaction_on(str(self._url.database))

    def _copy_to_memory(self) -> Self:
        with self.begin(wait_s=BRIEF_S) as session:
            # before it is copied: to read takes the lock that keeps writers from changing it
            store_id = session.scalar(_STORE)
            engine = memory_engine(session.connection().connection.driver_connection)
        catalog = type(self)(engine, url=make_url(_MEMORY), mode=Mode.CREATE, in_memory=True)
        catalog.store_id = store_id
        return catalog

    @contextmanager
    def _bind(self, *, write: bool, wait_s: float) -> Iterator[Engine | Connection]:
        """Yield what a transaction runs on.

        The connection that is kept, unless a transaction around this one is on it.
        """
        thread = self._thread
        if not thread.keeps or thread.in_transaction:
            yield self._writing if write else self._reading
            return
        if thread.connection is None:
            with waiting(wait_s):
                thread.connection = self._reading.connect()
        connection, thread.in_transaction = thread.connection, True
        try:
            yield for_transactions(connection, write=write)
        except BaseException:
            # a COMMIT that failed has left the connection in its transaction
            connection.connection.rollback()
            raise
        finally:
            thread.in_transaction = False

    def _notice_fork(self) -> None:
        """Leave the parent's connections to the parent.

        Memory is a copy of our own, in which no other thread goes on.
        """
        if self._process == os.getpid():
            return
        self._process, self._lock, self._thread = os.getpid(), RLock(), _PerThread()
        if self.is_in_memory:
            with closing(self._reading.raw_connection()) as connection:
                connection.rollback()
        else:
            self._reading.dispose(close=False)


def check_reachable(url: str, outside: Outside) -> None:
    """Check that a new store can have its catalog at a URL; nothing is made there.

    Raises:
        InvalidInputError: the URL is malformed or of an unsupported database.
        CatalogError: the server or the directory of a SQLite file is not there, the schema is not
            the newest, or the catalog is of another store.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        file = Path(parsed.database or "")
        ensure(
            outside.kind(outside.resolved(file.parent)) is Kind.DIRECTORY,
            CatalogError(
                f"catalog {hide_password(parsed)}: directory {str(file.parent)!r} is not there.",
                hint="Create the directory, or name another file.",
            ),
        )
        if not outside.exists(file):
            return
    with Catalog._unchecked(url, Mode.READ) as catalog:
        version = catalog.schema_version
        if version is None:
            return
        schema.check(version)
        catalog._identify(None)
        if catalog.store_id is not None:
            raise CatalogError(
                f"catalog {catalog.safe_url} is of store {catalog.store_id}, expected none yet: "
                "the store is new.",
                hint="Give the store that belongs to this catalog, or an empty database.",
            )


def absolute_url(url: str, outside: Outside) -> str:
    """Return a URL that a change of the working directory does not move. May hold a password."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite":
        return url
    file = outside.absolute(Path(parsed.database or ""))
    return parsed.set(database=str(file)).render_as_string(hide_password=False)


def upgrade(url: str) -> str:
    """Bring a catalog to the newest schema, creating it where there is none; return that version.

    Raises InvalidInputError, CatalogError, ConflictError.
    """
    with Catalog._unchecked(url, Mode.CREATE) as catalog:
        catalog._migrate()
    return schema.NEWEST


def current(url: str) -> str | None:
    """Return the schema version of a catalog, None where there is none.

    Raises InvalidInputError, CatalogError, ConflictError.
    """
    with Catalog._unchecked(url, Mode.READ) as catalog:
        return catalog.schema_version


def check(url: str) -> str:
    """Check that this release can work with a catalog; return the version of its schema.

    Raises InvalidInputError, CatalogError, ConflictError.
    """
    schema.check(current(url))
    return schema.NEWEST
