"""A store in memory: the protocol at its shortest.

For tests, and for registries that need not outlive the process.
"""

import threading
from collections.abc import Collection, Iterator

from typing_extensions import override

from share_registry.errors import IntegrityError, InvalidInputError, NotFoundError
from share_registry.format.canonical import sha256
from share_registry.format.records import format_bytes
from share_registry.names import (
    CommitNumber,
    Digest,
    SpaceName,
    digest as checked_digest,
    space_name,
)
from share_registry.store.protocol import (
    MAX_OBJECT_BYTES,
    MAX_RECORD_BYTES,
    Store,
    check_number,
    check_size,
)


class MemoryStore(Store):
    """Objects and logs in dictionaries; what is in memory is not hashed again.

    Args:
        identity: uuid of the store.
    """

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._format = format_bytes(identity)
        self._objects: dict[Digest, bytes] = {}
        self._records: dict[tuple[SpaceName, CommitNumber], bytes] = {}
        self._lock = threading.Lock()

    @property
    @override
    def identity(self) -> str:
        return self._identity

    @override
    def format_bytes(self) -> bytes:
        return self._format

    @override
    def put(self, content: bytes, digest: Digest) -> bool:
        check_size(len(content), MAX_OBJECT_BYTES, f"object {digest}")
        if sha256(content) != checked_digest(digest):
            raise InvalidInputError(f"digest {digest} is not of the object's bytes.")
        with self._lock:
            new = digest not in self._objects
            self._objects[digest] = bytes(content)
        return new

    @override
    def get(self, digest: Digest, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        content = self._objects.get(checked_digest(digest))
        if content is None:
            raise NotFoundError(f"object {digest} is not in the store.", hint="Run verify.")
        if len(content) > limit:
            raise IntegrityError(
                f"object {digest} has {len(content)} bytes, more than the limit of {limit}.",
                hint="Run verify.",
            )
        return content

    @override
    def size(self, digest: Digest) -> int | None:
        content = self._objects.get(checked_digest(digest))
        return None if content is None else len(content)

    @override
    def publish(self, space: SpaceName, number: CommitNumber, content: bytes) -> bool:
        check_number(number)
        check_size(len(content), MAX_RECORD_BYTES, f"record {number}")
        with self._lock:
            return self._records.setdefault((space_name(space), number), bytes(content)) == content

    @override
    def record(self, space: SpaceName, number: CommitNumber) -> bytes | None:
        check_number(number)
        return self._records.get((space_name(space), number))

    @override
    def spaces(self, *, expected: Collection[SpaceName] = ()) -> list[SpaceName]:
        with self._lock:
            return sorted({space for space, _ in self._records})

    @override
    def numbers(self, space: SpaceName) -> list[CommitNumber]:
        space_name(space)
        with self._lock:
            return sorted(number for of, number in self._records if of == space)

    @override
    def objects(self) -> Iterator[tuple[Digest, int]]:
        with self._lock:
            sizes = sorted((digest, len(content)) for digest, content in self._objects.items())
        yield from sizes
