"""A catalog as a resource: opening, transactions, schema."""

import logging
import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from share_registry.catalog import catalog as catalogs, engine, schema
from share_registry.catalog.catalog import Catalog
from share_registry.catalog.database_errors import parse_url, translate_errors
from share_registry.catalog.tables import SCHEMA_TABLE, SCHEMA_VERSIONS, TABLES, CommitRow, TaskRow
from share_registry.errors import (
    CatalogError,
    ConflictError,
    ConnectionLostError,
    InvalidInputError,
)
from tests.catalog.filled import count, fill_catalog
from tests.catalog.logs import Log, story


def has_the_schema_of_the_models(catalog: Catalog) -> bool:
    with catalog.begin() as session:
        context = MigrationContext.configure(
            session.connection(), opts={"version_table": SCHEMA_TABLE, "compare_type": True}
        )
        is_newest = context.get_current_revision() == SCHEMA_VERSIONS[-1]
        return is_newest and compare_metadata(context, TABLES) == []


def test_a_new_catalog_has_the_schema_that_the_models_say(catalog_url: str) -> None:
    with Catalog.open(catalog_url) as catalog:
        assert has_the_schema_of_the_models(catalog)


def test_the_migrations_make_the_schema_that_the_models_say(catalog_url: str) -> None:
    from alembic import command

    with Catalog.open(catalog_url) as catalog:
        with catalog.begin(write=True) as session:
            config = schema.configuration()
            config.attributes["connection"] = session.connection()
            command.downgrade(config, "base")
            command.upgrade(config, "0001")
        assert not has_the_schema_of_the_models(catalog)
        with catalog.begin(write=True) as session:
            schema.migrate(session.connection())
        assert has_the_schema_of_the_models(catalog)


def test_the_versions_known_are_those_of_the_migrations() -> None:
    from alembic.script import ScriptDirectory

    revisions = [
        script.revision
        for script in ScriptDirectory.from_config(schema.configuration()).walk_revisions()
    ]
    assert tuple(reversed(revisions)) == SCHEMA_VERSIONS


def test_every_migration_goes_down_again(catalog_url: str) -> None:
    from alembic import command

    with Catalog.open(catalog_url) as catalog:
        with catalog.begin(write=True) as session:
            config = schema.configuration()
            config.attributes["connection"] = session.connection()
            command.downgrade(config, "base")
            assert schema.version_of(session.connection()) is None
        with catalog.begin(write=True) as session:
            schema.migrate(session.connection())
            assert schema.version_of(session.connection()) == schema.NEWEST


def test_a_catalog_in_memory_has_the_same_schema(tmp_path: Path) -> None:
    with Catalog.open(f"sqlite:///{tmp_path}/c.sqlite") as stored, Catalog.in_memory() as in_memory:
        for catalog in (stored, in_memory):
            assert catalog.schema_version == schema.NEWEST
        tables = []
        for catalog in (stored, in_memory):
            with catalog.begin() as session:
                query = text(
                    'SELECT m.name, c.name, lower(c.type), c."notnull", c.pk '
                    "FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"
                )
                indexes = text(
                    "SELECT name, replace(sql, '\"', '') FROM sqlite_master "
                    "WHERE type = 'index' AND sql IS NOT NULL"
                )
                tables.append(
                    sorted(tuple(row) for row in session.execute(query))
                    + sorted(tuple(row) for row in session.execute(indexes))
                )
        assert tables[0] == tables[1]


def test_what_was_committed_is_there_after_opening_again(catalog_url: str) -> None:
    log = fill_catalog(catalog_url)
    for mode in ("r", "w", "c"):
        with Catalog.open(catalog_url, mode=mode) as catalog, catalog.begin() as session:
            assert count(session) == len(log.entries)
            assert catalog.store_id == "store"


def test_a_transaction_that_fails_leaves_nothing(catalog_url: str) -> None:
    log = story()
    with Catalog.open(catalog_url) as catalog:
        with pytest.raises(ZeroDivisionError), catalog.begin(write=True) as session:
            _apply_and_fail(log, session)
        with catalog.begin() as session:
            assert count(session) == 0


def _apply_and_fail(log: Log, session: Session) -> None:
    log.apply(session)
    raise ZeroDivisionError


def test_mode_w_does_not_make_a_catalog(catalog_url: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogError):
        Catalog.open(catalog_url, mode="w")
    assert not list(tmp_path.iterdir())
    with pytest.raises(CatalogError):
        Catalog.open(catalog_url, mode="r")
    assert not list(tmp_path.iterdir())


