"""Everything outside the process: files, the clock, randomness. Only this package touches them.

`System` is one method per system call, `Outside` the few safe operations made of them. A test gives
another `System` to record, refuse or reorder calls, or a hook that raises, kills or waits at a
named point of a write.
"""

import copy
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    StoreError,
    ensure,
)
from share_registry.outside.file_content import FileContent, halves
from share_registry.outside.surroundings import Surroundings
from share_registry.outside.system import (
    CREATE,
    FOLDER,
    NO_FOLLOW,
    PIECE,
    READ,
    STEP,
    WINDOWS,
    Seen,
    System,
    errno_of,
    read_all,
    read_first,
    translate_errors,
)

_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Kind(StrEnum):
    """What a path is; links are not followed."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    SPECIAL = "device, pipe or socket"


_KINDS: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.LINK,
}


class Outside(Surroundings):
    """The real world: its surroundings, and the file system.

    Args:
        hook: Called with the name of every point passed.
        system: The system calls.
    """

    def __init__(
        self, hook: Callable[[str], None] | None = None, *, system: System | None = None
    ) -> None:
        self._hook = hook
        self._system = system or System()
        self._root: Path | None = None

    def confined(self, root: Path) -> Self:
        """Return a view of what lies below `root`, in which no link is followed on the way."""
        view = copy.copy(self)
        view._root = root
        return view

    def at(self, point: str) -> None:
        """Pass a named point."""
        if self._hook is not None:
            self._hook(point)

    def absolute(self, path: Path) -> Path:
        """Return a path that a later change of the working directory does not move."""
        return path.absolute()

    def resolved(self, path: Path) -> Path:
        """Return the path that a chain of links leads to; a chain without an end leads nowhere."""
        # Path.resolve raises RuntimeError for such a chain before Python 3.13
        return Path(os.path.realpath(path))

    def free_bytes(self, path: Path) -> int:
        """Return how much may still be written to the medium of a directory. Raises StoreError."""
        with translate_errors(path):
            return shutil.disk_usage(path).free

    def may_write(self, folder: Path) -> bool:
        """Tell whether this user may make files in a directory, as far as its rights say so."""
        return os.access(
            folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
        )

    def temporary_directory(self, prefix: str) -> Path:
        """Create a directory of our own where the system keeps temporary ones.

        Raises StoreError.
        """
        with translate_errors(Path(prefix)):
            return Path(tempfile.mkdtemp(prefix=prefix))

    def kind(self, path: Path) -> Kind | None:
        """Return what a path is, None where nothing is; links are not followed.

        Raises StoreError.
        """
        status = self._status(path)
        return None if status is None else _KINDS.get(stat.S_IFMT(status.st_mode), Kind.SPECIAL)

    def kind_behind(self, path: Path) -> Kind | None:
        """Return what a path leads to, links followed; None for nothing or a circle of links.

        Raises StoreError.
        """
        kind = self.kind(path)
        if kind is not Kind.LINK:
            return kind
        kind = self.kind(self.resolved(path))
        return None if kind is Kind.LINK else kind

    def exists(self, path: Path) -> bool:
        """Tell whether a path exists (links are not followed). Raises StoreError."""
        return self._status(path) is not None

    def first_of(self, folder: Path, names: Sequence[str]) -> str | None:
        """Return the first of some names that a directory holds; the way there is walked once.

        Raises StoreError.
        """
        with (
            translate_errors(folder),
            suppress(FileNotFoundError, NotADirectoryError),
            self._spot(folder / names[0]) as (_, inside),
        ):
            for name in names:
                with suppress(FileNotFoundError):
                    place = os.fspath(folder / name) if inside is None else name
                    self._system.find(place, folder=inside)
                    return name
        return None

    def size(self, path: Path) -> int | None:
        """Return the size of a regular file, None where there is none. Raises StoreError."""
        status = self._status(path)
        return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None

    def modified_s(self, path: Path) -> float | None:
        """Return when a file was last written or touched, in seconds since 1970; None without one.

        Raises StoreError.
        """
        status = self._status(path)
        return None if status is None else status.st_mtime

    def stamp(self, path: Path) -> tuple[int, ...] | None:
        """Return numbers that differ after every write to a regular file; None where there is none.

        Raises StoreError.
        """
        status = self._status(path)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        # the last cannot be set, unlike the one before
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def read(self, path: Path, *, limit: int, seen: Seen | None = None) -> bytes:
        """Read a whole regular file.

        Args:
            path: Which.
            limit: Bytes it may have.
            seen: Called with every piece of at most 1 MiB, in order; where there are several, by
                another thread, so that one is hashed while the next is read.

        Raises:
            NotFoundError: there is none.
            IntegrityError: not a regular file, or larger than the limit.
            StoreError: the system refuses.
        """
        with translate_errors(path):
            try:
                with (
                    self._spot(path) as (name, folder),
                    self._closing(self._system.open(name, READ, folder=folder)) as handle,
                ):
                    return read_all(self._system, handle, path, limit=limit, seen=seen)
            except FileNotFoundError as error:
                raise NotFoundError(
                    f"file {path} does not exist.", hint="Check the path."
                ) from error

    def read_beginning(self, path: Path, *, size: int) -> bytes:
        """Read the first bytes of a regular file, as many as there are up to `size`.

        Raises as `read`.
        """
        with translate_errors(path):
            try:
                with (
                    self._spot(path) as (name, folder),
                    self._closing(self._system.open(name, READ, folder=folder)) as handle,
                ):
                    return read_first(self._system, handle, path, size=size)
            except FileNotFoundError as error:
                raise NotFoundError(
                    f"file {path} does not exist.", hint="Check the path."
                ) from error

    def write_new(
        self, path: Path, content: FileContent, *, point: str = "file", frozen: bool = False
    ) -> None:
        """Create a file that must not exist, write it whole and make it durable.

        A failed write removes the file. In a directory that a group shares, the group may read it,
        and write it unless it is frozen, whatever the umask.

        Args:
            path: Where.
            content: All of it; what comes in parts is made while it is written.
            point: Prefix of the points passed: `.open`, `.half`, `.prefsync`, `.postfsync`.
            frozen: Leave nobody the right to write.

        Raises:
            StoreError: the system refuses; a descriptor whose flush failed is never flushed again.
        """
        with translate_errors(path), self._spot(path) as (name, folder):
            handle = self._system.open(name, CREATE, folder=folder)
            try:
                with self._closing(handle):
                    self._permit_group(handle, path, folder)
                    self._fill(handle, content, point, frozen)
            except BaseException:
                with suppress(OSError):
                    self._system.unlink(name, folder=folder)
                raise

    def rewrite(self, path: Path, content: FileContent, *, point: str = "file") -> None:
        """Write a file whole and durable, in one step in place of whatever is there.

        Arguments as in `write_new`. Raises StoreError; nothing is left behind.
        """
        fresh = path.with_name(f".{path.name}.{self.token()[:16]}.new")
        self.write_new(fresh, content, point=point)
        try:
            self.replace(fresh, path)
        except BaseException:
            with suppress(ShareRegistryError):
                self.remove(fresh)
            raise
        self.sync_directory(path.parent)

    def make_file(self, path: Path) -> None:
        """Create an empty file where nothing is, with the rights of every other.

        Raises StoreError.
        """
        with (
            translate_errors(path),
            suppress(FileExistsError),
            self._spot(path) as (name, folder),
            self._closing(self._system.open(name, CREATE, folder=folder)) as handle,
        ):
            self._permit_group(handle, path, folder)

    def link_new(self, source: Path, target: Path) -> bool:
        """Give a file a name that must not exist; tell whether it was free.

        Where the file system has no hard links the file is moved instead, still without replacing
        anything.

        Raises:
            StoreError: the system refuses; `nothing_done` tells whether the target is surely
                untouched.
        """
        with (
            translate_errors(target),
            self._spot(source) as (old, old_folder),
            self._spot(target) as (new, new_folder),
        ):
            try:
                self._system.link(old, new, source_folder=old_folder, target_folder=new_folder)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self._move_new(old, new, old_folder, new_folder)
        return True

    def replace(self, source: Path, target: Path) -> None:
        """Rename over whatever is there. Raises StoreError."""
        with (
            translate_errors(target),
            self._spot(source) as (old, old_folder),
            self._spot(target) as (new, new_folder),
        ):
            self._system.rename(old, new, source_folder=old_folder, target_folder=new_folder)

    def rename_directory(self, source: Path, target: Path) -> bool:
        """Move a directory to a name that must be free or an empty directory; tell whether it was.

        Raises StoreError.
        """
        try:
            self.replace(source, target)
        except StoreError as error:
            if errno_of(error) in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            raise
        return True

    def make_directory(self, path: Path, *, private: bool = False) -> list[Path]:
        """Create a directory and its parents and make the new names durable.

        One in a directory that a group shares is the group's too, whatever the umask; a private one
        is its user's alone. Returns those that were not there, the innermost first.

        Raises StoreError, or Refused where a file is in the way.
        """
        missing = []
        while (kind := self.kind(path)) is None and path != self._root:
            missing.append(path)
            path = path.parent
        ensure(
            kind not in (Kind.FILE, Kind.SPECIAL),
            RefusedError(
                f"{path} is a {kind}, expected a directory.", hint="Choose another place."
            ),
        )
        for directory in reversed(missing):
            with (
                translate_errors(directory),
                self._spot(directory) as (name, folder),
                suppress(FileExistsError),
            ):
                self._system.mkdir(name, mode=0o700 if private else 0o777, folder=folder)
                rights = 0 if private else self._group_rights(directory, folder)
                if rights:
                    self._system.permit_name(name, rights | stat.S_ISGID, folder=folder)
            self.sync_directory(directory.parent)
        return missing

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable. Raises StoreError."""
        # Windows has no such call; its file systems journal names
        if WINDOWS:
            return
        flags = FOLDER | (NO_FOLLOW if self._root else 0)
        with (
            translate_errors(path),
            self._spot(path) as (name, folder),
            self._closing(self._system.open(name, flags, folder=folder)) as handle,
        ):
            try:
                self._system.fsync(handle)
            except OSError as error:
                # the answer of file systems that cannot flush a directory
                if error.errno != errno.EINVAL:
                    raise

    def touch(self, path: Path) -> None:
        """Refresh a modification time; not essential, so never an error."""
        with (
            suppress(ShareRegistryError),
            translate_errors(path),
            self._spot(path) as (name, folder),
        ):
            self._system.touch(name, folder=folder)

    def remove(self, path: Path) -> bool:
        """Remove a file; tell whether it was there. Raises StoreError."""
        with (
            translate_errors(path),
            suppress(FileNotFoundError),
            self._spot(path) as (name, folder),
        ):
            self._system.unlink(name, folder=folder)
            return True
        return False

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and all that is in it; links are removed, not followed.

        Raises StoreError.
        """
        inside = self if self._root else self.confined(path.parent)
        for name in inside.names(path):
            if inside.kind(path / name) is Kind.DIRECTORY:
                inside.remove_tree(path / name)
            else:
                inside.remove(path / name)
        inside.remove_empty(path)

    def remove_empty(self, path: Path) -> None:
        """Remove a directory in which nothing is. Raises StoreError, also where something is."""
        with (
            translate_errors(path),
            suppress(FileNotFoundError),
            self._spot(path) as (name, folder),
        ):
            self._system.rmdir(name, folder=folder)

    def names(self, path: Path) -> list[str]:
        """Return the names in a directory, sorted; none where it is missing. Raises StoreError."""
        with (
            translate_errors(path),
            suppress(FileNotFoundError),
            self._spot(path) as (name, folder),
        ):
            return sorted(self._system.listdir(name, folder=folder))
        return []

    def files_below(self, root: Path) -> Iterator[Path]:
        """Yield everything below a directory that is no directory, sorted, links not followed.

        Raises StoreError.
        """
        folders = []
        for name in self.names(root):
            if self.kind(root / name) is Kind.DIRECTORY:
                folders.append(root / name)
            else:
                yield root / name
        for folder in folders:
            yield from self.files_below(folder)

    @contextmanager
    def _spot(self, path: Path) -> Iterator[tuple[str, int | None]]:
        """Yield the name to act on and the open directory it starts from.

        Below a confining root every step there is taken without following a link.
        """
        steps = () if self._root is None else _steps(path, self._root)
        if self._root is None or WINDOWS:
            yield os.fspath(path), None
            return
        folder = self._system.open(os.fspath(self._root), STEP)
        try:
            for step in steps[:-1]:
                inner = self._step(step, folder, path)
                self._release(folder)
                folder = inner
            yield steps[-1], folder
        finally:
            self._release(folder)

    def _step(self, name: str, folder: int, path: Path) -> int:
        try:
            return self._system.open(name, STEP | NO_FOLLOW, folder=folder)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise IntegrityError(
                    f"{name!r} on the way to {path} is a link or a file, expected a directory.",
                    hint="Run verify.",
                ) from error
            raise

    def _release(self, handle: int) -> None:
        with suppress(OSError):
            self._system.close(handle)

    @contextmanager
    def _closing(self, handle: int) -> Iterator[int]:
        """Close a descriptor; a failure to close counts, unless something failed before."""
        try:
            yield handle
        except BaseException:
            self._release(handle)
            raise
        self._system.close(handle)

    def _status(self, path: Path) -> os.stat_result | None:
        with (
            translate_errors(path),
            suppress(FileNotFoundError, NotADirectoryError),
            self._spot(path) as (name, folder),
        ):
            return self._system.find(name, folder=folder)
        return None

    def _group_rights(self, path: Path, folder: int | None) -> int:
        """Return the rights that a directory gives to its group, where it is shared by one.

        That is one with the setgid bit that the group may write.
        """
        if WINDOWS:
            return 0
        place = os.fspath(path.parent) if folder is None else "."
        mode = self._system.find(place, folder=folder).st_mode
        return mode & stat.S_IRWXG if mode & stat.S_ISGID and mode & stat.S_IWGRP else 0

    def _permit_group(self, handle: int, path: Path, folder: int | None) -> None:
        """Let a group read and write a new file of a directory that it shares."""
        if rights := self._group_rights(path, folder):
            self._system.permit(handle, rights & (stat.S_IRGRP | stat.S_IWGRP))

    def _fill(self, handle: int, content: FileContent, point: str, frozen: bool) -> None:
        self.at(f"{point}.open")
        for part in halves(content):
            if part is None:
                self.at(f"{point}.half")
                continue
            while part:
                part = part[self._system.write(handle, part[:PIECE]) :]
        self.at(f"{point}.prefsync")
        if frozen:
            self._system.freeze(handle)
        self._system.fsync(handle)
        self.at(f"{point}.postfsync")

    def _move_new(self, old: str, new: str, old_folder: int | None, new_folder: int | None) -> bool:
        try:
            self._system.rename_new(old, new, source_folder=old_folder, target_folder=new_folder)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
                raise RefusedError(
                    f"the file system of {new} can neither link nor rename without replacing, "
                    "so two writers could overwrite each other.",
                    hint="Put the registry on another file system.",
                ) from error
            raise
        return True


def _steps(path: Path, root: Path) -> tuple[str, ...]:
    try:
        steps = path.relative_to(root).parts or (".",)
    except ValueError as error:
        raise InvalidInputError(f"path {path} is not below {root}.") from error
    ensure(".." not in steps, InvalidInputError(f"path {path} has a step upwards."))
    return steps
