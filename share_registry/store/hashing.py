"""A sha256 that is computed while the next piece is read."""

import hashlib
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from share_registry.names import Digest

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_ASIDE: Final = 1 << 20
"""Bytes of a piece from which on another thread hashes it: less is done before that thread has begun."""


class Hasher:
    """Hashes pieces in order, large ones in a thread beside the one that reads; a context manager, at whose end all are hashed."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def update(self, piece: bytes) -> None:
        """Take the next piece."""
        if self._pool is None and len(piece) >= _ASIDE:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(1)
        if self._pool is None:
            self._hash.update(piece)
        else:
            self._pool.submit(self._hash.update, piece)

    def digest(self) -> Digest:
        """Return the digest, once the context has ended."""
        return Digest(self._hash.hexdigest())
