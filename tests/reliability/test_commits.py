"""Whole commits that are killed, refused by the system, or raced.

The old head or the new one, and no commit lost or made twice (P1, P2, P4, P8, P19).
"""

import errno
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

import share_registry as sr
from share_registry.errors import CommitStateUnknownError, StoreError
from tests.reliability.faults import Failing, once
from tests.reliability.processes import fork, kill_at, wait_for, wait_for_all
from tests.reliability.registries import adapters, commit, keys, opened, require_sound
from tests.reliability.scenarios import POINTS

COMMIT_POINTS = ("commit.publish", "commit.catalog", "commit.ack")
PUBLISHED = ("record.linked", "record.dirsync", "commit.catalog", "commit.ack")


@pytest.fixture
def root(quick_path: Path) -> Path:
    return quick_path / "registry"


@pytest.mark.parametrize("point", [*POINTS, *COMMIT_POINTS])
def test_a_commit_killed_at_any_point_is_made_once_by_its_retry(
    root: Path, quick_path: Path, point: str
) -> None:
    first, second, third = adapters(quick_path, 3)
    with opened(root) as registry:
        commit(registry, first, "one")

    def die() -> None:
        with opened(root, hook=kill_at(point)) as registry:
            commit(registry, second, "two")

    assert wait_for(fork(die)) == -signal.SIGKILL
    present = require_sound(root, acknowledged=["one"], attempted=["one", "two"])
    assert ("two" in present) == (point in PUBLISHED)
    with opened(root) as registry:
        again = commit(registry, second, "two")
        assert again.created == (point not in PUBLISHED)
        assert (again.task, again.version) == ("t1", 1)
        assert commit(registry, third, "three").created
    assert require_sound(
        root, acknowledged=["one", "two", "three"], attempted=["one", "two", "three"]
    ) == ["one", "two", "three"]


@pytest.mark.parametrize(
    "point", ["obj.prefsync", "record.prefsync", "record.linked", "commit.catalog"]
)
def test_the_first_commit_of_a_registry_killed_on_the_way_can_be_repeated(
    root: Path, quick_path: Path, point: str
) -> None:
    (adapter,) = adapters(quick_path, 1)

    def die() -> None:
        with opened(root, hook=kill_at(point)) as registry:
            commit(registry, adapter, "one")

    assert wait_for(fork(die)) == -signal.SIGKILL
    with opened(root) as registry:
        commit(registry, adapter, "one")
    assert require_sound(root, acknowledged=["one"], attempted=["one"]) == ["one"]


def _work(root: Path, adapter: Path, name: str, acknowledged: int) -> None:
    """Commit until killed; tell what was acknowledged through a pipe."""
    with opened(root) as registry:
        for number in range(10_000):
            key = f"{name}-{number}"
            try:
                commit(registry, adapter, key)
            except sr.ConflictError:
                continue
            os.write(acknowledged, f"{key}\n".encode())


def _cycle(root: Path, sources: list[Path], cycle: int, draw: random.Random) -> list[str]:
    """Let two writers race, kill one and then the other at any moment.

    Return what they acknowledged.
    """
    reading, writing = os.pipe()
    children = [
        fork(partial(_work, root, sources[number], f"{cycle}-{number}", writing))
        for number in range(2)
    ]
    os.close(writing)
    told = b""
    for child in children:
        enough = told.count(b"\n") + draw.randint(1, 3)
        while told.count(b"\n") < enough:
            piece = os.read(reading, 1 << 16)
            assert piece, "both writers gave up"
            told += piece
        time.sleep(draw.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
    assert wait_for_all(children) == [-signal.SIGKILL] * 2
    while piece := os.read(reading, 1 << 16):
        told += piece
    os.close(reading)
    return told.decode().split()


def _survives_kills(root: Path, top: Path, cycles: int, seed: int) -> None:
    draw = random.Random(seed)
    sources = adapters(top, 2)
    with opened(root) as registry:
        commit(registry, sources[0], "first")
    acknowledged = ["first"]
    for cycle in range(cycles):
        acknowledged += _cycle(root, sources, cycle, draw)
        if cycle % 5 == 4 or cycle == cycles - 1:
            with opened(root, mode="r") as reader:
                present = keys(reader)
            require_sound(root, acknowledged=acknowledged, attempted=present)
            assert {key.split("-")[0] for key in present} <= {"first", *map(str, range(cycles))}
    with opened(root) as registry:
        assert commit(registry, sources[1], "last").created


def test_two_writers_killed_at_random_lose_and_repeat_nothing(root: Path, quick_path: Path) -> None:
    _survives_kills(root, quick_path, cycles=5, seed=1)


@pytest.mark.soak
def test_two_writers_killed_very_often_lose_and_repeat_nothing(
    root: Path, quick_path: Path
) -> None:
    _survives_kills(
        root,
        quick_path,
        cycles=int(os.environ.get("SOAK_CYCLES", "500")),
        seed=int(os.environ.get("SEED", "0")),
    )


def _fault(root: Path, two: Path, n: int, code: int) -> bool:
    """Let call n of a commit fail; tell whether there were so many."""
    system = Failing(once(n, code))
    error: Exception | None = None
    try:
        with opened(root, system=system) as registry:
            commit(registry, two, "two")
    except (StoreError, CommitStateUnknownError) as caught:
        error = caught
    with opened(root, mode="r") as reader:
        present = keys(reader)
    if error is None:
        assert present == ["one", "two"]
    elif not isinstance(error, CommitStateUnknownError):
        assert present == ["one"], f"call {n} ({system.calls[-1]}): {error}"
    with opened(root) as registry:
        assert commit(registry, two, "two").created == ("two" not in present)
        assert keys(registry) == ["one", "two"]
    return len(system.calls) >= n


def _survives_failing_calls(root: Path, top: Path, code: int, step: int) -> None:
    first, second = adapters(top, 2)
    with opened(root) as registry:
        commit(registry, first, "one")
    n = 1
    while True:
        copy = top / f"registry-{code}-{n}"
        _copy(root, copy)
        if not _fault(copy, second, n, code):
            break
        n += step
    assert n > 100


def _copy(source: Path, target: Path) -> None:
    for path in [source, *sorted(source.rglob("*"))]:
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir()
        else:
            place.write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("code", "step"), [(errno.ENOSPC, 29), (errno.EIO, 37)], ids=["ENOSPC", "EIO"]
)
def test_a_failing_call_leaves_the_head_and_the_next_commit_works(
    root: Path, quick_path: Path, code: int, step: int
) -> None:
    _survives_failing_calls(root, quick_path, code, step)


