"""The schema of a catalog: which version it has, and how it gets the newest one.

Where there is none it is made at once. Alembic and the migrations are loaded only when one is to be
changed.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from share_registry.catalog.tables import SCHEMA_TABLE, SCHEMA_VERSIONS, TABLES
from share_registry.errors import CatalogError, ensure

if TYPE_CHECKING:
    from alembic.config import Config

NEWEST: Final = SCHEMA_VERSIONS[-1]
_UPGRADE: Final = "Run `share-registry db upgrade`; the store is not touched by it."


def version_of(connection: Connection) -> str | None:
    """Return the schema version of a database, None where it holds no catalog."""
    if not connection.dialect.has_table(connection, SCHEMA_TABLE):
        return None
    version = connection.scalar(text(f"SELECT version_num FROM {SCHEMA_TABLE}"))
    return None if version is None else str(version)


def check(version: str | None) -> None:
    """Check that this release can work with a schema version. Raises CatalogError."""
    ensure(version is not None, CatalogError("the database holds no catalog.", hint=_UPGRADE))
    ensure(
        version in SCHEMA_VERSIONS,
        CatalogError(
            f"catalog has schema {version}, this release knows up to {NEWEST}.",
            hint="Upgrade share_registry.",
        ),
    )
    ensure(
        version == NEWEST,
        CatalogError(f"catalog has schema {version}, expected {NEWEST}.", hint=_UPGRADE),
    )


def migrate(connection: Connection) -> None:
    """Bring a database to the newest schema, in the transaction that the connection is in.

    That transaction has the write lock of the whole catalog.

    Raises:
        CatalogError: the schema is newer than this release.
    """
    if not connection.dialect.has_table(connection, SCHEMA_TABLE):
        create(connection)
        return
    from alembic import command

    version = version_of(connection)
    if version is not None and version not in SCHEMA_VERSIONS:
        check(version)
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, NEWEST)


def create(connection: Connection) -> None:
    """Create the newest schema at once: to import Alembic takes longer than to make the tables."""
    TABLES.create_all(connection)
    connection.execute(
        text(f"CREATE TABLE {SCHEMA_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    )
    connection.execute(text(f"INSERT INTO {SCHEMA_TABLE} VALUES (:version)"), {"version": NEWEST})


def configuration() -> "Config":
    """Return the Alembic configuration: where the migrations are and which table counts them.

    They are inside the package once installed, beside it in a source tree.
    """
    from alembic.config import Config

    package = Path(__file__).parents[1]
    inside = package / "migrations"
    migrations = inside if inside.is_dir() else package.parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
