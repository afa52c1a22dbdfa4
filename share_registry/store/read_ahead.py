"""Objects that are read before they are asked for, several at a time.

A reader often knows several objects that it will read one after another. From a store that is far
away each takes as long as the way there; read at once they take that long together.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from share_registry.names import Digest

AT_ONCE: Final = 16
# Objects that wait to be asked for, which are in memory
_WAITING: Final = 32
# Their bytes from which on no other is begun: it is read when it is asked for
_HELD_BYTES: Final = 1 << 28
# Digests that are remembered as read
_REMEMBERED: Final = 65_536


class ReadAhead:
    """Reads objects in other threads. Each is given once, and read ahead only the first time.

    Who asked for an object keeps what it needs of it, so a second hint is no reason to read again.

    Args:
        read: Reads an object.
    """

    def __init__(self, read: Callable[[Digest], bytes]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: OrderedDict[Digest, Future[bytes | None]] = OrderedDict()
        # bytes of those among them that have come
        self._arrived: dict[Digest, int] = {}
        self._remembered: OrderedDict[Digest, None] = OrderedDict()
        self._closed = False

    def start(self, digests: Iterable[Digest]) -> None:
        """Begin to read those objects that were not asked for yet."""
        with self._lock:
            new = [digest for digest in dict.fromkeys(digests) if digest not in self._remembered]
            # of too many the first are asked for first
            for digest in [] if self._closed else new[:_WAITING]:
                self._remember(digest)
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(AT_ONCE)
                self._waiting[digest] = self._pool.submit(self._fetch, digest)
            while len(self._waiting) > _WAITING:
                given_up, future = self._waiting.popitem(last=False)
                future.cancel()
                self._arrived.pop(given_up, None)

    def take(self, digest: Digest) -> bytes | None:
        """Return an object that is being read, once it is there; None for another.

        Raises what reading it raises.
        """
        with self._lock:
            self._remember(digest)
            future = self._waiting.pop(digest, None)
            self._arrived.pop(digest, None)
        return None if future is None else future.result()

    def close(self) -> None:
        """Stop reading; what is waiting is forgotten."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
            self._waiting.clear()
            self._arrived.clear()
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def _fetch(self, digest: Digest) -> bytes | None:
        """Read an object, unless enough of them wait already."""
        with self._lock:
            if sum(self._arrived.values()) >= _HELD_BYTES:
                return None
        content = self._read(digest)
        with self._lock:
            if digest in self._waiting:
                self._arrived[digest] = len(content)
        return content

    def _remember(self, digest: Digest) -> None:
        self._remembered[digest] = None
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
