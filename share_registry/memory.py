"""Memory that was used and freed, given back to the system.

The C library keeps what is freed, for the thread that asked for it, and only gives back what lies
at the end. Work on a large adapter goes through several threads and several kinds of memory, one
after another, and what one leaves behind the next does not use.
"""

from collections.abc import Callable
from ctypes import CDLL
from functools import cache
from typing import Final

# Bytes from which on it is worth a millisecond, and touching memory for the first time again
_LARGE: Final = 64 << 20


def give_back(size_bytes: int) -> None:
    """Give free memory back, between two steps of work on so many bytes.

    Does nothing where they are few, or the C library is another than glibc.
    """
    trim = _trim()
    if trim is not None and size_bytes >= _LARGE:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return getattr(CDLL(None), "malloc_trim", None)
    # systems where a library has to be named
    except (OSError, TypeError):
        return None
