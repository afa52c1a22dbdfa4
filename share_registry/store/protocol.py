"""What a store must do, whatever it is made of (spec STO-01 to STO-12.

`tests/store/conformance.py` is the suite it must pass).

Two kinds of things: objects, named by the sha256 of their bytes, and records, numbered from 1 in
each space. Both appear whole or not at all and never change. Publishing a record under a number
nobody has yet *is* the commit, so that step, and only that step, has three outcomes.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final, Protocol, runtime_checkable

from share_registry.errors import FormatError, InvalidInputError, StoreError
from share_registry.names import CommitNumber, Digest, SpaceName

MAX_OBJECT_BYTES: Final = 4 << 30
MAX_RECORD_BYTES: Final = 16 << 20
MAX_FORMAT_BYTES: Final = 1 << 20
MAX_NUMBER: Final = (1 << 53) - 1
_CURRENT_FORMAT: Final = re.compile(
    rb'\{"gc":\[\],"magic":"share_registry","read":\[\],"store":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})","version":1,"write":\[\]\}'
)


class PublishStateUnknownError(StoreError):
    """The system failed after the record was handed to it.

    It may be published, now or after a restart. Look it up before anything else; remove
    nothing.
    """


@runtime_checkable
class Store(Protocol):
    """Objects and logs of one registry. Safe for threads and after a fork."""

    @property
    def identity(self) -> str:
        """The uuid in FORMAT."""
        ...

    @property
    def read_only(self) -> bool:
        """Whether every writing method is refused."""
        ...

    def format_bytes(self) -> bytes:
        """Return the FORMAT file."""
        ...

    def put(self, content: bytes, digest: Digest) -> bool:
        """Keep an object durably.

        An object that is there already is read and hashed again: a rotten one is replaced, a sound
        one counts as used just now.

        Returns:
            Whether it was new.

        Raises:
            InvalidInputError: larger than the limit, or the digest is not of these bytes.
            StoreError: the system refuses; the object may or may not be there, which harms nothing.
            RefusedError: the store is read-only.
        """
        ...

    def get(self, digest: Digest, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """Return an object, hashed before it is handed out.

        Raises:
            NotFoundError: there is none.
            IntegrityError: larger than the limit, not a plain file, or not the bytes its name says.
            StoreError: the system refuses.
        """
        ...

    def has(self, digest: Digest) -> bool:
        """Tell whether an object is there, without reading it."""
        ...

    def size(self, digest: Digest) -> int | None:
        """Return the size of an object, None where there is none."""
        ...

    def publish(self, space: SpaceName, number: CommitNumber, content: bytes) -> bool:
        """Publish a record durably under a number that must be free.

        Returns:
            True: it stands there now, and stays. False: another record has the number.

        Raises:
            PublishUnknown: the system failed after the record was handed to it.
            StoreError: any other failure; nothing was published.
            InvalidInputError: larger than the limit, or the number is out of range.
            RefusedError: the store is read-only.
        """
        ...

    def record(self, space: SpaceName, number: CommitNumber) -> bytes | None:
        """Return a record, None where there is none.

        Its hash is the reader's to check against the chain. Raises IntegrityError where it is no
        plain file.
        """
        ...

    def first_record(
        self, space: SpaceName, numbers: Sequence[CommitNumber]
    ) -> CommitNumber | None:
        """Return the first of some numbers that has a record, without reading it."""
        ...

    def sync_log(self, space: SpaceName) -> None:
        """Make the records of a space durable that somebody else published.

        A writer does so before it builds on them.
        """
        ...

    def spaces(self, *, known: Collection[SpaceName] = ()) -> list[SpaceName]:
        """Return the spaces that have a record, sorted.

        Those `known` need not be looked into where their names are there.
        """
        ...

    def numbers(self, space: SpaceName) -> list[CommitNumber]:
        """Return the numbers that have a record, sorted.

        A list without gaps unless records were lost.
        """
        ...

    def objects(self) -> Iterator[tuple[Digest, int]]:
        """Yield every object with its size, sorted by digest."""
        ...

    def strays(self) -> Iterator[str]:
        """Yield what is in the store and does not belong there: foreign names, links, devices."""
        ...

    def close(self) -> None:
        """Release what the store holds."""
        ...


def check_size(size: int, limit: int, what: str) -> None:
    """Refuse what no reader would accept. Raises InvalidInputError."""
    if size > limit:
        raise InvalidInputError(
            f"{what} has {size} bytes, more than the limit of {limit}.", hint="Split it."
        )


def check_number(number: CommitNumber) -> None:
    """Refuse a number that no record can have. Raises InvalidInputError."""
    if not 1 <= number <= MAX_NUMBER:
        raise InvalidInputError(f"commit number {number} is not between 1 and {MAX_NUMBER}.")


def record_name(number: CommitNumber) -> str:
    """Return the name of the file that record has.

    Raises InvalidInputError for a number that no record can have.
    """
    check_number(number)
    return f"{number:020d}.json"


def identity_of(content: bytes, *, writing: bool) -> str:
    """Return the uuid in a FORMAT file.

    Raises:
        FormatError: this release cannot read the store, or, where it is opened for writing, cannot write
            it (spec EVO-02).
        IntegrityError: the file is malformed.
    """
    plain = _CURRENT_FORMAT.fullmatch(content)
    if (
        plain is not None
    ):  # what every store of this version says; spares a reader the import of the models
        return plain[1].decode()
    from share_registry.format.records import parse_format

    found = parse_format(content)
    if writing and found.write:
        raise FormatError(
            f"writing to this store needs the unknown features {', '.join(found.write)}.",
            hint="Upgrade share_registry, or open it with mode 'r'.",
        )
    return found.store