def test_a_catalog_opened_for_reading_writes_nothing(catalog_url: str, tmp_path: Path) -> None:
    fill_catalog(catalog_url)
    before = {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()
    }
    with Catalog.open(catalog_url, mode="r", store_id="another") as catalog:
        with pytest.raises(CatalogError, match="open for reading"), catalog.begin(write=True):
            pass
        with pytest.raises(CatalogError), catalog.begin() as session:
            session.execute(TaskRow.table.insert(), [{"space": "base", "task": 99, "since": 1}])
        with catalog.begin() as session:
            assert count(session) == 16
            assert catalog.store_id == "store"
    assert {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()
    } == before


def test_reading_a_catalog_with_a_hot_journal_says_so_and_touches_nothing(tmp_path: Path) -> None:
    fill_catalog(f"sqlite:///{tmp_path}/a.sqlite")
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    writer = sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None)
    writer.execute("PRAGMA cache_size=1")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE sr_commits SET message = hex(randomblob(9000))")
    for path in list(tmp_path.glob("a.sqlite*")):
        shutil.copy(path, crashed / path.name)
    writer.execute("ROLLBACK")
    writer.close()
    before = sorted((path.name, path.read_bytes()) for path in crashed.iterdir())
    assert [name for name, _ in before] == ["a.sqlite", "a.sqlite-journal"]
    with pytest.raises(ConflictError, match="killed in the middle of its COMMIT"):
        Catalog.open(f"sqlite:///{crashed}/a.sqlite", mode="r")
    assert sorted((path.name, path.read_bytes()) for path in crashed.iterdir()) == before
    with (
        Catalog.open(f"sqlite:///{crashed}/a.sqlite", mode="w") as catalog,
        catalog.begin() as session,
    ):
        assert {
            message for message in session.scalars(select(CommitRow.message)) if len(message) > 1000
        } == set()


@pytest.mark.parametrize(
    ("version", "hint"), [("0000", "Upgrade share_registry"), ("9999", "Upgrade share_registry")]
)
def test_a_catalog_of_an_unknown_schema_is_refused(
    catalog_url: str, version: str, hint: str
) -> None:
    fill_catalog(catalog_url)
    with Catalog.open(catalog_url) as catalog, catalog.begin(write=True) as session:
        session.execute(
            text(f"UPDATE {SCHEMA_TABLE} SET version_num = :version"), {"version": version}
        )
    for mode in ("r", "w", "c"):
        with pytest.raises(CatalogError) as raised:
            Catalog.open(catalog_url, mode=mode)
        assert hint in raised.value.hint
    with pytest.raises(CatalogError):
        catalogs.upgrade(catalog_url)
    with pytest.raises(CatalogError):
        catalogs.check(catalog_url)
    assert catalogs.current(catalog_url) == version


def test_a_catalog_of_an_older_schema_asks_for_the_upgrade(
    monkeypatch: pytest.MonkeyPatch, catalog_url: str
) -> None:
    fill_catalog(catalog_url)
    monkeypatch.setattr(schema, "SCHEMA_VERSIONS", (*SCHEMA_VERSIONS, "9999"))
    monkeypatch.setattr(schema, "NEWEST", "9999")
    for mode in ("r", "w", "c"):
        with pytest.raises(CatalogError) as raised:
            Catalog.open(catalog_url, mode=mode)
        assert "db upgrade" in raised.value.hint


def test_upgrade_makes_a_catalog_and_leaves_the_newest_alone(catalog_url: str) -> None:
    with pytest.raises(CatalogError):
        catalogs.check(catalog_url)
    assert catalogs.upgrade(catalog_url) == schema.NEWEST
    assert catalogs.current(catalog_url) == catalogs.check(catalog_url) == schema.NEWEST
    log = fill_catalog(catalog_url)
    assert catalogs.upgrade(catalog_url) == schema.NEWEST
    with Catalog.open(catalog_url, mode="r") as catalog, catalog.begin() as session:
        assert count(session) == len(log.entries)


def test_other_tables_in_the_database_are_left_alone(postgresql_url: str) -> None:
    from sqlalchemy import create_engine

    engine = create_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num text); "))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
        connection.execute(text("CREATE TABLE tags (name text)"))
    fill_catalog(postgresql_url)
    with engine.begin() as connection:
        assert (
            connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "theirs"
        )
    engine.dispose()


