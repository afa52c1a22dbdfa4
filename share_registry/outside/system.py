"""System calls, one method each.

The instrument with which a test records, refuses or reorders what the library asks of the system.
"""

import errno
import os
from typing import Final

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

    def mkdir(self, name: str, *, folder: int | None = None) -> None:
        """Create a directory."""
        os.mkdir(name, dir_fd=folder)

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
