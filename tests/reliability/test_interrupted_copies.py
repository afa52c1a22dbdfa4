"""Copies that are killed, raced or run beside removals end whole, or are run again."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.format.canonical import sha256
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.outside.files import Outside
from share_registry.store.local import LocalStore
from tests.cli.tiny import SPACE
from tests.registry.purging import continued
from tests.reliability.copying import (
    adapter_of,
    commit_to,
    files_of,
    flip,
    object_path,
    push,
    store_of,
)
from tests.reliability.processes import fork, wait_for
from tests.reliability.registries import opened
from tests.reliability.scenarios import NoFlush


def _remove_some(registry: sr.Registry, folder: Path) -> None:
    registry.commit(continued(folder, 1), task="t0")
    registry.commit(continued(folder, 2), task="t5", derived_from=["t0@v1"])
    registry.expire(["t0@v2"], dry_run=False)
    registry.purge("t1", dry_run=False)
    registry.gc(grace_days=0, dry_run=False)


def test_what_was_removed_is_not_missed(root: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    sr.clone(root, old)
    with opened(root, mode="w") as registry:
        _remove_some(registry, tmp_path / "t0")
    report = sr.clone(root, tmp_path / "copy")
    assert report.ok
    assert files_of(tmp_path / "copy") == files_of(root)
    assert push(root, old).ok
    with sr.Registry.open(old) as copy:
        assert copy.verify("deep").ok
        copy.gc(grace_days=0, dry_run=False)
    assert files_of(old) == files_of(root)


def test_a_copy_never_ends_where_it_would_lack_what_was_removed_later(
    root: Path, tmp_path: Path
) -> None:
    """Damage behind a commit whose version is gone, before the record that says so."""
    with opened(root, mode="w") as registry:
        _remove_some(registry, tmp_path / "t0")
    digest = adapter_of(root, "t5@v1")
    flip(object_path(root, digest))
    space = sr.clone(root, tmp_path / "copy").spaces[1]
    assert digest in space.refused
    # everything before the purge is unfinished without it
    assert space.records == 0
    with sr.Registry.open(tmp_path / "copy") as copy:
        assert copy.verify("deep").ok


def _killed_at(point: int, work: Callable[[Outside], object]) -> bool:
    """Do something in a process that ends at its n-th point; tell whether it got there."""
    passed = 0

    def hook(_: str) -> None:
        nonlocal passed
        passed += 1
        if passed == point:
            os._exit(9)

    return wait_for(fork(lambda: work(Outside(hook, system=NoFlush())))) == 9


def _clone(root: Path, target: Path, outside: Outside) -> None:
    identity = store_of(root).identity
    store = LocalStore.create(target, outside, identity)
    assert sr.clone(root, store).ok


def test_a_clone_that_is_killed_anywhere_is_run_again(root: Path, tmp_path: Path) -> None:
    before, point = files_of(root), 0
    left: list[int] = []
    while True:
        point += 9
        copy = tmp_path / f"copy-{point}"
        if not _killed_at(point, partial(_clone, root, copy)):
            break
        for name in files_of(copy):
            assert files_of(copy)[name] == before[name]
        if any(name.startswith("spaces/") for name in files_of(copy)):
            with opened(copy, mode="r") as registry:
                assert registry.verify("data").ok
        report = sr.clone(root, copy)
        left.append(report.objects)
        assert report.ok
        assert files_of(copy) == before
        shutil.rmtree(copy)
    assert len(left) > 10
    # it goes on from where it was
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0


def _at(point: str, action: Callable[[], object]) -> Outside:
    """Do something the first time that a point is passed."""
    pending = [action]

    def hook(passed: str) -> None:
        if passed == point and pending:
            pending.pop()()

    return Outside(hook, system=NoFlush())


def test_two_pushes_at_once_are_as_good_as_one(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    sr.clone(root, copy)
    commit_to(root, "t2", 7)
    commit_to(root, "t2", 8)
    outside = _at("obj.linked", lambda: push(root, copy))
    with opened(root, mode="r") as registry:
        report = registry.push(LocalStore(copy, outside))
    assert (report.ok, report.spaces[1].number) == (True, 8)
    assert files_of(copy) == files_of(root)


def test_a_writer_of_the_target_who_is_faster_loses_nothing(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    sr.clone(root, copy)
    commit_to(root, "t2", 7)
    commit_to(root, "t2", 8)
    outside = _at("record.linked", lambda: commit_to(copy, "t3", 9))
    with opened(root, mode="r") as registry:
        space = registry.push(LocalStore(copy, outside)).spaces[1]
    # the first record was copied, the second is the other writer's
    assert (space.records, space.has_diverged, space.number) == (1, True, 7)
    with opened(copy, mode="w") as registry:
        assert registry.resolve("t3").number == 8
        assert registry.verify("deep").ok


def test_what_the_target_has_and_nobody_needs_there_is_put_again(
    root: Path, tmp_path: Path
) -> None:
    """A collector of garbage may be about to remove what an earlier copy left."""
    copy = tmp_path / "copy"
    sr.clone(root, copy)
    commit_to(root, "t2", 7)
    digest = Digest(adapter_of(root, "t2@v1"))
    store_of(copy).put(object_path(root, digest).read_bytes(), digest)
    os.utime(object_path(copy, digest), (0, 0))
    old = adapter_of(root, "t0@v1")
    os.utime(object_path(copy, old), (0, 0))
    report = push(root, copy)
    assert report.present > 0
    assert object_path(copy, digest).stat().st_mtime > 1e9
    assert object_path(copy, old).stat().st_mtime == 0


def test_a_pull_publishes_nothing_whose_objects_were_removed_meanwhile(
    root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    sr.clone(root, copy)
    commit_to(root, "t2", 7)
    digest = adapter_of(root, "t2@v1")
    with opened(copy, mode="w") as registry:
        real = registry.context.lockable

        def late() -> object:
            object_path(copy, digest).unlink(missing_ok=True)
            return real()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(registry.context), "lockable", lambda _: late())
            with pytest.raises(sr.ConflictError, match="removed while"):
                registry.pull(root)
        assert registry.pull(root).ok
        assert registry.verify("deep").ok


def test_a_record_of_a_later_release_ends_the_copy_before_it(root: Path, tmp_path: Path) -> None:
    store = store_of(root)
    last = store.record(SpaceName(SPACE), CommitNumber(6)) or b""
    later = last.replace(b'"number":6', b'"number":7').replace(
        last.partition(b'"parent":"')[2][:64], sha256(last).encode()
    )
    later = later.replace(b'"requires":[]', b'"requires":["later"]')
    store.publish(SpaceName(SPACE), CommitNumber(7), later)
    space = sr.clone(root, tmp_path / "copy").spaces[1]
    assert (space.number, space.records) == (6, 6)
    assert "later" in space.refused
