"""A remover beside writers and readers, at every step of each (spec MNT-04, MNT-05; INV-1, INV-2)."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.outside.files import Outside
from share_registry.registry.opening import open_context
from share_registry.values.checks import Export
from share_registry.values.garbage import GarbageReport
from tests.conftest import url_of
from tests.reliability.registries import adapters
from tests.reliability.scenarios import NoFlush

GC_POINTS = ("gc.marked", "gc.planned", "gc.recheck", "gc.unlink")
COMMIT_POINTS = ("obj.linked", "obj.dirsync", "commit.publish", "record.linked", "commit.catalog")
WAIT_S = 0.3
"""Long enough for the other to come to the lock, or to be done, where there is none in its way."""

Hook = Callable[[str], None]
Opened = Callable[[Hook | None], sr.Registry]


@pytest.fixture(params=("sqlite", "postgresql"))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    """Open the same registry again and again, with hooks of their own."""
    url = url_of(request, tmp_path)
    made: list[sr.Registry] = []

    def make(hook: Hook | None = None) -> sr.Registry:
        outside = Outside(hook, system=NoFlush())
        context, _ = open_context(
            url, store=tmp_path / "store", space=None, mode="c", outside=outside
        )
        made.append(sr.Registry(context))
        return made[-1]

    yield make
    for registry in made:
        registry.close()


def _collect(registry: sr.Registry) -> GarbageReport:
    return registry.gc(grace_days=0, dry_run=False)


@contextmanager
def _beside(work: Callable[[], object], point: str) -> Iterator[tuple[Hook, list[object]]]:
    """Yield a hook that starts some work at a point, once, and lets it go on beside.

    What it returned, or raised, is in the list at the end of the block.
    """
    results: list[object] = []
    threads: list[threading.Thread] = []

    def run() -> None:
        try:
            results.append(work())
        except sr.ShareRegistryError as error:
            results.append(error)

    def hook(passed: str) -> None:
        if passed == point and not threads:
            threads.append(threading.Thread(target=run))
            threads[0].start()
            threads[0].join(WAIT_S)

    yield hook, results
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("point", GC_POINTS)
def test_a_commit_of_what_is_being_removed_is_whole(
    opened: Opened, tmp_path: Path, point: str
) -> None:
    first, second = adapters(tmp_path / "adapters", 2)
    writer = opened(None)
    writer.commit(first, task="first")
    writer.prepare(second, task="second")  # what lies there without a record
    with _beside(lambda: writer.commit(second, task="second"), point) as (hook, results):
        _collect(opened(hook))
    commit = (
        results[0] if isinstance(results[0], sr.Commit) else writer.commit(second, task="second")
    )
    assert isinstance(results[0], sr.Commit | sr.ConflictError), results
    assert commit.created
    assert writer.verify("deep").ok
    _collect(opened(None))
    assert _collect(opened(None)).garbage == ()
    assert writer.verify("deep").ok


@pytest.mark.parametrize("point", COMMIT_POINTS)
def test_a_removal_at_any_step_of_a_commit_takes_nothing_that_is_committed(
    opened: Opened, tmp_path: Path, point: str
) -> None:
    first, second = adapters(tmp_path / "adapters", 2)
    opened(None).commit(first, task="first")
    remover = opened(None)
    with _beside(lambda: _collect(remover), point) as (hook, results):
        writer = opened(hook)
        try:
            commit = writer.commit(second, task="second")
        except sr.ConflictError:
            # it says so, and that a second try stores them anew
            commit = writer.commit(second, task="second")
    assert isinstance(results[0], GarbageReport)
    assert commit.created
    assert writer.verify("deep").ok
    assert _collect(remover).garbage == ()


def test_what_is_put_again_after_the_list_was_made_stays(opened: Opened, tmp_path: Path) -> None:
    first, second = adapters(tmp_path / "adapters", 2)
    writer = opened(None)
    writer.commit(first, task="first")
    needed = {digest for digest, _ in writer.context.store.objects()}
    writer.prepare(second, task="second")
    orphans = {digest for digest, _ in writer.context.store.objects()} - needed
    for digest in orphans:
        path = tmp_path / "store" / "objects" / digest[:2] / digest[2:]
        os.utime(path, (0, path.stat().st_mtime - 8 * 86_400))

    def hook(passed: str) -> None:
        if passed == "gc.planned":
            writer.prepare(second, task="second")

    report = opened(hook).gc(grace_days=7, dry_run=False)
    assert report.garbage == ()
    assert orphans < {digest for digest, _ in writer.context.store.objects()}


def test_a_checkout_beside_a_removal_gives_what_was_committed(
    opened: Opened, tmp_path: Path
) -> None:
    (first,) = adapters(tmp_path / "adapters", 1)
    reader = opened(None)
    reader.commit(first, task="first")
    digest = reader.export("first", tmp_path / "before").digest
    with _beside(lambda: reader.export("first", tmp_path / "beside"), "gc.recheck") as (
        hook,
        results,
    ):
        reader.prepare(*adapters(tmp_path / "more", 1), task="more", budget=0.2)
        _collect(opened(hook))
    assert isinstance(results[0], Export)
    assert results[0].digest == digest


@pytest.mark.parametrize("point", GC_POINTS)
def test_a_removal_that_dies_is_run_again(opened: Opened, tmp_path: Path, point: str) -> None:
    class Dead(BaseException):
        pass

    def die(passed: str) -> None:
        if passed == point:
            raise Dead

    first, second = adapters(tmp_path / "adapters", 2)
    writer = opened(None)
    writer.commit(first, task="first")
    writer.prepare(second, task="second")
    with pytest.raises(Dead):
        _collect(opened(die))
    assert writer.verify("deep").ok
    _collect(opened(None))
    assert _collect(opened(None)).garbage == ()
    assert writer.verify("deep").ok