@pytest.mark.soak
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE])
def test_every_failing_call_leaves_the_head_and_the_next_commit_works(
    root: Path, quick_path: Path, code: int
) -> None:
    _survives_failing_calls(root, quick_path, code, 1)


def test_a_flush_that_fails_behind_the_publication_is_never_acknowledged(
    root: Path, quick_path: Path
) -> None:
    first, second = adapters(quick_path, 2)
    with opened(root) as registry:
        commit(registry, first, "one")
    passed: list[str] = []
    system = Failing(
        lambda call: errno.EIO if passed and system.calls[-1] == "fsync" and passed.pop() else None
    )
    with (
        opened(
            root,
            hook=lambda point: passed.append(point) if point == "record.linked" else None,
            system=system,
        ) as registry,
        pytest.raises(CommitStateUnknownError, match="not known") as raised,
    ):
        commit(registry, second, "two")
    assert raised.value.key == "two"
    with opened(root) as registry:
        assert not commit(registry, second, "two").created
    require_sound(root, acknowledged=["one", "two"], attempted=["one", "two"])


def test_threads_share_a_registry(root: Path, quick_path: Path) -> None:
    sources = adapters(quick_path, 4)
    failures: list[BaseException] = []
    with opened(root) as registry:
        commit(registry, sources[0], "first")

        def work(number: int) -> None:
            try:
                for version in range(3):
                    commit(registry, sources[number], f"{number}-{version}")
                    keys(registry)
            except sr.ShareRegistryError as error:
                failures.append(error)

        threads = [Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
    assert failures == []
    expected = ["first", *(f"{number}-{version}" for number in range(4) for version in range(3))]
    assert sorted(require_sound(root, acknowledged=expected, attempted=expected)) == sorted(
        expected
    )


def test_a_registry_opened_before_a_fork_works_on_both_sides(root: Path, quick_path: Path) -> None:
    sources = adapters(quick_path, 3)
    with opened(root) as registry:
        commit(registry, sources[0], "before")
        children = [
            fork(partial(commit, registry, sources[number], f"child-{number}")) for number in (1, 2)
        ]
        commit(registry, sources[0], "parent")
        assert wait_for_all(children) == [0, 0]
        commit(registry, sources[0], "after")
    expected = ["before", "child-1", "child-2", "parent", "after"]
    assert sorted(require_sound(root, acknowledged=expected, attempted=expected)) == sorted(
        expected
    )


@pytest.mark.parametrize(
    "point",
    [
        "obj.half",
        "obj.linked",
        "record.postfsync",
        "record.linked",
        "commit.publish",
        "commit.catalog",
        "commit.ack",
    ],
)
def test_an_interrupt_at_any_point_leaves_a_registry_that_goes_on(
    root: Path, quick_path: Path, point: str
) -> None:
    first, second = adapters(quick_path, 2)
    interrupted: list[str] = []

    def hook(passed: str) -> None:
        if passed == point and "one" in interrupted and "two" not in interrupted:
            interrupted.append("two")
            raise KeyboardInterrupt

    with opened(root, hook=hook) as registry:
        commit(registry, first, "one")
        interrupted.append("one")
        with pytest.raises(KeyboardInterrupt):
            commit(registry, second, "two")
        assert commit(registry, second, "two").created == (point not in PUBLISHED)
        assert keys(registry) == ["one", "two"]
    assert list((root / "tmp").iterdir()) == []
    require_sound(root, acknowledged=["one", "two"], attempted=["one", "two"])
