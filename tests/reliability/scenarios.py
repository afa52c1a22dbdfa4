"""Runs of writers over a recorded disk, and the check of every state a power cut may leave."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from share_registry.errors import ShareRegistryError
from share_registry.outside.files import Outside
from share_registry.outside.system import System
from share_registry.store.local import LocalStore
from tests.reliability.journal import Crash, Journal, Killed, Recorder, restore
from tests.reliability.writer import LostError, Writer, check

IDENTITY: Final = "01234567-89ab-cdef-0123-456789abcdef"
SHARED: Final = b"a layout that every commit names"
POINTS: Final = tuple(
    f"{kind}.{step}"
    for kind in ("obj", "record")
    for step in ("open", "half", "prefsync", "postfsync", "linked", "dirsync")
)
FORMAT_POINTS: Final = (
    "format.linked",
    "format.postfsync",
    "format.prefsync",
    "format.half",
    "format.open",
    "probe.postfsync",
    "probe.open",
)

Kill = tuple[str, int]
"""A point, and at which passage of it a process dies."""
MKDIRS: Final[tuple[Kill, ...]] = tuple(("mkdir", nth) for nth in range(1, 10))
"""Behind every directory that a creation and a first commit make.

Root, objects, spaces, tmp, two shards, spaces/base, log; and one that is not reached.
"""
KILLS: Final = (
    *MKDIRS,
    ("format.linked", 1),
    *(
        (f"{kind}.{step}", nth)
        for kind in ("record", "obj")
        for step in ("postfsync", "linked", "dirsync")
        for nth in (1, 2)
    ),
)
"""Deaths that leave different things behind."""
ALL_KILLS: Final = (
    *MKDIRS,
    *((point, 1) for point in FORMAT_POINTS),
    *((point, nth) for point in POINTS for nth in (1, 2, 3)),
)


class NoLinks(System):
    """A file system without hard links."""

    def link(
        self,
        source: str,
        target: str,
        *,
        source_folder: int | None = None,
        target_folder: int | None = None,
    ) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), target)


class NoFlush(System):
    """The real system without its flushes: checking a state needs none."""

    def fsync(self, handle: int) -> None:
        return


@dataclass(frozen=True)
class World:
    """What the writers are made of; a planted fault replaces a part."""

    outside: type[Outside] = Outside
    store: type[LocalStore] = LocalStore
    writer: type[Writer] = Writer
    system: type[Recorder] = Recorder

    def open(self, journal: Journal, kill: Kill | None = None) -> LocalStore:
        """Open a store as a new process would, creating it where it is missing.

        The process dies at the n-th passage of a point.
        """
        system = self.system(journal)
        passed: list[str] = []

        def hook(point: str) -> None:
            passed.append(point)
            if kill is not None and point == kill[0] and passed.count(point) == kill[1]:
                system.dead = True
                raise Killed

        system.hook = hook
        outside = self.outside(hook, system=system)
        root = journal.top / "registry"
        return (
            self.store(root, outside)
            if outside.exists(root / "FORMAT")
            else self.store.create(root, outside, IDENTITY)
        )

    def commit(self, journal: Journal, store: LocalStore, key: str) -> None:
        """Commit two objects, one of them shared by all commits, and acknowledge it."""
        self.writer().commit(store, key, [SHARED, f"weights of {key} ".encode() * 40])
        journal.acknowledge(key)


def alone(world: World, top: Path) -> Iterator[tuple[Journal, int]]:
    """One writer, from the creation of the store on."""
    journal = Journal(top)
    store = world.open(journal)
    for key in ("one", "two", "three"):
        world.commit(journal, store, key)
    yield journal, 0


def after_a_death(
    world: World, top: Path, kills: Sequence[Kill] = KILLS
) -> Iterator[tuple[Journal, int]]:
    """A writer dies at a point of the creation, of its first or of its second commit.

    Then another one goes on.
    """
    for number, kill in enumerate(kills):
        place = top / f"{number}"
        place.mkdir()
        journal = Journal(place)
        since = 0
        try:
            first = world.open(journal, kill)
            for key in ("one", "two"):
                world.commit(journal, first, key)
        except Killed:
            since = len(journal)
        second = world.open(journal)
        world.commit(journal, second, "two of the second")
        yield journal, since


ATTEMPTED: Final = ("one", "two", "three", "two of the second")


# Crash states of a scenario that every run tries
CI_STATES: Final = 12


def survives(
    world: World,
    scenario: Callable[[World, Path], Iterator[tuple[Journal, int]]],
    top: Path,
    *,
    most: int,
    seed: int = 0,
) -> int:
    """Check every crash state of a scenario; return how many there were. Raises LostError."""
    states = 0
    work = top / "crashed"
    (top / "run").mkdir()
    for journal, since in scenario(world, top / "run"):
        for crash in journal.crashes(most=most, since=since, seed=seed):
            work.mkdir()
            try:
                recovers(crash, work)
            finally:
                shutil.rmtree(work)
            states += 1
    return states


def recovers(crash: Crash, work: Path) -> None:
    """Check one state: readable, nothing acknowledged lost, and the next commit works."""
    restore(crash.tree, work)
    try:
        _recovers(crash, work / "registry", Outside(system=NoFlush()))
    except ShareRegistryError as error:
        raise LostError(f"the store cannot be read or written any more: {error}") from error


def _recovers(crash: Crash, root: Path, outside: Outside) -> None:
    if (root / "FORMAT").exists():
        check(
            LocalStore(root, outside, read_only=True),
            acknowledged=crash.acknowledged,
            attempted=ATTEMPTED,
        )
    elif crash.acknowledged:
        raise LostError("the store is gone")
    store = LocalStore.create(root, outside, IDENTITY)
    Writer().commit(store, "next", [SHARED, b"next"])
    check(store, acknowledged=[*crash.acknowledged, "next"], attempted=[*ATTEMPTED, "next"])
