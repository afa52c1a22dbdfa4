"""A reader whose catalog lacks records reads those alone, and answers as if it lacked none."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection, create_engine, make_url, text

import share_registry as sr
from share_registry.catalog import catalog
from share_registry.catalog.overlay import lay_over
from share_registry.catalog.tables import SCHEMA_TABLE, TABLES
from share_registry.store.local import LocalStore
from tests.cli.tiny import SPACE, write_adapter
from tests.reliability.registries import Catalog, opened, rows

LONG: Final = 30
"""Records before those that the catalog lacks."""
EACH: Final = 3
"""Records read for each that is lacking: itself, the one behind it, and once more."""
OFTEN: Final = 7
"""More often than the driver asks before it has the server prepare a statement."""
ONCE: Final = 6
"""Records read however many are lacking: heads, and those behind them."""


def begin(registry: sr.Registry, top: Path) -> None:
    """Make a log of some length."""
    registry.commit(write_adapter(top / "cola", seed=1), budget=0.05)
    for number in range(LONG):
        registry.set_alias("cola@v1", f"alias-{number}")


def continue_with_every_kind(registry: sr.Registry, top: Path) -> None:
    """Add a record of every kind."""
    registry.commit(write_adapter(top / "sst", seed=2), labels={"team": "search"})
    registry.commit(write_adapter(top / "cola2", seed=3), task="cola", metrics={"accuracy": 0.5})
    registry.set_alias("cola@v1", "alias-0", reason="again")
    registry.set_alias("cola@v2", "alias-1")
    registry.remove_alias("cola", "alias-2")
    registry.tag("release", "@c5")
    registry.annotate("cola@v1", labels={"team": "ads"}, metrics={"f1": 0.25})
    registry.annotate("cola@v1", labels={"team": "vision"}, remove=["f1"])
    registry.export("cola@v1", top / "serve", record=True, reason="served")
    registry.merge({"cola": 0.5, "sst": 0.5}, task="both")
    registry.rename("sst", "renamed")
    registry.drop("renamed")
    registry.restore("renamed@v1")
    registry.set_policy(sr.Policy(budget=0.1))
    registry.refit()


def continue_with_one(registry: sr.Registry, _: Path) -> None:
    """Add one record."""
    registry.set_alias("cola@v1", "newest")


@pytest.fixture(params=[continue_with_one, continue_with_every_kind], ids=["one", "every-kind"])
def lagging(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    catalog_url: str,
    new_catalog_url: Callable[[str], str],
) -> tuple[str, Path, Catalog, int]:
    """A catalog that lacks records, its store, what it should say, and how many it lacks."""
    store = tmp_path / "store"
    with opened(catalog_url, store=store, mode="c") as registry:
        begin(registry, tmp_path)
    with opened(new_catalog_url("sqlite"), store=store, mode="c") as registry:
        before = registry.log(limit=1)[0].number
        request.param(registry, tmp_path)
        lacking = registry.log(limit=1)[0].number - before
        return catalog_url, store, rows(registry), lacking


@contextmanager
def counting_records(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Note the number of every record that is read."""
    seen: list[int] = []
    real = LocalStore.record

    def record(store: LocalStore, space: Any, number: Any) -> bytes | None:
        seen.append(number)
        return real(store, space, number)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "record", record)
        yield seen


