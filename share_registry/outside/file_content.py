"""What a file is written of: bytes, or parts that are made meanwhile."""

from collections.abc import Iterator
from typing import Protocol

from share_registry.names import Digest


class FileParts(Protocol):
    """A file that is made in parts while it is written."""

    def __len__(self) -> int:
        """Return its size in bytes."""

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield its bytes."""

    def __bytes__(self) -> bytes:
        """Return all of them."""

    @property
    def digest(self) -> Digest:
        """The sha256 that it has, or cannot be read to its end."""


FileContent = bytes | FileParts


def halves(content: FileContent) -> Iterator[memoryview | None]:
    """Yield the parts of a file, and None in its middle."""
    left = len(content) // 2
    for part in [content] if isinstance(content, bytes) else content:
        view = memoryview(part)
        if 0 <= left <= len(view):
            yield view[:left]
            yield None
            view, left = view[left:], -1
        else:
            left -= len(view)
        yield view
