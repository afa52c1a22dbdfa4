"""What is resident, within a number of bytes: what was used last stays."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from threading import Lock
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")
_T = TypeVar("_T")


class Residents(Generic[_K, _V]):
    """Values by key with their sizes. Not safe for threads: its owner holds a lock.

    Args:
        limit_bytes: Bound on the sum of sizes; None for none.
        before_drop: Called before anything is dropped.
    """

    def __init__(self, limit_bytes: int | None, before_drop: Callable[[], None]) -> None:
        self.limit_bytes, self.used_bytes, self.evictions = limit_bytes, 0, 0
        self._before_drop = before_drop
        self._kept: OrderedDict[_K, tuple[_V, int]] = OrderedDict()

    def get(self, key: _K) -> _V | None:
        """Return the value of a key, now the one used last."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def make_room(self, size_bytes: int, *, keep: Collection[_K]) -> bool:
        """Drop what was used longest ago, but nothing to keep, until so many bytes fit.

        Where that is not enough drop nothing and return False.
        """
        if self.limit_bytes is None:
            return True
        excess = self.used_bytes + size_bytes - self.limit_bytes
        dropped = []
        for key in (key for key in self._kept if key not in keep):
            if excess <= 0:
                break
            excess -= self._kept[key][1]
            dropped.append(key)
        if excess > 0:
            return False
        self._drop(dropped)
        return True

    def put(self, key: _K, value: _V, size_bytes: int) -> None:
        """Keep a value for which there is room, in place of one under the same key."""
        self.used_bytes += size_bytes - self._kept.pop(key, (value, 0))[1]
        self._kept[key] = (value, size_bytes)

    def clear(self) -> None:
        """Drop everything."""
        self._drop(list(self._kept))

    def _drop(self, keys: list[_K]) -> None:
        if keys:
            self._before_drop()
        for key in keys:
            self.used_bytes -= self._kept.pop(key)[1]
            self.evictions += 1


class Bounded(Generic[_T]):
    """Keeps the values used last within a number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._used = limit_bytes, 0
        self._kept: OrderedDict[str, tuple[_T, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str, make: Callable[[], _T], size_of: Callable[[_T], int]) -> _T:
        """Return what is kept under a key, or make and keep it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        value = make()
        with self._lock:
            self._keep(key, value, size_of(value))
        return value

    def kept(self, key: str) -> _T | None:
        """Return what is kept under a key, None where nothing is."""
        with self._lock:
            return self._kept[key][0] if key in self._kept else None

    def __contains__(self, key: str) -> bool:
        """Tell whether a value is kept under a key."""
        with self._lock:
            return key in self._kept

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self._used = 0

    def _keep(self, key: str, value: _T, size: int) -> None:
        self._used += size - self._kept.pop(key, (value, 0))[1]
        self._kept[key] = (value, size)
        while self._used > self._limit and len(self._kept) > 1:
            self._used -= self._kept.popitem(last=False)[1][1]