def contents(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Return what a database holds, without the library."""
    engine = create_engine(url)
    with engine.connect() as connection:
        held = {
            table: sorted(
                (tuple(row) for row in connection.execute(text(f"SELECT * FROM {table}"))), key=repr
            )
            for table in [*TABLES.tables, SCHEMA_TABLE]
        }
    engine.dispose()
    return held


def answers_like(
    url: str, store: Path, expected: Catalog, lacking: int, patch: pytest.MonkeyPatch
) -> None:
    with counting_records(patch) as seen, opened(url, store=store, mode="r") as reader:
        assert rows(reader) == expected
        assert len(seen) <= ONCE + EACH * lacking
        assert min(seen) >= LONG
        # and again, out of what is there by now
        assert rows(reader) == expected
        head = reader.log(SPACE, limit=1)[0]
        assert head.number == max(seen) - 1
        assert [entry.number for entry in reader.log(SPACE, limit=5)] == [
            head.number - back for back in range(5)
        ]


def test_a_reader_reads_only_the_records_that_its_catalog_lacks(
    lagging: tuple[str, Path, Catalog, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, store, expected, lacking = lagging
    before = contents(url)
    answers_like(url, store, expected, lacking, monkeypatch)
    assert contents(url) == before
    with opened(url, store=store, mode="w") as writer:
        assert rows(writer) == expected


def test_a_reader_sees_what_is_committed_while_its_catalog_stays_behind(
    lagging: tuple[str, Path, Catalog, int], new_catalog_url: Callable[[str], str]
) -> None:
    url, store, expected, _ = lagging
    with (
        opened(url, store=store, mode="r") as reader,
        opened(new_catalog_url("sqlite"), store=store, mode="c") as writer,
    ):
        assert rows(reader) == expected
        for number in range(3):
            writer.set_alias("cola@v1", f"later-{number}")
            assert rows(reader) == rows(writer)
        with opened(url, store=store, mode="w") as late:
            assert rows(late) == rows(reader)
        # the catalog answers again
        assert reader.context.catalog is reader.context.kept


def test_what_a_server_has_prepared_is_answered_with_the_records_that_it_lacks(
    tmp_path: Path, postgresql_url: str, new_catalog_url: Callable[[str], str]
) -> None:
    store = tmp_path / "store"
    with opened(postgresql_url, store=store, mode="c") as registry:
        registry.commit(write_adapter(tmp_path / "cola", seed=1), budget=0.05)
    with (
        opened(postgresql_url, store=store, mode="r") as reader,
        opened(new_catalog_url("sqlite"), store=store, mode="c") as writer,
    ):
        for _ in range(OFTEN):
            assert len(reader.log()) == 2
        for length in range(3, 3 + OFTEN):
            continue_with_one_more(writer, length)
            assert rows(reader) == rows(writer)
            assert len(reader.log()) == length
        with opened(postgresql_url, store=store, mode="w") as late:
            assert len(late.log()) == length
        for _ in range(OFTEN):
            assert len(reader.log()) == length
            assert reader.context.catalog is reader.context.kept


def continue_with_one_more(registry: sr.Registry, number: int) -> None:
    registry.set_alias("cola@v1", f"newer-{number}")


def test_a_question_lays_records_over_a_servers_tables_once(
    tmp_path: Path,
    postgresql_url: str,
    new_catalog_url: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = tmp_path / "store"
    with opened(postgresql_url, store=store, mode="c") as registry:
        registry.commit(write_adapter(tmp_path / "cola", seed=1), budget=0.05)
    with opened(new_catalog_url("sqlite"), store=store, mode="c") as registry:
        continue_with_one(registry, tmp_path)
    laid: list[Connection] = []

    def count_and_lay_over(connection: Connection) -> None:
        laid.append(connection)
        lay_over(connection)

    monkeypatch.setattr(catalog, "lay_over", count_and_lay_over)
    with opened(postgresql_url, store=store, mode="r") as reader:
        for questions in range(1, 4):
            assert len(reader.log(SPACE)) == 3
            assert len(laid) == questions


@pytest.fixture
def reading_role(postgresql_url: str) -> Iterator[Callable[[], str]]:
    """Make a role that may read what is there and nothing else; give the URL for it."""
    role = f"sr_reader_{uuid.uuid4().hex}"
    engine = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")

    def make() -> str:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE ROLE {role} LOGIN"))
            connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
        return make_url(postgresql_url).set(username=role).render_as_string(hide_password=False)

    yield make
    with engine.connect() as connection:
        connection.execute(text(f"DROP OWNED BY {role}"))
        connection.execute(text(f"DROP ROLE {role}"))
    engine.dispose()


@pytest.mark.parametrize("grants_temporary", [True, False])
def test_a_role_without_the_right_to_write_reads_what_the_catalog_lacks(
    tmp_path: Path,
    postgresql_url: str,
    reading_role: Callable[[], str],
    new_catalog_url: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    grants_temporary: bool,
) -> None:
    store = tmp_path / "store"
    with opened(postgresql_url, store=store, mode="c") as registry:
        begin(registry, tmp_path)
    url = reading_role()
    with opened(new_catalog_url("sqlite"), store=store, mode="c") as registry:
        continue_with_one(registry, tmp_path)
        expected = rows(registry)
    if grants_temporary:
        answers_like(url, store, expected, 1, monkeypatch)
        return
    # then the log is read from its beginning
    database = make_url(postgresql_url).database
    engine = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC"))
    engine.dispose()
    with opened(url, store=store, mode="r") as reader:
        assert rows(reader) == expected
        assert reader.context.catalog.is_in_memory
