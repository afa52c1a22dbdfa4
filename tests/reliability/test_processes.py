"""Processes that race and processes that are killed.

Every acknowledged commit is in the log once (P1, P2, P7).
"""

import signal
from functools import partial
from pathlib import Path

import pytest

from share_registry.outside.files import Outside
from share_registry.store.local import LocalStore
from tests.reliability.processes import fork, kill_at, wait_for, wait_for_all
from tests.reliability.scenarios import FORMAT_POINTS, IDENTITY, POINTS, SHARED, NoFlush
from tests.reliability.writer import Writer, check, keys_of


def sound(root: Path) -> LocalStore:
    return LocalStore.create(root, Outside(system=NoFlush()), IDENTITY)


def test_processes_that_race_lose_nothing(quick_path: Path) -> None:
    root = quick_path / "registry"
    sound(root)

    def write(writer: int) -> None:
        store = sound(root)
        for number in range(12):
            Writer().commit(store, f"{writer}-{number}", [SHARED, b"%d %d" % (writer, number)])

    children = [fork(partial(write, writer)) for writer in range(4)]
    assert wait_for_all(children) == [0] * 4
    keys = [f"{writer}-{number}" for writer in range(4) for number in range(12)]
    assert len(check(sound(root), acknowledged=keys, attempted=keys)) == 48


def test_creators_that_race_agree_on_one_store(quick_path: Path) -> None:
    for attempt in range(8):
        root = quick_path / f"registry-{attempt}"

        def create(creator: int, root: Path = root) -> None:
            store = LocalStore.create(
                root, Outside(system=NoFlush()), f"{creator:08d}-89ab-cdef-0123-456789abcdef"
            )
            (root.parent / f"{root.name}.{creator}").write_text(store.identity)

        children = [fork(partial(create, creator)) for creator in range(3)]
        assert wait_for_all(children) == [0] * 3
        seen = {(quick_path / f"{root.name}.{creator}").read_text() for creator in range(3)}
        assert seen == {LocalStore(root, Outside()).identity}


@pytest.mark.parametrize("point", POINTS)
def test_a_writer_killed_at_any_point_leaves_the_old_log_or_the_new_one(
    quick_path: Path, point: str
) -> None:
    root = quick_path / "registry"
    Writer().commit(sound(root), "one", [SHARED])
    child = fork(
        lambda: Writer().commit(
            LocalStore(root, Outside(kill_at(point), system=NoFlush())), "two", [SHARED, b"two"]
        )
    )
    assert wait_for(child) == -signal.SIGKILL
    store = sound(root)
    published = point in ("record.linked", "record.dirsync")
    assert keys_of(store) == (["one", "two"] if published else ["one"])
    Writer().commit(store, "three", [SHARED, b"two", b"three"])
    assert keys_of(store) == (["one", "two", "three"] if published else ["one", "three"])
    assert list(store.strays()) == []


@pytest.mark.parametrize("point", FORMAT_POINTS)
def test_a_creator_killed_at_any_point_is_no_obstacle_to_the_next(
    quick_path: Path, point: str
) -> None:
    root = quick_path / "registry"
    child = fork(
        lambda: LocalStore.create(root, Outside(kill_at(point), system=NoFlush()), IDENTITY)
    )
    assert wait_for(child) == -signal.SIGKILL
    Writer().commit(sound(root), "one", [SHARED])
    assert keys_of(sound(root)) == ["one"]
