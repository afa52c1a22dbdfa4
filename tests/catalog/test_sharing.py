"""A catalog shared by threads, and used on after a fork."""

import multiprocessing
import os
import sqlite3
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.projection.apply import wipe
from share_registry.errors import CatalogError, ConflictError
from share_registry.outside import forks
from tests.catalog.filled import count, fill_catalog, is_locked
from tests.catalog.logs import Logged, story
from tests.catalog.rows import dump
from tests.reliability.processes import fork, wait_for_all

FORKS = 4


def test_many_threads_that_make_the_catalog_and_follow_one_log_agree(catalog_url: str) -> None:
    log = story()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with Catalog.open(catalog_url) as catalog:
                for entry in log.entries:
                    _insist(catalog, entry)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with (
        Catalog.open(catalog_url) as catalog,
        catalog.begin() as session,
        Catalog.in_memory() as fresh,
        fresh.begin(write=True) as alone,
    ):
        log.apply(alone)
        assert dump(session) == dump(alone)


def _insist(catalog: Catalog, entry: Logged) -> None:
    for _ in range(100):
        try:
            with catalog.begin(write=True) as session:
                entry.apply(session)
        except ConflictError:
            continue
        return
    raise AssertionError("never succeeded")


def test_threads_share_a_catalog_in_memory() -> None:
    log = story()
    with Catalog.in_memory() as catalog:
        with catalog.begin(write=True) as session:
            log.apply(session)
        counts: list[int] = []

        def read() -> None:
            for _ in range(20):
                with catalog.begin() as session:
                    counts.append(count(session))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts == [len(log.entries)] * 80


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "memory"])
def test_a_fork_uses_connections_of_its_own(
    kind: str, new_catalog_url: Callable[[str], str]
) -> None:
    log = story()
    catalog = Catalog.in_memory() if kind == "memory" else Catalog.open(new_catalog_url(kind))
    with catalog:
        with catalog.begin(write=True) as session:
            log.apply(session)
        context = multiprocessing.get_context("fork")
        for _ in range(2):
            answers = context.SimpleQueue()
            child = context.Process(target=_answer, args=(answers, catalog))
            child.start()
            child.join(60)
            assert child.exitcode == 0
            assert answers.get() == len(log.entries)
            assert _count(catalog) == len(log.entries)


def test_a_fork_in_the_middle_of_another_threads_transaction_does_not_hang() -> None:
    begun, forked = threading.Event(), threading.Event()
    with Catalog.in_memory() as catalog:

        def hold() -> None:
            with catalog.begin(write=True) as session:
                story().apply(session)
                begun.set()
                assert forked.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        assert begun.wait(60)
        child = multiprocessing.get_context("fork").Process(target=_count, args=(catalog,))
        child.start()
        child.join(30)
        code = child.exitcode
        child.kill()
        forked.set()
        holder.join()
        assert code == 0
        assert _count(catalog) == 16


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_forks_beside_a_thread_that_writes_all_the_time_neither_hang_nor_take_its_locks(
    kind: str, new_catalog_url: Callable[[str], str]
) -> None:
    log, url, ended = story(), new_catalog_url(kind), threading.Event()

    def write() -> None:
        while not ended.is_set():
            with catalog.begin(write=True) as session:
                wipe(session)
                log.apply(session)

    with Catalog.open(url, store_id="store") as catalog:
        writer = threading.Thread(target=write)
        writer.start()
        try:
            children = [fork(lambda: see_all_or_nothing(catalog)) for _ in range(FORKS)]
            assert wait_for_all(children) == [0] * FORKS
        finally:
            ended.set()
            writer.join()


def see_all_or_nothing(catalog: Catalog) -> None:
    """Read and write as a child of a process that writes."""
    assert _count(catalog) in (0, 16)
    for _ in range(3):
        with catalog.begin(write=True) as session:
            assert count(session) in (0, 16)
            wipe(session)
            story().apply(session)


def test_a_fork_amid_a_transaction_that_does_not_end_refuses_the_child_that_file_alone(
    new_catalog_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "_PATIENCE_S", 0.1)
    begun, forked = threading.Event(), threading.Event()
    spoilt, sound = new_catalog_url("sqlite"), new_catalog_url("sqlite")
    fill_catalog(sound)

    def hold() -> None:
        with catalog.begin(write=True) as session:
            story().apply(session)
            begun.set()
            assert forked.wait(60)

    def use() -> None:
        with pytest.raises(CatalogError, match="forked in the middle"):
            _count(catalog)
        with Catalog.open(sound, mode="w") as other_file:
            assert _count(other_file) == 16

    with Catalog.open(spoilt, store_id="store") as catalog:
        holder = threading.Thread(target=hold)
        holder.start()
        assert begun.wait(60)
        child = fork(use)
        assert wait_for_all([child]) == [0]
        forked.set()
        holder.join()
        assert _count(catalog) == 16


def _answer(answers: "multiprocessing.SimpleQueue[int]", catalog: Catalog) -> None:
    answers.put(_count(catalog))


def _count(catalog: Catalog) -> int:
    with catalog.begin() as session:
        return count(session)


def test_a_child_closing_its_catalog_leaves_the_parents_connection_open(
    postgresql_url: str,
) -> None:
    fill_catalog(postgresql_url)
    with Catalog.open(postgresql_url, mode="w") as catalog:
        before = _backend(catalog)
        if (child := os.fork()) == 0:
            catalog.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert _backend(catalog) == before


def _backend(catalog: Catalog) -> int:
    with catalog.begin() as session:
        return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())


def driver(session: Session) -> sqlite3.Connection:
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    return connection


def test_a_block_keeps_one_connection_and_leaves_none_open(
    new_catalog_url: Callable[[str], str],
) -> None:
    url, used = new_catalog_url("sqlite"), []
    with Catalog.open(url) as catalog:
        with catalog.keep_connection():
            for write in (False, True, False):
                with catalog.begin(write=write) as session:
                    used.append(driver(session))
                    assert is_locked(url) == write
        assert used == used[:1] * 3
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            used[0].execute("SELECT 1")


def test_a_transaction_inside_another_one_of_a_block_has_a_connection_of_its_own(
    new_catalog_url: Callable[[str], str],
) -> None:
    log = story()
    with (
        Catalog.open(new_catalog_url("sqlite"), store_id="store") as catalog,
        catalog.keep_connection(),
    ):
        with catalog.begin(write=True) as session:
            log.apply(session)
            with catalog.begin() as beside:
                assert count(beside) == 0
        with (
            catalog.begin() as session,
            catalog.begin(write=True) as beside,
        ):  # after one that wrote, one that reads locks nobody out
            assert driver(session) is not driver(beside)
            assert count(session) == count(beside) == len(log.entries)
            beside.rollback()
