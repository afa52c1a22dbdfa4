"""A store in memory: the protocol at its shortest.

For tests, and for registries that need not outlive the process.
"""

import threading
from collections.abc import Collection, Iterator, Sequence

from share_registry.errors import IntegrityError, InvalidInputError, NotFoundError
from share_registry.format.canonical import sha256
from share_registry.format.records import format_bytes
from share_registry.names import CommitNumber, Digest, SpaceName, space_name
from share_registry.names import digest as checked_digest
from share_registry.store.protocol import (
    MAX_OBJECT_BYTES,
    MAX_RECORD_BYTES,
    check_number,
    check_size,
)


class MemoryStore:
    """Objects and logs in dictionaries.

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
    def identity(self) -> str:
        """The uuid in FORMAT."""
        return self._identity

    @property
    def read_only(self) -> bool:
        """Never: there is nothing that could forbid it."""
        return False

    def format_bytes(self) -> bytes:
        """Return the FORMAT file."""
        return self._format

    def put(self, content: bytes, digest: Digest) -> bool:
        """Keep an object; tell whether it was new. Raises InvalidInputError."""
        check_size(len(content), MAX_OBJECT_BYTES, f"object {digest}")
        if sha256(content) != checked_digest(digest):
            raise InvalidInputError(f"digest {digest} is not of the object's bytes.")
        with self._lock:
            new = digest not in self._objects
            self._objects[digest] = bytes(content)
        return new

    def get(self, digest: Digest, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """Return an object. Raises NotFoundError or Integrity."""
        content = self._objects.get(checked_digest(digest))
        if content is None:
            raise NotFoundError(f"object {digest} is not in the store.", hint="Run verify.")
        if len(content) > limit:
            raise IntegrityError(
                f"object {digest} has {len(content)} bytes, more than the limit of {limit}.",
                hint="Run verify.",
            )
        return content

    def has(self, digest: Digest) -> bool:
        """Tell whether an object is there."""
        return checked_digest(digest) in self._objects

    def size(self, digest: Digest) -> int | None:
        """Return the size of an object, None where there is none."""
        content = self._objects.get(checked_digest(digest))
        return None if content is None else len(content)

    def publish(self, space: SpaceName, number: CommitNumber, content: bytes) -> bool:
        """Publish a record under a number that must be free; the same bytes again are a success.

        Raises InvalidInputError.
        """
        check_number(number)
        check_size(len(content), MAX_RECORD_BYTES, f"record {number}")
        with self._lock:
            return self._records.setdefault((space_name(space), number), bytes(content)) == content

    def record(self, space: SpaceName, number: CommitNumber) -> bytes | None:
        """Return a record, None where there is none. Raises InvalidInputError."""
        check_number(number)
        return self._records.get((space_name(space), number))

    def first_record(
        self, space: SpaceName, numbers: Sequence[CommitNumber]
    ) -> CommitNumber | None:
        """Return the first of some numbers that has a record. Raises InvalidInputError."""
        return next((number for number in numbers if self.record(space, number) is not None), None)

    def sync_log(self, space: SpaceName) -> None:
        """Do nothing: memory has no medium."""

    def spaces(self, *, known: Collection[SpaceName] = ()) -> list[SpaceName]:
        """Return the spaces that have a record, sorted."""
        with self._lock:
            return sorted(space for space, number in self._records if number == 1)

    def numbers(self, space: SpaceName) -> list[CommitNumber]:
        """Return the numbers that have a record, sorted."""
        space_name(space)
        with self._lock:
            return sorted(number for of, number in self._records if of == space)

    def objects(self) -> Iterator[tuple[Digest, int]]:
        """Yield every object with its size, sorted by digest."""
        with self._lock:
            found = sorted((digest, len(content)) for digest, content in self._objects.items())
        yield from found

    def strays(self) -> Iterator[str]:
        """Yield nothing: there is no place for foreign things."""
        yield from ()

    def close(self) -> None:
        """Keep everything; the memory goes with the object."""
