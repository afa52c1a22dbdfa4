"""Reading a whole file through system calls.

Its bytes are in memory once, however many they are, and may be hashed while the rest is read.
"""

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final

from share_registry.errors import IntegrityError
from share_registry.outside.system import System

# Bytes that are read or written at a time
PIECE: Final = 1 << 20
# What is called with every piece of a file
Seen = Callable[[bytes | memoryview], object]


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
    status = system.status(handle)
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError(f"{path} is not a regular file.", hint="Run verify.")
    if status.st_size > limit:
        raise IntegrityError(
            f"{path} has {status.st_size} bytes, more than the limit of {limit}.",
            hint="Run verify.",
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
