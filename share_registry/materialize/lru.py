"""Keep values within a number of bytes: what was used last stays."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from threading import Lock
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class ByteBoundedCache(Generic[_K, _V]):
    """Values by key with their sizes; safe for threads.

    An owner that must stay within the bound calls `make_room` before it makes a value and `put`
    after. A reader that has the value already calls `get_or_make`, which keeps even what is larger
    than the bound, alone.

    Args:
        limit_bytes: Bound on the sum of sizes; None for none.
        before_drop: Called before anything is dropped.
    """

    def __init__(
        self, limit_bytes: int | None, before_drop: Callable[[], None] | None = None
    ) -> None:
        self.limit_bytes, self.used_bytes, self.evictions = limit_bytes, 0, 0
        self._before_drop = before_drop
        self._entries: OrderedDict[_K, tuple[_V, int]] = OrderedDict()
        self._lock = Lock()

    def __contains__(self, key: _K) -> bool:
        return key in self._entries

    def get(self, key: _K) -> _V | None:
        """Return the value of a key, now the one used last; None where there is none."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def get_or_make(self, key: _K, make: Callable[[], _V], size_of: Callable[[_V], int]) -> _V:
        """Return the value of a key, or make and keep it, outside the lock."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key][0]
        value = make()
        with self._lock:
            self._replace(key, value, size_of(value))
            limit_bytes = self.used_bytes if self.limit_bytes is None else self.limit_bytes
            while self.used_bytes > limit_bytes and len(self._entries) > 1:
                self._drop([next(iter(self._entries))])
        return value

    def make_room(self, size_bytes: int, *, keep: Collection[_K] = ()) -> bool:
        """Drop what was used longest ago, but nothing to keep, until so many bytes fit.

        Where that is not enough drop nothing and return False.
        """
        if self.limit_bytes is None:
            return True
        with self._lock:
            excess = self.used_bytes + size_bytes - self.limit_bytes
            dropped = []
            for key in (key for key in self._entries if key not in keep):
                if excess <= 0:
                    break
                excess -= self._entries[key][1]
                dropped.append(key)
            if excess <= 0:
                self._drop(dropped)
        return excess <= 0

    def put(self, key: _K, value: _V, size_bytes: int) -> None:
        """Keep a value for which there is room, in place of one under the same key."""
        with self._lock:
            self._replace(key, value, size_bytes)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._drop(list(self._entries))

    def _replace(self, key: _K, value: _V, size_bytes: int) -> None:
        self.used_bytes += size_bytes - self._entries.pop(key, (value, 0))[1]
        self._entries[key] = (value, size_bytes)

    def _drop(self, keys: list[_K]) -> None:
        if keys and self._before_drop is not None:
            self._before_drop()
        for key in keys:
            self.used_bytes -= self._entries.pop(key)[1]
        self.evictions += len(keys)
