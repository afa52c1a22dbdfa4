"""A writer that is stopped in the middle, as by a debugger, a full disk or a medium that hangs.

Readers answer at once, with what the store has, and write nothing meanwhile; once the writer goes
on, nothing was lost.
"""

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
from typing_extensions import override

import share_registry as sr
from share_registry.format.canonical import sha256
from share_registry.names import CommitNumber, SpaceName
from share_registry.outside.files import Outside
from share_registry.registry.replay import replay_in_memory
from share_registry.store.local import LocalStore
from tests.catalog.filled import is_locked
from tests.cli.tiny import SPACE, write_adapter
from tests.reliability.processes import fork, wait_for
from tests.reliability.registries import opened

PROMPT_S: Final = 5.0
"""Far above the half second that a reader waits, and far below the 30 s of a writer."""
STOPS: Final = {"commit.publish": False, "record.linked": True, "commit.catalog": True}
"""Points inside the transaction of a commit, and whether its record is in the store by then."""


@contextmanager
def stopped(work: Callable[[Callable[[], None]], object]) -> Iterator[None]:
    """Run a block while a child, which was given what stops it, is stopped; then let it go on."""
    child = fork(lambda: work(lambda: os.kill(os.getpid(), signal.SIGSTOP)))
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "the child ended before it was stopped"
    try:
        yield
    finally:
        os.kill(child, signal.SIGCONT)
    assert wait_for(child) == 0


def answers(registry: sr.Registry) -> list[str]:
    """Ask what reads the catalog in different ways; return the keys of the log."""
    begin = time.monotonic()
    keys = [commit.key for commit in registry.log(SPACE, kind="absorb")]
    assert [task.name for task in registry.tasks(SPACE)] == ["cola"]
    assert registry.resolve(f"{SPACE}/cola").version == len(keys)
    assert registry.show("cola").key == keys[0]
    assert registry.checkout(f"cola@v{len(keys)}").state_dict()
    assert time.monotonic() - begin < PROMPT_S
    return keys


def kill_in_commit(catalog: Path) -> None:
    """Kill a writer with half of its transaction in the file."""

    def write_half() -> None:
        connection = sqlite3.connect(catalog, isolation_level=None)
        connection.execute("PRAGMA cache_size=1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE sr_commits SET message = hex(zeroblob(1000000))")
        os.kill(os.getpid(), signal.SIGKILL)

    assert wait_for(fork(write_half)) == -signal.SIGKILL


class Interrupted(LocalStore):
    """A store behind whose next look for new records something happens."""

    then: Callable[[], object] | None = None

    @override
    def first_record(
        self, space: SpaceName, numbers: Sequence[CommitNumber]
    ) -> CommitNumber | None:
        number = super().first_record(space, numbers)
        then, self.then = self.then, None
        if then is not None:
            then()
        return number


@pytest.mark.parametrize("point", STOPS)
def test_readers_answer_beside_a_stopped_writer(
    tmp_path: Path, catalog_url: str, point: str
) -> None:
    store, adapter = tmp_path / "store", write_adapter(tmp_path / "cola", seed=1)
    before = ["one"]
    with opened(catalog_url, store=store, mode="c") as registry:
        registry.commit(adapter, budget=0, idempotency_key="one")

    def commit(stop: Callable[[], None]) -> None:
        def hook(passed: str) -> None:
            if passed == point:
                stop()

        with opened(catalog_url, store=store, mode="w", hook=hook) as registry:
            registry.commit(adapter, budget=0, idempotency_key="two", allow_duplicate=True)

    now = ["two", "one"] if STOPS[point] else before
    with (
        opened(catalog_url, store=store, mode="r") as old_reader,
        opened(catalog_url, store=store, mode="c") as old_writer,
    ):
        assert answers(old_reader) == answers(old_writer) == before
        with stopped(commit):
            assert answers(old_reader) == answers(old_writer) == now
            for mode in ("r", "w", "c"):
                begin = time.monotonic()
                with opened(catalog_url, store=store, mode=mode) as reader:
                    assert time.monotonic() - begin < PROMPT_S
                    assert answers(reader) == now
                    assert answers(reader) == now
        for reader in (old_reader, old_writer):
            assert answers(reader) == ["two", "one"]
            assert reader.context.catalog is reader.context.kept
        assert old_writer.verify("data").ok
        old_writer.commit(adapter, budget=0, idempotency_key="three", allow_duplicate=True)
        assert answers(old_reader) == ["three", "two", "one"]