def test_garbage_in_place_of_a_catalog_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.sqlite").write_bytes(b"garbage" * 1000)
    for mode in ("r", "w", "c"):
        with pytest.raises(CatalogError) as raised:
            Catalog.open(f"sqlite:///{tmp_path}/c.sqlite", mode=mode)
        assert "rebuild" in raised.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://u:secret@h/d",
        "sqlite://",
        "postgresql://u:secret@h:port/d",
        "oracle+thing://u:secret@h",
    ],
)
def test_an_unusable_url_is_named_without_its_secrets(url: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        Catalog.open(url)
    assert "secret" not in str(raised.value)
    assert "secret" not in repr(raised.value.__cause__)


def test_a_password_appears_nowhere(postgresql_server: object) -> None:
    for url in (
        "postgresql://user:hunter2@127.0.0.1:1/nowhere",
        "postgresql+psycopg://user:hunter2@127.0.0.1:1/nowhere?connect_timeout=1",
    ):
        with pytest.raises(CatalogError) as raised:
            Catalog.open(url, mode="r")
        assert "hunter2" not in str(raised.value)
        assert "***" in str(raised.value)
    catalog = Catalog(
        engine.engine_of(parse_url(url), mode=engine.Mode.READ),
        url=parse_url(url),
        mode=engine.Mode.READ,
    )
    assert "hunter2" not in repr(catalog) + catalog.safe_url


def test_sqlite_is_set_up_for_durability_and_checked_keys(tmp_path: Path) -> None:
    expected = {
        "foreign_keys": 1,
        "synchronous": 2,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "busy_timeout": 30_000,
    }
    with Catalog.open(f"sqlite:///{tmp_path}/c.sqlite") as catalog, catalog.begin() as session:
        pragmas = {
            name: session.execute(text(f"PRAGMA {name}")).scalar()
            for name in (*expected, "journal_mode")
        }
    assert pragmas.pop("journal_mode") == (
        "wal" if sqlite3.sqlite_version_info >= (3, 51, 3) else "delete"
    )
    assert pragmas == expected


def test_a_path_with_odd_characters_is_one_path(tmp_path: Path) -> None:
    folder = tmp_path / "a b?mode=rwc&x=%41#é"
    folder.mkdir()
    from sqlalchemy import URL

    url = URL.create("sqlite", database=str(folder / "c.sqlite")).render_as_string()
    with Catalog.open(url, store_id="store"):
        assert (folder / "c.sqlite").is_file()
    with Catalog.open(url, mode="r") as catalog, catalog.begin():
        assert catalog.store_id == "store"


def test_postgresql_is_set_up_with_limits_and_without_surprises(postgresql_url: str) -> None:
    names = ("lock_timeout", "statement_timeout", "transaction_isolation", "transaction_read_only")
    for mode, readonly in (("c", "off"), ("r", "on")):
        with Catalog.open(postgresql_url, mode=mode) as catalog, catalog.begin() as session:
            assert [session.execute(text(f"SHOW {name}")).scalar() for name in names] == [
                "30s",
                "2min",
                "read committed",
                readonly,
            ]


def test_a_server_that_forgets_on_a_crash_is_warned_of(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Catalog.open(postgresql_url) as catalog, catalog.begin() as session:
        forgets = session.execute(text("SHOW fsync")).scalar() == "off"
    assert any("fsync=off" in record.message for record in caplog.records) == forgets
    caplog.clear()
    with caplog.at_level(logging.WARNING), Catalog.open(postgresql_url, mode="r"):
        assert not caplog.records


def test_a_lock_held_too_long_is_a_conflict(catalog_url: str) -> None:
    fill_catalog(catalog_url)
    with (
        Catalog.open(catalog_url, mode="w") as first,
        Catalog.open(catalog_url, mode="w") as second,
        first.begin(write=True) as holder,
    ):
        holder.execute(text("UPDATE sr_spaces SET head = head"))
        with pytest.raises(ConflictError), second.begin(write=True, wait_s=0.5) as waiting:
            waiting.execute(text("UPDATE sr_spaces SET head = head"))


def test_a_connection_cut_by_the_server_is_a_conflict_and_the_next_transaction_works(
    postgresql_url: str,
) -> None:
    log = fill_catalog(postgresql_url)
    with (
        Catalog.open(postgresql_url, mode="w") as catalog,
        Catalog.open(postgresql_url, mode="w") as second,
    ):
        with pytest.raises(ConnectionLostError), catalog.begin() as session:
            _cut(session, second)
        with catalog.begin() as session:
            assert count(session) == len(log.entries)


def _cut(session: Session, catalog: Catalog) -> None:
    process = session.execute(text("SELECT pg_backend_pid()")).scalar()
    with catalog.begin() as killer:
        killer.execute(text("SELECT pg_terminate_backend(:process)"), {"process": process})
    session.execute(text("SELECT 1"))


def test_a_password_in_what_a_driver_says_is_taken_out() -> None:
    url = parse_url("postgresql://user:hunter2@h/d")
    with pytest.raises(CatalogError) as raised, translate_errors(url):
        raise OperationalError("SELECT 1", {}, RuntimeError("bad conninfo password=hunter2"))
    assert (
        raised.value.message
        == "catalog postgresql+psycopg://user:***@h/d: bad conninfo password=***."
    )
