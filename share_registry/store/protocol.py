"""What a store must do, whatever it is made of (spec STO-01 to STO-12).

Two kinds of things: objects, named by the sha256 of their bytes, and records, numbered from 1 in
each space. Both appear whole or not at all and never change. Publishing a record under a number
nobody has yet *is* the commit, so that step, and only that step, has three outcomes.

A new store subclasses the suite `share_registry.testing.stores.StoreConformance` to see what is
missing. Where its place keeps bytes under names, it inherits from `BlobStore` of
`share_registry.store.blobs` and writes four methods. Else it inherits from `Store` and writes the
ten members that are abstract: `format_bytes(uuid)` of `share_registry.format.records` makes the
FORMAT file of a new store, `check_object` and `check_size` (below) refuse what is no object or too
large, `object_name` and `record_name` what is no digest, no space name and no number. Errors of a
driver become `StoreError`, with the cause kept.
"""

import re
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from share_registry import kinds
from share_registry.errors import (
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    StoreError,
    ensure,
)
from share_registry.format.canonical import sha256
from share_registry.names import (
    CommitNumber,
    Digest,
    SpaceName,
    digest as checked_digest,
    space_name,
)

FORMAT: Final = "FORMAT"
# Where what was damaged is kept (spec STO-13)
QUARANTINE: Final = "quarantine"
MAX_OBJECT_BYTES: Final = 4 << 30
MAX_RECORD_BYTES: Final = 16 << 20
MAX_FORMAT_BYTES: Final = 1 << 20
_OBJECT: Final = re.compile(r"objects/([0-9a-f]{2})/([0-9a-f]{62})")
# Refuse content that is no bytes, and a limit that is no number: take a name and the value
check_bytes: Final = kinds.of(bytes, "bytes", "Give bytes.")
check_limit: Final = kinds.whole(0, "Give a number of bytes.")
_number: Final = kinds.whole(1, "Records are numbered from 1.")
check_numbers: Final = kinds.several(_number, "numbers of records", "Give a list of int.")
_PLACE: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_RECORD: Final = re.compile(r"spaces/([^/]+)/log/(\d{20})\.json")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHead:
    """The last record of a log, as it was when it was published."""

    number: CommitNumber
    id: Digest