def test_readers_answer_while_nobody_can_read_the_catalog(tmp_path: Path) -> None:
    """In the middle of a COMMIT, SQLite lets nobody read: the store is read in its place."""
    store, adapter = tmp_path / "store", write_adapter(tmp_path / "cola", seed=1)
    url = f"sqlite:///{tmp_path}/catalog.sqlite"

    def hold(stop: Callable[[], None]) -> None:
        connection = sqlite3.connect(tmp_path / "catalog.sqlite", isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        stop()
        connection.close()

    with opened(url, store=store, mode="c") as registry:
        registry.commit(adapter, budget=0, idempotency_key="one")
        with stopped(hold):
            assert answers(registry) == ["one"]
            for mode in ("r", "w", "c"):
                begin = time.monotonic()
                with opened(url, store=store, mode=mode) as reader:
                    assert time.monotonic() - begin < PROMPT_S
                    assert answers(reader) == ["one"]
    with stopped(hold):
        late = opened(url, store=store, mode="c")
        assert answers(late) == ["one"]
    with late:
        late.commit(adapter, budget=0, idempotency_key="two", allow_duplicate=True)
        assert answers(late) == ["two", "one"]
        assert late.context.catalog is late.context.kept


def test_readers_answer_where_a_writer_was_killed_in_its_commit(tmp_path: Path) -> None:
    """Half of its transaction is in the file, and only who may write can take that back."""
    store, adapter = tmp_path / "store", write_adapter(tmp_path / "cola", seed=1)
    url = f"sqlite:///{tmp_path}/catalog.sqlite"

    with opened(url, store=store, mode="c") as registry:
        registry.commit(adapter, budget=0, idempotency_key="one")
    with opened(url, store=store, mode="r") as old_reader:
        assert answers(old_reader) == ["one"]
        kill_in_commit(tmp_path / "catalog.sqlite")
        before = (tmp_path / "catalog.sqlite").read_bytes()
        assert answers(old_reader) == ["one"]
        with opened(url, store=store, mode="r") as reader:
            assert answers(reader) == ["one"]
        assert (tmp_path / "catalog.sqlite").read_bytes() == before
        with opened(url, store=store, mode="w") as writer:
            assert answers(writer) == ["one"]
        assert answers(old_reader) == ["one"]
        assert old_reader.context.catalog is old_reader.context.kept


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_readers_answer_where_a_writer_ends_between_their_look_and_their_question(
    tmp_path: Path, end: str
) -> None:
    """They have compared the catalog with the store, and cannot read it a moment later."""
    place, adapter = tmp_path / "store", write_adapter(tmp_path / "cola", seed=1)
    catalog = tmp_path / "catalog.sqlite"
    with opened(f"sqlite:///{catalog}", store=place, mode="c") as registry:
        registry.commit(adapter, budget=0, idempotency_key="one")
    store = Interrupted(place, Outside(), read_only=True)
    with (
        sr.Registry.open(f"sqlite:///{catalog}", store=store, mode="r") as reader,
        ExitStack() as stack,
    ):
        assert answers(reader) == ["one"]

        def hold(stop: Callable[[], None]) -> None:
            connection = sqlite3.connect(catalog, isolation_level=None)
            connection.execute("BEGIN EXCLUSIVE")
            stop()
            connection.close()

        store.then = (
            (lambda: kill_in_commit(catalog))
            if end == "killed"
            else (lambda: stack.enter_context(stopped(hold)))
        )
        assert answers(reader) == ["one"]
        assert store.then is None


def test_what_removes_objects_locks_the_catalog_that_is_kept(tmp_path: Path) -> None:
    """A stand-in that another thread reads meanwhile would keep nobody from publishing."""
    store, adapter = tmp_path / "store", write_adapter(tmp_path / "cola", seed=1)
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    passed: list[bool] = []

    def hook(point: str) -> None:
        if point == "gc.planned":
            registry.context.catalog = replay_in_memory(registry.context.store)[0]
        if point == "gc.recheck":
            passed.append(is_locked(url))

    with opened(url, store=store, mode="c", hook=hook) as registry:
        registry.commit(adapter, budget=0)
        content = b"nobody's"
        registry.context.store.put(content, sha256(content))
        assert registry.gc(grace_days=0, dry_run=False).garbage
    assert passed == [True]
