"""What a store must do, whatever it is made of (spec STO-01 to STO-12).

Two kinds of things: objects, named by the sha256 of their bytes, and records, numbered from 1 in
each space. Both appear whole or not at all and never change. Publishing a record under a number
nobody has yet *is* the commit, so that step, and only that step, has three outcomes.

A new store inherits from `Store`, writes the ten members that are abstract, and subclasses the
suite `share_registry.testing.stores.StoreConformance` to see what is missing. What it needs is in
the package: `format_bytes(uuid)` of `share_registry.format.records` makes the FORMAT file of a new
store, `sha256` of `share_registry.format.canonical` names objects, `digest` and `space_name` of
`share_registry.names` refuse what is no digest and no name, `check_size` and `check_number` (below)
what is out of range. Errors of a driver become `StoreError`, with the cause kept.
"""

import re
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Final, Protocol, runtime_checkable

from share_registry.errors import FormatError, InvalidInputError, StoreError
from share_registry.names import CommitNumber, Digest, SpaceName

MAX_OBJECT_BYTES: Final = 4 << 30
MAX_RECORD_BYTES: Final = 16 << 20
MAX_FORMAT_BYTES: Final = 1 << 20
MAX_NUMBER: Final = (1 << 53) - 1
# What every store of this version says; spares a reader the import of the models
_CURRENT_FORMAT: Final = re.compile(
    rb'\{"gc":\[\],"magic":"share_registry","read":\[\],'
    rb'"store":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})","version":1,"write":\[\]\}'
)


class PublishStateUnknownError(StoreError):
    """The system failed after it was asked to publish a record.

    The record may be published, now or after a restart. Look it up before anything else; remove
    nothing.
    """


@runtime_checkable
class Store(Protocol):
    """Objects and logs of one registry. Safe for threads and after a fork.

    Every method raises InvalidInputError for a digest, space name or number that is malformed or
    out of range, before it touches anything, and StoreError where the system refuses.
    """

    @property
    @abstractmethod
    def identity(self) -> str:
        """The uuid in FORMAT, given to the store when it was created."""

    @property
    def read_only(self) -> bool:
        """Whether every writing method is refused; False unless a store says otherwise."""
        return False

    @abstractmethod
    def format_bytes(self) -> bytes:
        """Return the FORMAT file: the same bytes for as long as the store exists."""

    @abstractmethod
    def put(self, content: bytes, digest: Digest) -> bool:
        """Keep an object durably: it is there after a power cut once this returns.

        An object that is there already is read and hashed again: a rotten one is replaced, a sound
        one counts as used just now. Of several threads that put a new object, one is told so.

        Returns:
            Whether it was new.

        Raises:
            InvalidInputError: larger than `MAX_OBJECT_BYTES`, or the digest is not of these bytes.
            StoreError: the object may or may not be there, which harms nothing.
            RefusedError: the store is read-only.
        """

    @abstractmethod
    def get(self, digest: Digest, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """Return an object whose bytes have been hashed in this call.

        Raises:
            NotFoundError: there is none.
            IntegrityError: larger than the limit, not a plain file, or not the bytes its name says.
        """

    def has(self, digest: Digest) -> bool:
        """Tell whether an object is there, without reading it."""
        return self.size(digest) is not None

    @abstractmethod
    def size(self, digest: Digest) -> int | None:
        """Return the size of an object in bytes, None where there is none, without reading it."""

    @abstractmethod
    def publish(self, space: SpaceName, number: CommitNumber, content: bytes) -> bool:
        """Publish a record durably under a number that must be free.

        Of several writers, in any process, that race for a number exactly one is told True. A space
        needs no creation: it is there with its first record.

        Returns:
            True: these bytes stand there now, and stay; also where they stood there before.
            False: another record has the number.

        Raises:
            PublishStateUnknownError: the system failed after it was asked to publish.
            StoreError: any other failure; nothing was published.
            InvalidInputError: larger than `MAX_RECORD_BYTES`.
            RefusedError: the store is read-only.
        """

    @abstractmethod
    def record(self, space: SpaceName, number: CommitNumber) -> bytes | None:
        """Return a record, None where there is none; its hash is the reader's to check.

        Raises IntegrityError where it is no plain file.
        """

    def first_record(
        self, space: SpaceName, numbers: Sequence[CommitNumber]
    ) -> CommitNumber | None:
        """Return the first of some numbers, in their order, that has a record.

        A store that can tell so without reading the record overrides this.
        """
        return next((number for number in numbers if self.record(space, number) is not None), None)

    def sync_log(self, space: SpaceName) -> None:
        """Make the records of a space durable that somebody else published.

        A writer does so before it builds on them. A store in which no record is seen before it is
        durable has nothing to do.
        """
        return

    @abstractmethod
    def spaces(self, *, expected: Collection[SpaceName] = ()) -> list[SpaceName]:
        """Return the spaces that have a record, sorted by name.

        Those `expected` need not be looked into where their names are there.
        """

    @abstractmethod
    def numbers(self, space: SpaceName) -> list[CommitNumber]:
        """Return the numbers that have a record, sorted; none for a space that is not there.

        A list without gaps unless records were lost.
        """

    @abstractmethod
    def objects(self) -> Iterator[tuple[Digest, int]]:
        """Yield every object with its size in bytes, sorted by digest."""

    def strays(self) -> Iterator[str]:
        """Yield what is in the store and does not belong there: foreign names, links, devices."""
        yield from ()

    def close(self) -> None:
        """Release what the store holds open; a second call is fine."""
        return


def check_size(size: int, limit: int, subject: str) -> None:
    """Refuse what no reader would accept. Raises InvalidInputError."""
    if size > limit:
        raise InvalidInputError(
            f"{subject} has {size} bytes, more than the limit of {limit}.", hint="Split it."
        )


def check_number(number: CommitNumber) -> None:
    """Refuse a number that no record can have. Raises InvalidInputError."""
    if not 1 <= number <= MAX_NUMBER:
        raise InvalidInputError(f"commit number {number} is not between 1 and {MAX_NUMBER}.")


def record_name(number: CommitNumber) -> str:
    """Return the file name of a record. Raises InvalidInputError for a number out of range."""
    check_number(number)
    return f"{number:020d}.json"


def identity_of(content: bytes, *, writing: bool) -> str:
    """Return the uuid in a FORMAT file.

    Raises:
        FormatError: this release cannot read the store or, where it is opened for writing, cannot
            write it (spec EVO-02).
        IntegrityError: the file is malformed.
    """
    current = _CURRENT_FORMAT.fullmatch(content)
    if current is not None:
        return current[1].decode()
    from share_registry.format.records import parse_format

    parsed = parse_format(content)
    if writing and parsed.write:
        raise FormatError(
            f"writing to this store needs the unknown features {', '.join(parsed.write)}.",
            hint="Upgrade share_registry, or open it with mode 'r'.",
        )
    return parsed.store