@runtime_checkable
class Store(Protocol):
    """Objects and logs of one registry. Safe for threads and after a fork.

    Every method raises InvalidInputError for a digest, space name or number that is malformed or
    out of range, before it touches anything, and StoreError where the system refuses.
    """

    def uncached(self) -> "Store":
        """Return this store so that every byte is read where it lies, not from a copy of it."""
        return self

    @property
    def at_once(self) -> int:
        """How many reads are faster together than one after another; 1 where none are."""
        return 1

    def read_ahead(self, digests: Iterable[Digest]) -> None:
        """Take note that objects will be read soon; a store that is far away begins with it."""
        return

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

    def kept_format(self) -> bytes | None:
        """Return the FORMAT file as it lies there now; None where the store is gone.

        A store that cannot go while it is open need not override this.
        """
        return self.format_bytes()

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

    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """Return those of some objects that are not there, sorted, without reading them."""
        asked = map(Digest, {*kinds.texts("digests", digests)})
        return sorted(digest for digest in asked if not self.has(digest))

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
        numbers = check_numbers("numbers", numbers)
        return next((number for number in numbers if self.record(space, number) is not None), None)

    def ends_with(self, heads: Mapping[SpaceName, KeptHead]) -> bool:
        """Tell whether there are these spaces and no others, and no record behind these heads.

        In one look, where the store can; False where it would take more. That the heads are sound
        is not looked at.
        """
        return False

    def keep_head(self, space: SpaceName, head: KeptHead | None) -> None:
        """Note beside the log which record was published last; None where none is left.

        Nothing follows the last record that would show that its bytes changed, or that it is gone.
        What is noted may fall behind, and be lost: then nothing is known. A store that keeps no
        such note has nothing to do.
        """
        return

    def kept_head(self, space: SpaceName) -> KeptHead | None:
        """Return what `keep_head` noted last; None where nothing is known."""
        return None

    def kept_heads(self) -> dict[SpaceName, KeptHead]:
        """Return what `keep_head` noted of every space, also of those that have no record."""
        return {}

    def keep_spare(self, content: bytes, digest: Digest) -> None:
        """Keep a second copy of an object that many versions need; one that is there is fine.

        It goes with the object in `remove`. That it cannot be kept is no error. A store that keeps
        several copies of everything by itself has nothing to do.
        """
        return

    def spare(self, digest: Digest) -> bytes | None:
        """Return the second copy of an object; None where there is none that is sound."""
        return None

    def spares(self) -> list[Digest]:
        """Return the objects of which there is a second copy, sorted."""
        return []

    def get_or_spare(self, digest: Digest, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """Return an object, from its second copy where it is damaged or gone; see `get`."""
        try:
            return self.get(digest, limit=limit)
        except (NotFoundError, IntegrityError):
            content = self.spare(digest)
            if content is None or len(content) > limit:
                raise
            return content

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

    def set_aside(self, name: str, place: str) -> None:
        """Move an object or a record, as it is, to `quarantine/<place>/<name>` (spec STO-13).

        Only what is damaged is moved, by decision of a person. Durable once this returns.

        Args:
            name: As `object_name` or `record_name` gives it.
            place: A name of digits, letters and dashes that nothing was moved to by another call.

        Raises:
            NotFoundError: there is no such file.
            RefusedError: the store is read-only, or of a kind that cannot move files.
        """
        check_aside(name, place)
        raise RefusedError(
            f"{type(self).__name__} cannot move {name} out of the way.",
            hint="Move it by hand to where it is kept, and run this again.",
        )

    def has_quarantine(self) -> bool:
        """Tell whether something was set aside."""
        return False

    def strays(self) -> Iterator[str]:
        """Yield what is in the store and does not belong there: foreign names, links, devices."""
        yield from ()

    def now_s(self) -> float:
        """Return the time by the clock that `used_s` goes by, in seconds since 1970.

        Raises RefusedError where the store removes nothing.
        """
        raise self._keeps_everything()

    def used_s(self, digest: Digest) -> float | None:
        """Return when an object was last put, None where there is none, by the store's own clock.

        Raises RefusedError where the store removes nothing.
        """
        raise self._keeps_everything()

    def remove(self, digests: Iterable[Digest]) -> None:
        """Remove objects; ones that are not there are fine. On return they are gone for good.

        Each is removed before the next is asked for.

        Raises RefusedError where the store is read-only or removes nothing.
        """
        raise self._keeps_everything()

    def litter(self) -> Iterator[tuple[str, int, float]]:
        """Yield what writers left unfinished: its name, its bytes, and when it was written."""
        yield from ()

    def remove_litter(self, name: str) -> None:
        """Remove what `litter` named; what is not there is fine.

        Raises RefusedError where the store is read-only or removes nothing.
        """
        raise self._keeps_everything()

    def _keeps_everything(self) -> RefusedError:
        return RefusedError(
            f"a {type(self).__name__} removes nothing.",
            hint="Collect garbage in a store that has now_s, used_s and remove, as directories do.",
        )

    def close(self) -> None:
        """Release what the store holds open; a second call is fine."""
        return


# Refuses what is neither a head nor None: takes a name and the value
check_head: Final = kinds.of(KeptHead | None, "a KeptHead or None", "Give what was published.")


def check_aside(name: str, place: str) -> None:
    """Refuse names that no object or record has, and places that are no plain name.

    Raises InvalidInputError.
    """
    kinds.text("name", name)
    ensure(
        object_of(name) is not None or record_of(name) is not None,
        InvalidInputError(
            f"{kinds.shown(name)} is not the name of an object or a record.",
            hint="Give what object_name or record_name returns.",
        ),
    )
    ensure(
        _PLACE.fullmatch(kinds.text("place", place)) is not None,
        InvalidInputError(
            f"place {kinds.shown(place)} is not 1 to 64 digits, letters and dashes.",
            hint="Give a time and some random digits.",
        ),
    )


def check_size(size: int, limit: int, subject: str) -> None:
    """Refuse what no reader would accept. Raises InvalidInputError."""
    ensure(
        size <= limit,
        InvalidInputError(
            f"{subject} has {size} bytes, more than the limit of {limit}.", hint="Split it."
        ),
    )


def check_object(content: bytes, digest: Digest) -> None:
    """Refuse bytes that are too many, or not those of a digest. Raises InvalidInputError."""
    check_bytes("content", content)
    check_size(len(content), MAX_OBJECT_BYTES, f"object {digest}")
    ensure(
        sha256(content) == checked_digest(digest),
        InvalidInputError(
            f"digest {digest} is not of the object's bytes.", hint="Give the sha256 of the content."
        ),
    )


def limit_of(name: str) -> int:
    """Return how many bytes at most a reader takes under a name in a store."""
    if name == FORMAT:
        return MAX_FORMAT_BYTES
    return MAX_OBJECT_BYTES if object_of(name) else MAX_RECORD_BYTES


def object_name(digest: Digest) -> str:
    """Return the name of an object in a store. Raises InvalidInputError for what is no digest."""
    checked_digest(digest)
    return f"objects/{digest[:2]}/{digest[2:]}"


def log_name(space: SpaceName) -> str:
    """Return the name that the records of a space have in front. Raises InvalidInputError."""
    return f"spaces/{space_name(space)}/log"


def record_name(space: SpaceName, number: CommitNumber) -> str:
    """Return the name of a record in a store. Raises InvalidInputError for what names none."""
    _number("commit number", number)
    return f"{log_name(space)}/{number:020d}.json"


def object_of(name: str) -> Digest | None:
    """Return the digest of the object that has a name in a store, None for another name."""
    match = _OBJECT.fullmatch(name)
    return Digest(match[1] + match[2]) if match else None


def record_of(name: str) -> tuple[SpaceName, CommitNumber] | None:
    """Return space and number of the record that has a name in a store, None for another name."""
    match = _RECORD.fullmatch(name)
    if match is None or not is_space_name(match[1]):
        return None
    return SpaceName(match[1]), CommitNumber(int(match[2]))


def is_space_name(text: str) -> bool:
    """Tell whether a space may have a name."""
    try:
        space_name(text)
    except InvalidInputError:
        return False
    return True


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
    from share_registry.format.format_file import parse_format

    parsed = parse_format(content)
    ensure(
        not writing or not parsed.write,
        FormatError(
            f"writing to this store needs the unknown features {', '.join(parsed.write)}.",
            hint="Upgrade share_registry, or open it with mode 'r'.",
        ),
    )
    return parsed.store
