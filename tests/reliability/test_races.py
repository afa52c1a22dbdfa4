"""Many writers of one space at once, on both databases: each commit is there, once.

Half of the commits are versions of one task, a reader asks all the time, somebody makes the catalog
again, and on PostgreSQL the server ends connections while they are in use.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
import torch
from sqlalchemy import create_engine, text

import share_registry as sr
from share_registry.catalog.projection.apply import wipe
from share_registry.catalog.queries import lineage, lookups
from share_registry.errors import ConnectionLostError
from share_registry.names import SpaceName
from share_registry.outside.files import Outside
from share_registry.registry.commands import publish
from share_registry.registry.context import Context
from share_registry.registry.opening import open_context
from share_registry.registry.sync import rebuild_catalog
from share_registry.store.local import LocalStore
from tests.cli.tiny import SPACE, write_adapter
from tests.reliability.processes import fork, wait_for_all
from tests.reliability.scenarios import NoFlush

# Writers, and commits of each
CI_SHAPE = (8, 25)
SHAPES = ((2, 100), (4, 50), (8, 25))

T = TypeVar("T")


def opened(catalog_url: str, store: Path | None, *, mode: str = "c") -> sr.Registry:
    torch.set_num_threads(1)  # a fork child has no threads to wait for
    outside = Outside(system=NoFlush())
    return sr.Registry(
        open_context(catalog_url, store=store, space=None, mode=mode, outside=outside)[0]
    )


def key(writer: int, number: int) -> str:
    return f"writer-{writer}-{number}"


def write(
    catalog_url: str, store: Path, sources: list[Path], commits: int, waits: Path, writer: int
) -> None:
    """Commit again and again, and note the longest time that a commit took, in seconds."""
    longest_s = 0.0
    with until_connected(lambda: opened(catalog_url, store)) as registry:
        for number in range(commits):
            start_s = time.monotonic()
            until_connected(
                partial(
                    registry.commit,
                    sources[(writer + number) % len(sources)],
                    task="contended" if number % 2 else f"own-{writer}",
                    budget=0,  # the coder has no part in this
                    idempotency_key=key(writer, number),
                    allow_duplicate=True,
                )
            )
            longest_s = max(longest_s, time.monotonic() - start_s)
    (waits / str(writer)).write_text(str(longest_s))


def until_connected(call: Callable[[], T]) -> T:
    """Repeat a call while it loses its connection, as the error says."""
    while True:
        with suppress(ConnectionLostError):
            return call()


def read(catalog_url: str, store: Path, stop: Path) -> None:
    """Ask until told to stop: what was seen once stays, and every version can be resolved."""
    seen = 0
    while not stop.exists():
        try:
            with opened(catalog_url, store, mode="r") as registry:
                log = registry.log(SPACE, limit=1000)
                assert [entry.number for entry in log] == list(range(len(log), 0, -1))
                assert len(log) >= seen
                seen = len(log)
                for task in registry.tasks(SPACE):
                    latest = registry.resolve(f"{SPACE}/{task.name}@latest").version
                    assert latest is not None
                    assert latest >= task.version
        except (sr.NotFoundError, sr.CatalogError):
            assert not seen, "what was there is gone"
        except ConnectionLostError:
            assert catalog_url.startswith("postgresql")
        time.sleep(0.02)


def rebuild(catalog_url: str, store: Path, stop: Path) -> None:
    """Make the catalog again and again, as somebody does who thinks it is damaged."""
    while not stop.exists():
        with suppress(ConnectionLostError), opened(catalog_url, store) as registry:
            registry.rebuild()
        time.sleep(2)


def end_connections(catalog_url: str, _: Path, stop: Path) -> None:
    """End one connection of the database after the other, as a failover or an operator would."""
    numbers = Random(7)
    engine = create_engine(catalog_url)
    others = text(
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    while not stop.exists():
        with engine.connect() as connection:
            if pids := list(connection.scalars(others)):
                end = text("SELECT pg_terminate_backend(:pid)")
                connection.execute(end, {"pid": numbers.choice(pids)})
        time.sleep(0.2)
    engine.dispose()


def race(
    catalog_url: str,
    top: Path,
    others: Sequence[Callable[[str, Path, Path], None]],
    shape: tuple[int, int] = CI_SHAPE,
) -> float:
    """Let the writers race beside other processes; check that every commit is there once.

    Return the longest time that one of them took, in seconds.
    """
    (count, commits), store, stop, waits = shape, top / "store", top / "stop", top / "waits"
    waits.mkdir()
    sources = [write_adapter(top / f"a{seed}", seed=seed) for seed in range(5)]
    with opened("memory://", None) as registry:
        registry.commit(sources[0], budget=0)  # what it imports, the forks have
    beside = [fork(partial(other, catalog_url, store, stop)) for other in others]
    try:
        writers = [
            fork(partial(write, catalog_url, store, sources, commits, waits, writer))
            for writer in range(count)
        ]
        assert wait_for_all(writers) == [0] * count
    finally:
        stop.touch()
        codes = wait_for_all(beside)
    assert codes == [0] * len(others)
    with opened(catalog_url, store, mode="w") as registry:
        made = Counter(commit.key for commit in registry.log(SPACE, kind="absorb", limit=1000))
        assert made == Counter(key(w, n) for w in range(count) for n in range(commits))
        contended = count * (commits // 2)
        assert registry.resolve(f"{SPACE}/contended").version == contended
        assert registry.verify("deep").ok
    return max(float(path.read_text()) for path in waits.iterdir())


def test_every_commit_of_writers_that_race_is_there_once(tmp_path: Path, catalog_url: str) -> None:
    race(catalog_url, tmp_path, [read, rebuild])


def test_writers_that_lose_their_connections_lose_no_commit(
    tmp_path: Path, postgresql_url: str
) -> None:
    race(postgresql_url, tmp_path, [read, rebuild, end_connections])


@pytest.mark.soak
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_few_and_many_writers_that_race_lose_no_commit(
    tmp_path: Path, catalog_url: str, shape: tuple[int, int]
) -> None:
    is_server = catalog_url.startswith("postgresql")
    others = [read, rebuild, end_connections] if is_server else [read, rebuild]
    longest_s = race(catalog_url, tmp_path, others, shape)
    sys.stderr.write(f"{shape[0]} x {shape[1]} commits: the longest took {longest_s:.2f} s\n")


def test_a_lineage_is_whole_beside_a_commit_between_its_statements(
    tmp_path: Path, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each statement sees what is committed by then: the second knows a version more."""
    store = tmp_path / "store"
    sources = [write_adapter(tmp_path / f"a{seed}", seed=seed) for seed in range(3)]
    with opened(postgresql_url, store) as registry, opened(postgresql_url, store) as writer:
        registry.commit(sources[0], task="cola", budget=0)

        def commit_then_read(*arguments: Any) -> Any:
            writer.commit(sources[1], task="cola", budget=0, derived_from="cola@v1")
            return edges(*arguments)

        edges = lineage._edges
        monkeypatch.setattr(lineage, "_edges", commit_then_read)
        assert [node.ref for node in registry.lineage("cola@v1").nodes] == [f"{SPACE}/cola@v1"]


