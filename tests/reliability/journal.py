"""What is left on a disk when the power fails.

Record every change of files and names, then build every state a crash may legally leave.

The rules are POSIX at its worst. A file's bytes are on the medium after a flush of the file;
before, they may be missing, torn or zeros. A name is there after a flush of its directory; before,
every change of every name may or may not have happened, each for itself.
"""

import hashlib
import itertools
import math
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from share_registry.outside.system import System

SECTOR: Final = 512
TOP: Final = 0
Tree = dict[str, bytes | None]
"""Path -> content, None for a directory."""


class Killed(BaseException):
    """The process is dead: no code of its own runs any more."""


@dataclass
class _File:
    durable: bytes = b""
    now: bytes = b""

    def outcomes(self) -> list[bytes]:
        if self.durable == self.now:
            return [self.now]
        torn = self.now[: len(self.now) // 2 // SECTOR * SECTOR]
        return list(dict.fromkeys([self.durable, self.now, torn, bytes(len(self.now))]))


@dataclass
class _Name:
    durable: int | None = None
    later: list[int | None] = field(default_factory=list)

    @property
    def now(self) -> int | None:
        return self.later[-1] if self.later else self.durable

    def outcomes(self) -> list[int | None]:
        return list(dict.fromkeys([self.durable, *self.later]))


@dataclass(frozen=True)
class Crash:
    """One state after a power cut, and what had been acknowledged by then."""

    tree: Tree
    acknowledged: tuple[str, ...]


class Journal:
    """The changes below one directory, by whoever made them.

    Args:
        top: The directory; it is on the medium.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self._lock = threading.RLock()
        self._changes: list[tuple[str, int, str, int | bytes | None]] = []
        self._numbers = itertools.count(1)
        self._names: dict[tuple[int, str], int] = {}

    def acknowledge(self, key: str) -> None:
        """Note that a writer told its user that this is done."""
        self._note("acknowledge", TOP, key, None)

    def find(self, path: str, folder: int) -> tuple[int, str]:
        """Return the directory of a path, and the name in it."""
        steps = Path(path).relative_to(self.top).parts if os.path.isabs(path) else Path(path).parts
        here = TOP if os.path.isabs(path) else folder
        for step in steps[:-1]:
            here = self._names[here, step]
        return here, steps[-1] if steps else "."

    def number(self, folder: int, name: str) -> int | None:
        """Return what a name leads to."""
        return folder if name == "." else self._names.get((folder, name))

    def create(self, folder: int, name: str) -> int:
        """Note a new file or directory."""
        number = next(self._numbers)
        self.rename(folder, name, number)
        return number

    def rename(self, folder: int, name: str, number: int | None) -> None:
        """Note that a name leads somewhere else, or nowhere."""
        with self._lock:
            if number is None:
                self._names.pop((folder, name), None)
            else:
                self._names[folder, name] = number
            self._note("name", folder, name, number)

    def write(self, number: int, content: bytes) -> None:
        """Note bytes at the end of a file."""
        self._note("write", number, "", content)

    def flush(self, number: int) -> None:
        """Note that a file's bytes, or a directory's names, are on the medium."""
        self._note("flush", number, "", None)

    def rot(self, path: Path, content: bytes) -> None:
        """Damage a file, on the medium and in memory."""
        folder, name = self.find(str(path), TOP)
        path.chmod(0o644)
        path.write_bytes(content)
        self._note("rot", self._names[folder, name], "", content)

    def crashes(self, *, most: int, since: int = 0, seed: int = 0) -> Iterator[Crash]:
        """Yield the states that a power cut after each change may leave, no state twice.

        For each change there are at most `most`.
        """
        draw = random.Random(seed)
        names: dict[tuple[int, str], _Name] = {}
        files: dict[int, _File] = {}
        acknowledged: list[str] = []
        seen: set[bytes] = set()
        for position, (verb, number, name, value) in enumerate(self._changes):
            self._apply(verb, number, name, value, names, files, acknowledged)
            if position < since:
                continue
            for tree in _outcomes(names, files, most, draw):
                mark = hashlib.sha256(
                    repr((sorted(tree.items()), len(acknowledged))).encode()
                ).digest()
                if mark not in seen:
                    seen.add(mark)
                    yield Crash(tree, tuple(acknowledged))

    def __len__(self) -> int:
        return len(self._changes)

    def _note(self, verb: str, number: int, name: str, value: int | bytes | None) -> None:
        with self._lock:
            self._changes.append((verb, number, name, value))

    @staticmethod
    def _apply(
        verb: str,
        number: int,
        name: str,
        value: int | bytes | None,
        names: dict[tuple[int, str], _Name],
        files: dict[int, _File],
        acknowledged: list[str],
    ) -> None:
        if verb == "acknowledge":
            acknowledged.append(name)
        elif verb == "name" and not isinstance(value, bytes):
            names.setdefault((number, name), _Name()).later.append(value)
        elif verb == "write" and isinstance(value, bytes):
            files.setdefault(number, _File()).now += value
        elif verb == "rot" and isinstance(value, bytes):
            files[number] = _File(durable=value, now=value)
        elif verb == "flush":
            if number in files:
                files[number].durable = files[number].now
            for (folder, _), entry in names.items():
                if folder == number:
                    entry.durable, entry.later = entry.now, []


def _outcomes(
    names: dict[tuple[int, str], _Name], files: dict[int, _File], most: int, draw: random.Random
) -> Iterator[Tree]:
    """Combine what may have become of every name and file.

    All combinations where they are few, else the two extremes and a sample; temporary files by
    chance.
    """
    temporary = {entry.now for (_, name), entry in names.items() if name == "tmp"}
    spots: list[tuple[int, str] | int] = [
        spot
        for spot, entry in names.items()
        if len(entry.outcomes()) > 1 and spot[0] not in temporary
    ]
    spots += [number for number, file in files.items() if len(file.outcomes()) > 1]
    choices = [
        names[spot].outcomes() if isinstance(spot, tuple) else files[spot].outcomes()
        for spot in spots
    ]
    litter = [
        spot for spot, entry in names.items() if len(entry.outcomes()) > 1 and spot[0] in temporary
    ]
    if math.prod(map(len, choices)) <= most:
        picks: Iterator[tuple[object, ...]] = itertools.product(*choices)
    else:
        drawn = [tuple(draw.choice(options) for options in choices) for _ in range(most - 2)]
        picks = iter(
            [
                tuple(options[0] for options in choices),
                tuple(options[-1] for options in choices),
                *drawn,
            ]
        )
    children: dict[int, list[tuple[str, _Name]]] = {}
    for (folder, name), entry in names.items():
        children.setdefault(folder, []).append((name, entry))
    for pick in picks:
        chance: dict[tuple[int, str] | int, object] = {
            spot: draw.choice(names[spot].outcomes()) for spot in litter
        }
        yield _tree(
            children,
            files,
            chance | dict[tuple[int, str] | int, object](zip(spots, pick, strict=True)),
        )


def _tree(
    children: dict[int, list[tuple[str, _Name]]],
    files: dict[int, _File],
    pick: Mapping[tuple[int, str] | int, object],
) -> Tree:
    tree: Tree = {}

    def grow(folder: int, path: str) -> None:
        for name, entry in children.get(folder, []):
            number = pick.get((folder, name), entry.now)
            if not isinstance(number, int):
                continue
            if number in files or number not in children:
                content = pick.get(number, files[number].now if number in files else None)
                tree[path + name] = content if isinstance(content, bytes) else None
            else:
                tree[path + name] = None
            if tree[path + name] is None:
                grow(number, f"{path}{name}/")

    grow(TOP, "")
    return tree


class Recorder(System):
    """The real system calls of one process, every change noted in a journal that processes share.

    Attributes:
        dead: Set when the process is killed: whatever it still tries has no effect.
        hook: Called with "mkdir" behind each new directory, a point that the library does not name.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.dead = False
        self.hook: Callable[[str], None] = lambda point: None
        self._open: dict[int, int] = {}

    def open(self, name: str, flags: int, *, mode: int = 0o666, folder: int | None = None) -> int:
        self._live()
        handle = super().open(name, flags, mode=mode, folder=folder)
        if folder not in self._open and not (
            os.path.isabs(name) and Path(name).is_relative_to(self.journal.top)
        ):
            return handle  # of no interest: not on the disk that will lose its power
        place = self._place(name, folder)
        number = self.journal.create(*place) if flags & os.O_CREAT else self.journal.number(*place)
        assert number is not None, name
        if flags & os.O_CREAT:
            self.journal.write(number, b"")
        self._open[handle] = number
        return handle

    def close(self, handle: int) -> None:
        self._open.pop(handle, None)
        super().close(handle)

    def read(self, handle: int, size: int) -> bytes:
        self._live()
        return super().read(handle, size)

    def write(self, handle: int, piece: memoryview) -> int:
        self._live()
        written = super().write(handle, piece)
        self.journal.write(self._open[handle], bytes(piece[:written]))
        return written

    def fsync(self, handle: int) -> None:
        self._live()
        if handle in self._open:  # no real flush: the journal is the disk
            self.journal.flush(self._open[handle])

    def link(
        self,
        source: str,
        target: str,
        *,
        source_folder: int | None = None,
        target_folder: int | None = None,
    ) -> None:
        self._live()
        super().link(source, target, source_folder=source_folder, target_folder=target_folder)
        self.journal.rename(
            *self._place(target, target_folder),
            self.journal.number(*self._place(source, source_folder)),
        )

    def rename(
        self,
        source: str,
        target: str,
        *,
        source_folder: int | None = None,
        target_folder: int | None = None,
    ) -> None:
        self._live()
        super().rename(source, target, source_folder=source_folder, target_folder=target_folder)
        self._moved(source, target, source_folder, target_folder)

    def rename_new(
        self,
        source: str,
        target: str,
        *,
        source_folder: int | None = None,
        target_folder: int | None = None,
    ) -> None:
        self._live()
        super().rename_new(source, target, source_folder=source_folder, target_folder=target_folder)
        self._moved(source, target, source_folder, target_folder)

    def unlink(self, name: str, *, folder: int | None = None) -> None:
        self._live()
        super().unlink(name, folder=folder)
        self.journal.rename(*self._place(name, folder), None)

    def mkdir(self, name: str, *, mode: int = 0o777, folder: int | None = None) -> None:
        self._live()
        super().mkdir(name, mode=mode, folder=folder)
        self.journal.create(*self._place(name, folder))
        self.hook("mkdir")

    def find(self, name: str, *, folder: int | None = None) -> os.stat_result:
        self._live()
        return super().find(name, folder=folder)

    def _live(self) -> None:
        if self.dead:
            raise Killed

    def _place(self, name: str, folder: int | None) -> tuple[int, str]:
        return self.journal.find(name, TOP if folder is None else self._open[folder])

    def _moved(
        self, source: str, target: str, source_folder: int | None, target_folder: int | None
    ) -> None:
        old = self._place(source, source_folder)
        self.journal.rename(*self._place(target, target_folder), self.journal.number(*old))
        self.journal.rename(*old, None)


def restore(tree: Tree, root: Path) -> None:
    """Write a state of the disk into an empty directory."""
    for path in sorted(tree):
        content = tree[path]
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)
