"""The tests of this folder notice the faults they are there for: each is planted here once."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from share_registry.errors import StoreError
from share_registry.format.canonical import sha256
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.outside.file_content import FileContent
from share_registry.outside.files import Outside
from share_registry.store.local import LocalStore
from share_registry.store.protocol import Store
from tests.reliability.faults import SHORT, once, survives_a_race, survives_faults
from tests.reliability.journal import Journal
from tests.reliability.scenarios import CI_STATES, MKDIRS, World, after_a_death, alone, survives
from tests.reliability.writer import SPACE, LostError, Writer


class FilesAreNotFlushed(Outside):
    def _fill(self, handle: int, content: FileContent, point: str, frozen: bool) -> None:
        self.at(f"{point}.open")
        self._system.write(handle, memoryview(bytes(content)))
        self.at(f"{point}.postfsync")


class NamesAreNotFlushed(Outside):
    def sync_directory(self, path: Path) -> None:
        return


class FlushedAfterTheLink(Outside):
    def write_new(
        self, path: Path, content: FileContent, *, point: str = "file", frozen: bool = False
    ) -> None:
        with (
            self._spot(path) as (name, folder),
            self._closing(self._system.open(name, 0o301, folder=folder)) as handle,
        ):
            self._system.write(handle, memoryview(bytes(content)))

    def link_new(self, source: Path, target: Path) -> bool:
        new = super().link_new(source, target)
        with (
            self._spot(source) as (name, folder),
            self._closing(self._system.open(name, 0, folder=folder)) as handle,
        ):
            self._system.fsync(handle)
        return new


class RenamedOver(Outside):
    def link_new(self, source: Path, target: Path) -> bool:
        self.replace(source, target)
        return True


class ShortWritesAreTakenForWhole(Outside):
    def _fill(self, handle: int, content: FileContent, point: str, frozen: bool) -> None:
        self._system.write(handle, memoryview(bytes(content)))
        self._system.fsync(handle)


class FlushesAreTriedAgain(Outside):
    def _fill(self, handle: int, content: FileContent, point: str, frozen: bool) -> None:
        self._system.write(handle, memoryview(bytes(content)))
        try:
            self._system.fsync(handle)
        except OSError:
            self._system.fsync(handle)


class NewDirectoriesAreNotFlushed(LocalStore):
    def _make_named(self, folder: Path) -> None:
        if not self._outside.exists(folder):
            self._make_named(folder.parent)
            with self._outside._spot(folder) as (name, parent):
                self._outside._system.mkdir(name, folder=parent)


class DirectoriesOfOthersAreNotFlushed(LocalStore):
    def _make_named(self, folder: Path) -> None:
        if not self._outside.exists(folder):
            super()._make_named(folder)
        elif folder.parent == self._root:
            self._outside.sync_directory(self._root)


class FormatOfOthersIsNotFlushed(LocalStore):
    def _make_named(self, folder: Path) -> None:
        if folder.parent != self._root:
            super()._make_named(folder)


class ObjectsOfOthersAreNotFlushed(LocalStore):
    def _renew(self, path: Path, content: bytes) -> None:
        return


class RecordsAreNotFlushed(LocalStore):
    def _link_record(self, temporary: Path, path: Path, content: bytes) -> bool:
        return self._outside.link_new(temporary, path)


class RecordsOfOthersAreNotFlushed(LocalStore):
    def sync_log(self, space: SpaceName) -> None:
        return


class ClearsUpAfterAnUnknownOutcome(LocalStore):
    def _link_record(self, temporary: Path, path: Path, content: bytes) -> bool:
        try:
            return super()._link_record(temporary, path, content)
        except StoreError:
            with suppress(StoreError):
                self._outside.remove(path)
            raise


class TakesAnUnknownOutcomeForAFailure(LocalStore):
    def _link_record(self, temporary: Path, path: Path, content: bytes) -> bool:
        try:
            return super()._link_record(temporary, path, content)
        except StoreError as error:
            raise StoreError("nothing was published.") from error


class AcknowledgesAFailedFlush(LocalStore):
    def _link_record(self, temporary: Path, path: Path, content: bytes) -> bool:
        with suppress(StoreError):
            return super()._link_record(temporary, path, content)
        return True


class PublishesBeforeItPuts(Writer):
    def put(self, store: Store, contents: Sequence[bytes]) -> list[Digest]:
        return [sha256(content) for content in contents]

    def commit(
        self, store: Store, key: str, contents: Sequence[bytes], *, space: SpaceName = SPACE
    ) -> CommitNumber:
        number = super().commit(store, key, contents, space=space)
        super().put(store, contents)
        return number


class AcknowledgesBeforeItPublishes(World):
    def commit(self, journal: Journal, store: LocalStore, key: str) -> None:
        journal.acknowledge(key)
        super().commit(journal, store, key)


class RetriesAnUnknownOutcomeBlindly(Writer):
    def commit(
        self, store: Store, key: str, contents: Sequence[bytes], *, space: SpaceName = SPACE
    ) -> CommitNumber:
        try:
            return super().commit(store, key, contents, space=space)
        except StoreError:
            return super().commit(store, key, contents, space=space)


Scenario = Callable[[World, Path], Iterator[tuple[Journal, int]]]
POWER: Final[list[tuple[World, Scenario]]] = [
    (World(outside=FilesAreNotFlushed), alone),
    (World(outside=NamesAreNotFlushed), alone),
    (World(outside=FlushedAfterTheLink), alone),
    (World(store=NewDirectoriesAreNotFlushed), alone),
    (World(store=RecordsAreNotFlushed), alone),
    (World(writer=PublishesBeforeItPuts), alone),
    (AcknowledgesBeforeItPublishes(), alone),
    (World(store=DirectoriesOfOthersAreNotFlushed), partial(after_a_death, kills=MKDIRS)),
    (World(store=FormatOfOthersIsNotFlushed), partial(after_a_death, kills=[("format.linked", 1)])),
    (
        World(store=ObjectsOfOthersAreNotFlushed),
        partial(after_a_death, kills=[("obj.linked", 1), ("obj.linked", 2)]),
    ),
    (
        World(store=RecordsOfOthersAreNotFlushed),
        partial(after_a_death, kills=[("record.linked", 1), ("record.linked", 2)]),
    ),
]


def _name(value: object) -> str:
    if isinstance(value, World):
        parts = (type(value), value.outside, value.store, value.writer)
        return next(part.__name__ for part in parts if part.__module__ == __name__)
    return (
        errno.errorcode.get(value, "short")
        if isinstance(value, int)
        else getattr(value, "__name__", "dying")
    )


@pytest.mark.parametrize(("world", "scenario"), POWER, ids=_name)
def test_a_power_cut_shows(quick_path: Path, world: World, scenario: Scenario) -> None:
    with pytest.raises(LostError):
        survives(world, scenario, quick_path, most=CI_STATES)


@pytest.mark.parametrize(
    ("world", "code"),
    [
        (World(outside=ShortWritesAreTakenForWhole), SHORT),
        (World(outside=FlushesAreTriedAgain), errno.EIO),
        (World(store=ClearsUpAfterAnUnknownOutcome), errno.EIO),
        (World(store=TakesAnUnknownOutcomeForAFailure), errno.EIO),
        (World(store=AcknowledgesAFailedFlush), errno.EIO),
        (World(writer=RetriesAnUnknownOutcomeBlindly), errno.EIO),
    ],
    ids=_name,
)
def test_a_failing_call_shows(quick_path: Path, world: World, code: int) -> None:
    with pytest.raises(LostError):
        survives_faults(world, quick_path, once, code)


def test_a_lost_race_shows(quick_path: Path) -> None:
    with pytest.raises(LostError):
        survives_a_race(World(outside=RenamedOver), quick_path, "record.postfsync")
