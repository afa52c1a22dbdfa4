"""System calls, what they say when they refuse, and the reading of a whole file through them.

`System`, one method each, is the instrument with which a test records, refuses or reorders what the
library asks of the system. A file that is read is in memory once, however large it is, and may be
hashed while the rest is read.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final

from typing_extensions import override

from share_registry.errors import (
    IntegrityError,
    RefusedError,
    ShareRegistryError,
    StoreError,
    ensure,
)

WINDOWS: Final = os.name == "nt"
NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_BASIC: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_DIRECTORY: Final = getattr(os, "O_DIRECTORY", 0)
# Flags to read a file: no link is followed and a named pipe does not block
READ: Final = os.O_RDONLY | _BASIC | NO_FOLLOW | getattr(os, "O_NONBLOCK", 0)
CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BASIC | NO_FOLLOW
FOLDER: Final = os.O_RDONLY | _BASIC | _DIRECTORY
# Flags to pass through a directory that need not be readable
STEP: Final = _BASIC | _DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
_RENAME_NOREPLACE: Final = 1
_HERE: Final = -100  # AT_FDCWD
# Bytes that are read or written at a time
PIECE: Final = 1 << 20
# What is called with every piece of a file
Seen = Callable[[bytes | memoryview], object]
_NOTHING_DONE: Final = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EMLINK,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    }
)

_PERMISSIONS: Final = "Check its permissions and those of its directory."
_PATH: Final = "Check the path and the permissions, and run it again."
# What a registry has at its root, and how deep its files lie below
_MARK: Final = "FORMAT"
_DEEPEST: Final = 5
# What is said of a registry's own files
_SHARE: Final = (
    "Check the permissions of the directory. To share a registry, its owner gives it to a group: "
    "`chgrp -R GROUP PLACE; chmod -R g+rwX PLACE; find PLACE -type d -exec chmod g+s {} +`."
)
_HINTS: Final = {
    errno.ENOSPC: "Free some space and run it again.",
    errno.EDQUOT: "Raise the quota or free some space and run it again.",
    errno.EROFS: "The medium is read-only: write to another place, "
    "and open it with mode 'r' where it is a registry.",
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.ENOENT: _PATH,
    errno.ENOTDIR: _PATH,
    errno.EMFILE: "Raise the limit of open files (ulimit -n) and run it again.",
}


class System:
    """System calls, one method each.

    `folder` is an open directory that a relative name starts from.
    """

    def open(self, name: str, flags: int, *, mode: int = 0o666, folder: int | None = None) -> int:
        """Open or create a file."""
        return os.open(name, flags, mode, dir_fd=folder)

    def close(self, handle: int) -> None:
        """Close a descriptor."""
        os.close(handle)

    def read(self, handle: int, size: int) -> bytes:
        """Read at most `size` bytes."""
        return os.read(handle, size)

    def read_into(self, handle: int, place: memoryview) -> int:
        """Read at most as many bytes as there is place, and return how many."""
        if hasattr(os, "readv"):
            return os.readv(handle, [place])
        content = os.read(handle, len(place))
        place[: len(content)] = content
        return len(content)

    def write(self, handle: int, piece: memoryview) -> int:
        """Write some of the piece and return how much."""
        return os.write(handle, piece)

    def fsync(self, handle: int) -> None:
        """Flush a descriptor to the medium."""
        os.fsync(handle)

    def freeze(self, handle: int) -> None:
        """Take away the right to write, and whatever else the umask already took.

        The owner can always read.
        """
        if not WINDOWS:
            os.fchmod(handle, os.fstat(handle).st_mode & 0o444 | 0o400)

    def permit(self, handle: int, rights: int) -> None:
        """Add rights to an open file."""
        os.fchmod(handle, stat.S_IMODE(os.fstat(handle).st_mode) | rights)

    def permit_name(self, name: str, rights: int, *, folder: int | None = None) -> None:
        """Add rights to a directory that was just created."""
        os.chmod(name, stat.S_IMODE(self.find(name, folder=folder).st_mode) | rights, dir_fd=folder)

    def status(self, handle: int) -> os.stat_result:
        """Return the status of an open file."""
        return os.fstat(handle)

    def find(self, name: str, *, folder: int | None = None) -> os.stat_result:
        """Return the status of a name; links are not followed."""
        return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def link(
        self,
        source: str,
        target: str,
        *,
        source_folder: int | None = None,
        target_folder: int | None = None,
    ) -> None:
        """Give a file a second name that must not exist."""
        os.link(
            source,
            target,
            src_dir_fd=source_folder,
            dst_dir_fd=target_folder,
            follow_symlinks=WINDOWS,
        )

    def rename(
        self,
        source: str,
        target: str,
        *,
        source_folder: int | None = None,
        target_folder: int | None = None,
    ) -> None:
        """Rename over whatever is there."""
        os.replace(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder)

    def rename_new(
        self,
        source: str,
        target: str,
        *,
        source_folder: int | None = None,
        target_folder: int | None = None,
    ) -> None:
        """Rename to a name that must not exist."""
        if WINDOWS:
            os.rename(source, target)  # there it never replaces
            return
        import ctypes

        call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if call is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), target)
        old, new = (
            _HERE if source_folder is None else source_folder,
            _HERE if target_folder is None else target_folder,
        )
        if call(old, os.fsencode(source), new, os.fsencode(target), _RENAME_NOREPLACE):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), target)

    def unlink(self, name: str, *, folder: int | None = None) -> None:
        """Remove a file."""
        os.unlink(name, dir_fd=folder)

    def mkdir(self, name: str, *, mode: int = 0o777, folder: int | None = None) -> None:
        """Create a directory, with rights that the umask may narrow."""
        os.mkdir(name, mode, dir_fd=folder)

    def rmdir(self, name: str, *, folder: int | None = None) -> None:
        """Remove an empty directory."""
        os.rmdir(name, dir_fd=folder)

    def listdir(self, name: str, *, folder: int | None = None) -> list[str]:
        """Return the names in a directory that is no link."""
        if folder is None:
            return os.listdir(name)
        handle = self.open(name, FOLDER | NO_FOLLOW, folder=folder)
        try:
            return os.listdir(handle)
        finally:
            self.close(handle)

    def touch(self, name: str, *, folder: int | None = None) -> None:
        """Set the modification time to now."""
        os.utime(name, dir_fd=folder, follow_symlinks=WINDOWS)


class Unflushed(System):
    """System calls for files that may be lost: nothing waits for the medium."""

    @override
    def fsync(self, handle: int) -> None:
        return


def nothing_done(error: ShareRegistryError) -> bool:
    """Tell whether a failed change of a name surely left everything as it was.

    The system refused before it began, rather than broke on the way.
    """
    return isinstance(error, RefusedError) or errno_of(error) in _NOTHING_DONE


def errno_of(error: ShareRegistryError) -> int | None:
    """Return the number of the system's error behind one of ours."""
    return error.__cause__.errno if isinstance(error.__cause__, OSError) else None


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Raise what the system raises about a path as StoreError or Integrity, the cause kept."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise IntegrityError(
                f"{path} is a symbolic link, expected a regular file.", hint="Run verify."
            ) from error
        raise StoreError(
            f"{path}: {error.strerror or error}.",
            hint=_hint_of(error.errno, path),
        ) from error
    except MemoryError as error:
        raise StoreError(
            f"{path}: not enough memory to read it.", hint="Free some memory and run it again."
        ) from error


