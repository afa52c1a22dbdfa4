"""What the system says when it refuses, in the words of this library."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from share_registry.errors import IntegrityError, RefusedError, ShareRegistryError, StoreError

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
        raise _translation(error, path) from error
    except MemoryError as error:
        raise StoreError(
            f"{path}: not enough memory to read it.", hint="Free some memory and run it again."
        ) from error


def _translation(error: OSError, path: Path) -> StoreError | IntegrityError:
    if error.errno == errno.ELOOP:
        return IntegrityError(
            f"{path} is a symbolic link, expected a regular file.", hint="Run verify."
        )
    hints = {
        errno.ENOSPC: "Free some space and run it again.",
        errno.EDQUOT: "Raise the quota or free some space and run it again.",
        errno.EROFS: "The medium is read-only: write to another place, "
        "and open it with mode 'r' where it is a registry.",
        errno.EACCES: "Check the permissions of the directory.",
        errno.EPERM: "Check the permissions of the directory.",
        errno.EMFILE: "Raise the limit of open files (ulimit -n) and run it again.",
    }
    return StoreError(
        f"{path}: {error.strerror or error}.",
        hint=hints.get(error.errno or 0, "Check the device and run it again."),
    )