def test_a_catalog_is_made_again_from_a_store_that_is_only_read(tmp_path: Path) -> None:
    with opened(str(tmp_path / "registry"), None) as registry:
        registry.commit(write_adapter(tmp_path / "cola", seed=1), budget=0)
    store = LocalStore(tmp_path / "registry", Outside(), read_only=True)
    with sr.Registry.open(f"sqlite:///{tmp_path}/other.sqlite", store=store) as registry:
        assert registry.rebuild() == 2


def test_a_rebuild_keeps_a_space_that_comes_while_it_begins(
    tmp_path: Path, catalog_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def list_then_create(store: LocalStore, **options: Any) -> list[SpaceName]:
        monkeypatch.setattr(LocalStore, "spaces", listed)
        before = listed(store, **options)
        with opened(catalog_url, tmp_path / "store") as writer:
            writer.create_space(SPACE)
        return before

    with opened(catalog_url, tmp_path / "store") as registry:
        listed = LocalStore.spaces
        monkeypatch.setattr(LocalStore, "spaces", list_then_create)
        rebuild_catalog(registry.context.store, registry.context.catalog)
        with registry.context.catalog.begin() as session:
            assert lookups.space_names(session) == [SPACE]


def test_a_commit_goes_on_where_the_catalog_is_emptied_beside_it(
    tmp_path: Path, catalog_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_then_publish(*arguments: Any) -> Any:
        def catch_up_then_lose(context: Context) -> None:
            monkeypatch.setattr(Context, "catch_up", catch_up)
            catch_up(context)
            with context.catalog.begin(write=True) as session:
                wipe(session)

        monkeypatch.setattr(publish, "_attempt", attempt)
        monkeypatch.setattr(Context, "catch_up", catch_up_then_lose)
        return attempt(*arguments)

    catch_up, attempt = Context.catch_up, publish._attempt
    with opened(catalog_url, tmp_path / "store") as registry:
        registry.create_space(SPACE)
        monkeypatch.setattr(publish, "_attempt", lose_then_publish)
        registry.set_policy(sr.Policy(budget=0), space=SPACE)
        assert [commit.kind for commit in registry.log()] == ["policy", "create"]
