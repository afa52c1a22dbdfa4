"""The same function on many items, side by side: for work that lets other threads run, such as zstd, hashing and numpy on whole arrays."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

MAX_THREADS: Final = 2
"""Threads at a time: numpy on small pieces holds the interpreter half of the time, so that more gain nothing."""
_T = TypeVar("_T")
_R = TypeVar("_R")


def side_by_side(function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Return what a function gives for every item, in order, several at a time; the first failure in that order is raised."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(len(items), MAX_THREADS)) as pool:
        return list(pool.map(function, items))