def _hint_of(number: int | None, path: Path) -> str:
    """Return the next step after an error of the system about a path."""
    is_denied = number in (errno.EACCES, errno.EPERM)
    if is_denied and any((parent / _MARK).exists() for parent in path.parents[:_DEEPEST]):
        return _SHARE
    return _HINTS.get(number or 0, "Check the device and run it again.")


def read_all(system: System, handle: int, path: Path, *, limit: int, seen: Seen | None) -> bytes:
    """Return all bytes of an open file.

    Args:
        system: The system calls.
        handle: The file.
        path: Its name, for errors.
        limit: Bytes it may have.
        seen: Called with every piece of at most 1 MiB, in order, and where there are several by
            another thread.

    Raises:
        IntegrityError: not a regular file, or larger than the limit.
        OSError: the system refuses.
    """
    status = _regular(system, handle, path)
    ensure(
        status.st_size <= limit,
        IntegrityError(
            f"{path} has {status.st_size} bytes, more than the limit of {limit}.",
            hint="Run verify.",
        ),
    )
    # gives back the very bytes it was made of, once nobody looks at them
    memory = BytesIO(bytes(status.st_size))
    size = 0
    with memory.getbuffer() as places, _passing_on(seen, status.st_size) as pass_on:
        while size < len(places) and (
            count := system.read_into(handle, places[size : size + PIECE])
        ):
            pass_on(places[size : size + count])
            size += count
    content = memory.getvalue()[:size]
    # a file that grows
    while piece := system.read(handle, min(limit + 1 - size, PIECE)):
        content += piece
        size += len(piece)
        if size > limit:
            raise IntegrityError(
                f"{path} grew past the limit of {limit} bytes while it was read.",
                hint="Run verify.",
            )
        if seen is not None:
            seen(piece)
    return content


def read_first(system: System, handle: int, path: Path, *, size: int) -> bytes:
    """Return the first bytes of an open file, as many as there are up to `size`.

    Raises IntegrityError where it is not a regular file, OSError.
    """
    _regular(system, handle, path)
    content = b""
    while len(content) < size and (piece := system.read(handle, min(size - len(content), PIECE))):
        content += piece
    return content


def _regular(system: System, handle: int, path: Path) -> os.stat_result:
    """Return what the system says of an open file. Raises IntegrityError unless it is regular."""
    status = system.status(handle)
    ensure(
        stat.S_ISREG(status.st_mode),
        IntegrityError(f"{path} is not a regular file.", hint="Run verify."),
    )
    return status


@contextmanager
def _passing_on(seen: Seen | None, size: int) -> Iterator[Seen]:
    """Yield what is called with the pieces of a file of some size.

    At the end of the block all are seen, and let go.
    """
    if seen is None:
        yield len
    elif size <= PIECE:
        yield seen
    else:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            yield lambda piece: pool.submit(seen, piece)
