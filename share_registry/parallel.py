"""Call a function on many items, several at a time or ahead of their use.

For work that lets other threads run, such as zstd, hashing and numpy on whole arrays.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import local
from typing import Final, TypeVar

# Threads at a time. Numpy on small pieces holds the interpreter half of the time, so that more
# gain nothing.
MAX_THREADS: Final = 2
# Results that wait to be taken: bounded, since they are in memory
AHEAD: Final = 3
_T = TypeVar("_T")
_R = TypeVar("_R")
_here = local()


def side_by_side(
    function: Callable[[_T], _R], items: Sequence[_T], *, threads: int = MAX_THREADS
) -> list[_R]:
    """Return what a function gives for every item, in order, several at a time.

    One after another within a thread of this module, whose neighbours are at work already. More
    threads than compute are for what waits, and are always started. The first failure in that order
    is raised.
    """
    if min(len(items), threads) < 2 or (threads <= MAX_THREADS and _is_in_pool()):
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(len(items), threads), initializer=_enter) as pool:
        return list(pool.map(function, items))


def ahead(function: Callable[[_T], _R], items: Iterable[_T], *, threads: int = 1) -> Iterator[_R]:
    """Yield what a function gives for every item, in order, a few items ahead in other threads."""
    initializer = _enter if threads >= MAX_THREADS else None  # one leaves a core
    with ThreadPoolExecutor(threads, initializer=initializer) as pool:
        waiting: deque[Future[_R]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _enter() -> None:
    _here.is_in_pool = True


def _is_in_pool() -> bool:
    return getattr(_here, "is_in_pool", False)
