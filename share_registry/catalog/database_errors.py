"""The border to the database drivers: their errors become ours here, and nothing secret passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError as _DatabaseIntegrityError,
    TimeoutError as PoolTimeout,
)

from share_registry.errors import (
    CatalogError,
    ConflictError,
    ConnectionLostError,
    InvalidInputError,
    StoreError,
    ensure,
)

# PostgreSQL: serialization failure, deadlock, lock not available
_RETRY_STATES: Final = frozenset({"40001", "40P01", "55P03"})
# PostgreSQL: the server or an operator ends the connection
_LOST_STATES: Final = frozenset({"57P01", "57P02"})
# What libpq says of it, without a state
_LOST: Final = "server closed the connection"
_BUSY: Final = ("database is locked", "database table is locked", "database schema is locked")
# SQLite: a writer was killed in its COMMIT, and who only reads cannot take that back
_UNFINISHED: Final = frozenset({"SQLITE_READONLY_ROLLBACK", "SQLITE_READONLY_RECOVERY"})
# What SQLite says of the medium, not of the catalog
_FULL: Final = "disk is full"
_REBUILD: Final = "Remove the file and run `share-registry rebuild`: the store holds everything."
_HINTS: Final = {
    "disk is full": "Free some space and run it again.",
    "readonly": "Let whoever commits write the file and its directory (`chmod g+w` by the owner, "
    "where a group shares them); a registry opened with mode 'r' reads its store instead.",
    "not a database": _REBUILD,
    "malformed": _REBUILD,
    "unable to open": "Check that the file and its directory exist and may be read.",
    "no such table": "Run `share-registry db upgrade`.",
    "password": "Check the user and password of the catalog URL.",
    "does not exist": "Create the database, or check the catalog URL.",
    "refused": "Check that the database server runs and can be reached.",
}
_HINT: Final = (
    "Run `share-registry doctor` to see what the catalog answers; "
    "`share-registry rebuild` makes a new one from the store."
)
_URL_HINT: Final = (
    "Examples: sqlite:////data/catalog.sqlite, postgresql+psycopg://user@host/database."
)


def parse_url(text: str) -> URL:
    """Parse a catalog URL: SQLite or PostgreSQL through psycopg.

    Raises:
        InvalidInputError: not a URL, or of another database. The text is not repeated: it may hold
            a password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise InvalidInputError("catalog URL cannot be parsed.", hint=_URL_HINT) from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    ensure(
        url.drivername in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"),
        InvalidInputError(
            f"catalog of kind {url.drivername!r} is not supported, expected sqlite or postgresql.",
            hint=_URL_HINT,
        ),
    )
    ensure(
        url.get_backend_name() != "sqlite" or url.database,
        InvalidInputError("catalog URL names no SQLite file.", hint=_URL_HINT),
    )
    return url


@contextmanager
def translate_errors(url: URL) -> Iterator[None]:
    """Run a block and raise what the database says as our own errors.

    Raises:
        ConflictError: another process holds a lock too long or wrote the same rows, or every
            connection is in use; a retry may help.
        ConnectionLostError: the server ended the connection.
        StoreError: the disk is full.
        CatalogError: anything else.
    """
    try:
        yield
    except DBAPIError as error:
        raise _of_driver(error, url) from error
    except PoolTimeout as error:
        raise ConflictError(
            f"catalog {hide_password(url)}: every connection of this process is in use.",
            hint="Run it again, with fewer threads at a time.",
        ) from error


def without_password(text: str) -> str:
    """Return a catalog URL without its password, to be written down.

    Raises InvalidInputError as `parse_url`.
    """
    return parse_url(text)._replace(password=None).render_as_string(hide_password=False)


def hide_password(url: URL) -> str:
    """Return a URL for people: no password."""
    return url.render_as_string(hide_password=True)


def _of_driver(error: DBAPIError, url: URL) -> CatalogError | ConflictError | StoreError:
    text = _one_line(error.orig or error, url)
    state = getattr(error.orig, "sqlstate", None)
    if error.connection_invalidated or state in _LOST_STATES or _LOST in text:
        return ConnectionLostError(
            f"catalog {hide_password(url)}: the connection was lost: {text}.",
            hint="Run it again, with the same idempotency key if it commits.",
        )
    if isinstance(error, _DatabaseIntegrityError):
        return ConflictError(
            f"catalog {hide_password(url)} already holds other rows under these keys: {text}.",
            hint="Run it again; if it persists, run `share-registry rebuild`.",
        )
    is_busy = any(part in text for part in _BUSY)
    if is_busy or state in _RETRY_STATES:
        return ConflictError(
            f"catalog {hide_password(url)} is locked by another process: {text}.",
            hint="Run it again.",
        )
    if getattr(error.orig, "sqlite_errorname", None) in _UNFINISHED:
        return ConflictError(
            f"catalog {hide_password(url)}: a writer was killed in the middle of its COMMIT.",
            hint="Open it once with mode 'w', which takes the half of it back.",
        )
    hint = next((hint for part, hint in _HINTS.items() if part in text), _HINT)
    kind = StoreError if _FULL in text else CatalogError
    return kind(f"catalog {hide_password(url)}: {text}.", hint=hint)


def _one_line(error: BaseException, url: URL) -> str:
    text = " ".join(str(error).split())[:300].rstrip(".")
    password = url.password
    return text.replace(password, "***") if password else text
