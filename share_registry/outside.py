"""Everything outside the process: files, the clock, randomness (the only module that touches them).

Each step of a write has a named point; a hook set by a test may raise, kill or wait there.
"""

import errno
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from share_registry.errors import Integrity, NotFound, StoreError

_LOG: Final = logging.getLogger(__name__)
_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_CLOSE: Final = getattr(os, "O_CLOEXEC", 0)
_PIECE: Final = 1 << 20


class Outside:
    """The real world. Pass a subclass or a hook to see it fail.

    Args:
        hook: Called with the name of every point passed.
    """

    def __init__(self, hook: Callable[[str], None] | None = None) -> None:
        self._hook = hook

    def at(self, point: str) -> None:
        """Pass a named point."""
        if self._hook is not None:
            self._hook(point)

    def now(self) -> datetime:
        """Return the wall clock, UTC."""
        return datetime.now(UTC)

    def token(self) -> str:
        """Return 32 random hexadecimal digits."""
        return secrets.token_hex(16)

    def environment(self, name: str) -> str | None:
        """Return an environment variable."""
        return os.environ.get(name)

    def exists(self, path: Path) -> bool:
        """Tell whether a path exists (links are not followed)."""
        return os.path.lexists(path)

    def size(self, path: Path) -> int | None:
        """Return the size of a regular file, None where there is none."""
        try:
            found = os.lstat(path)
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def read(self, path: Path, *, limit: int) -> bytes:
        """Read a whole regular file.

        Raises:
            NotFound: there is none.
            Integrity: not a regular file, or larger than the limit.
            StoreError: the system refuses.
        """
        try:
            handle = os.open(path, os.O_RDONLY | _NO_FOLLOW | _CLOSE)
        except FileNotFoundError as error:
            raise NotFound(f"file {path} does not exist.") from error
        except OSError as error:
            raise _translate(error, path) from error
        try:
            return _read_all(handle, path, limit)
        except OSError as error:
            raise _translate(error, path) from error
        finally:
            os.close(handle)

    def write_new(self, path: Path, content: bytes, *, point: str = "file") -> None:
        """Create a file that must not exist, write it whole and make it durable. A failed write removes the file. Raises StoreError."""
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _CLOSE, 0o644)
        except OSError as error:
            raise _translate(error, path) from error
        try:
            self._fill(handle, content, point)
        except OSError as error:
            _quietly_remove(path)
            raise _translate(error, path) from error
        finally:
            os.close(handle)

    def link_new(self, source: Path, target: Path) -> bool:
        """Give a file a second name that must not exist; tell whether it was free. Raises StoreError."""
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError as error:
            raise _translate(error, target) from error
        return True

    def replace(self, source: Path, target: Path) -> None:
        """Rename over whatever is there. Raises StoreError."""
        try:
            os.replace(source, target)
        except OSError as error:
            raise _translate(error, target) from error

    def rename_directory(self, source: Path, target: Path) -> bool:
        """Move a directory to a name that must be free or an empty directory; tell whether it was. Raises StoreError."""
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            raise _translate(error, target) from error
        return True

    def make_directory(self, path: Path) -> None:
        """Create a directory and its parents and make the new names durable. Raises StoreError."""
        missing = [path]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        for directory in reversed(missing):
            try:
                os.mkdir(directory)
            except FileExistsError:
                continue
            except OSError as error:
                raise _translate(error, directory) from error
            self.sync_directory(directory.parent)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable. Raises StoreError."""
        try:
            handle = os.open(path, os.O_RDONLY | _CLOSE)
        except OSError as error:
            raise _translate(error, path) from error
        try:
            self.fsync(handle)
        except OSError as error:
            raise _translate(error, path) from error
        finally:
            os.close(handle)

    def fsync(self, handle: int) -> None:
        """Flush a descriptor to the medium."""
        os.fsync(handle)

    def touch(self, path: Path) -> None:
        """Refresh a modification time; not essential, so never an error."""
        try:
            os.utime(path)
        except OSError as error:
            _LOG.debug("cannot touch %s: %s", path, error)

    def remove(self, path: Path) -> None:
        """Remove a file; a missing one is fine. Raises StoreError."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _translate(error, path) from error

    def names(self, path: Path) -> list[str]:
        """Return the names in a directory, sorted; none where it is missing. Raises StoreError."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _translate(error, path) from error

    def files_below(self, root: Path) -> Iterator[Path]:
        """Yield every file below a directory, sorted, links not followed."""
        for folder, folders, files in os.walk(root, followlinks=False):
            folders.sort()
            for name in sorted(files):
                yield Path(folder) / name

    def _fill(self, handle: int, content: bytes, point: str) -> None:
        self.at(f"{point}.open")
        view = memoryview(content)
        half = len(view) // 2
        for part in (view[:half], view[half:]):
            while part:
                part = part[os.write(handle, part[:_PIECE]) :]
            self.at(f"{point}.half")
        self.at(f"{point}.prefsync")
        self.fsync(handle)
        self.at(f"{point}.postfsync")


def _read_all(handle: int, path: Path, limit: int) -> bytes:
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        raise Integrity(f"{path} is not a regular file.")
    if found.st_size > limit:
        raise Integrity(f"{path} has {found.st_size} bytes, more than the limit of {limit}.")
    pieces = bytearray()
    while piece := os.read(handle, _PIECE):
        pieces += piece
        if len(pieces) > limit:
            raise Integrity(f"{path} grew past the limit of {limit} bytes while it was read.")
    return bytes(pieces)


def _quietly_remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _LOG.debug("cannot remove %s: %s", path, error)


def _translate(error: OSError, path: Path) -> StoreError | Integrity:
    if error.errno == errno.ELOOP:
        return Integrity(f"{path} is a symbolic link, expected a regular file.")
    hints = {
        errno.ENOSPC: "Free some space and run it again: nothing was committed.",
        errno.EDQUOT: "Raise the quota or free some space and run it again: nothing was committed.",
        errno.EROFS: "The medium is read-only: open with mode 'r'.",
        errno.EACCES: "Check the permissions of the registry's directory.",
    }
    return StoreError(f"{path}: {error.strerror or error}.", hint=hints.get(error.errno or 0, "Check the device and run it again."))
