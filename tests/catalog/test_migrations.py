"""A catalog made by an earlier release: the upgrade keeps its rows, and so does the way back."""

import json

import pytest
from alembic import command
from sqlalchemy import MetaData, Table, create_engine, text
from sqlalchemy.orm import Session

from share_registry.catalog import catalog as catalogs, schema
from share_registry.catalog.catalog import Catalog
from share_registry.catalog.tables import SCHEMA_VERSIONS, TABLES
from share_registry.names import SpaceName
from share_registry.registry.replay import fill_again, fill_up_to
from tests.catalog.logs import Log, story, whole_story
from tests.reliability.processes import fork, wait_for_all

NEW_IN_0002: dict[str, dict[str, object]] = {
    "sr_spaces": {"refit": True, "pseudo_rank": None, "k": None, "phi": 0},
    "sr_commits": {"basis": None},
    "sr_task_versions": {"norm": 0.0, "before": None, "bound": False},
    "sr_parents": {"weight": None},
}
"""Columns that schema 0001 lacks, and what rows that were there before have in them."""
UPGRADES = 4
Rows = dict[str, list[dict[str, object]]]


def rows_of(session: Session) -> Rows:
    """Return every row by name of column, sorted."""
    return {
        table.name: sorted(
            (dict(row._mapping) for row in session.execute(table.select())), key=repr
        )
        for table in TABLES.sorted_tables
    }


def rows_today(log: Log) -> Rows:
    with Catalog.in_memory("store") as today, today.begin(write=True) as session:
        log.apply(session)
        return rows_of(session)


def to(session: Session, version: str) -> None:
    config = schema.configuration()
    config.attributes["connection"] = session.connection()
    command.downgrade(config, version)


def fill(url: str, rows: Rows, version: str = "0001") -> None:
    """Make a catalog of an old schema and put rows into it without any of today's models."""
    with Catalog.open(url) as catalog, catalog.begin(write=True) as session:
        to(session, "base")
        config = schema.configuration()
        config.attributes["connection"] = session.connection()
        command.upgrade(config, version)
        for table in TABLES.sorted_tables:
            old = Table(
                table.name, MetaData(), autoload_with=session.connection(), resolve_fks=False
            )
            kept = [
                {
                    name: json.dumps(value) if isinstance(value, tuple) else value
                    for name, value in row.items()
                    if name in old.c
                }
                for row in rows[table.name]
            ]
            if kept:
                session.execute(old.insert(), kept)


def test_an_upgrade_keeps_every_row_and_fills_what_is_new(catalog_url: str) -> None:
    rows = rows_today(story())
    fill(catalog_url, rows)
    expected = {
        name: sorted((row | NEW_IN_0002.get(name, {}) for row in of_table), key=repr)
        for name, of_table in rows.items()
    }
    assert catalogs.upgrade(catalog_url) == schema.NEWEST
    with Catalog.open(catalog_url, mode="r") as catalog, catalog.begin() as session:
        assert rows_of(session) == expected


def test_an_upgraded_catalog_takes_the_records_of_today(catalog_url: str) -> None:
    fill(catalog_url, rows_today(story()))
    catalogs.upgrade(catalog_url)
    with Catalog.open(catalog_url, mode="w") as catalog, catalog.begin(write=True) as session:
        for entry in whole_story().entries[16:]:
            assert entry.apply(session)


def test_an_upgraded_catalog_takes_records_that_remove_versions(catalog_url: str) -> None:
    log = story()
    fill(catalog_url, rows_today(log), "0004")
    catalogs.upgrade(catalog_url)
    log.expire([("acceptability", 2)])
    log.purge("sst2")
    store, space = log.store(), SpaceName(log.space)
    with Catalog.open(catalog_url, mode="w") as catalog:
        fill_up_to(store, catalog, space, None)
        with catalog.begin() as session:
            upgraded = rows_of(session)
    with Catalog.in_memory("store") as today, today.begin(write=True) as session:
        fill_again(session, store, space)
        assert rows_of(session)["sr_task_versions"] == upgraded["sr_task_versions"]
        assert {row["removed"] for row in upgraded["sr_task_versions"]} == {None, 17, 18}


def test_the_way_back_keeps_versions_that_had_no_budget(catalog_url: str) -> None:
    log = whole_story()
    with Catalog.open(catalog_url) as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        counts = {
            table.name: len(session.execute(table.select()).all()) for table in TABLES.sorted_tables
        }
        to(session, "0001")
        assert {
            name: session.scalar(text(f"SELECT count(*) FROM {name}")) for name in counts
        } == counts
        unlimited = session.execute(
            text("SELECT name, budget, error FROM sr_task_versions WHERE number = 17")
        ).all()
        assert len(unlimited) == 2
        assert all(budget == error for _, budget, error in unlimited)


@pytest.mark.parametrize("version", SCHEMA_VERSIONS[:-1])
def test_of_upgrades_side_by_side_one_runs_and_the_others_wait(
    catalog_url: str, version: str
) -> None:
    rows = rows_today(story())
    fill(catalog_url, rows, version)
    before = contents(catalog_url)
    children = [
        fork(lambda: require_newest(catalogs.upgrade(catalog_url))) for _ in range(UPGRADES)
    ]
    assert wait_for_all(children) == [0] * UPGRADES
    with Catalog.open(catalog_url, mode="r") as catalog, catalog.begin() as session:
        after = rows_of(session)
    assert {name: len(of_table) for name, of_table in after.items()} == before
    # and it goes on from there
    with Catalog.open(catalog_url, mode="w") as catalog, catalog.begin(write=True) as session:
        for entry in whole_story().entries[16:]:
            assert entry.apply(session)


def require_newest(version: str) -> None:
    assert version == schema.NEWEST


def contents(url: str) -> dict[str, int]:
    """Return how many rows each table has, whatever its columns."""
    engine = create_engine(url)
    with engine.connect() as connection:
        counts = {
            table.name: int(connection.scalar(text(f"SELECT count(*) FROM {table.name}")) or 0)
            for table in TABLES.sorted_tables
        }
    engine.dispose()
    return counts
