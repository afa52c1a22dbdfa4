"""A store in a bucket of an object store: the same names as in a directory (spec STO-15 to STO-18).

What makes it a store is a service that writes a key only where it is free, and says so: a record is
published by that one request. Every request may be lost, or its answer; since the bytes under a
name are always the same, asking once more is safe, and a record whose answer was lost is read back
and compared.

To look whether a log goes on costs a request for each log and one for the list of spaces. A reader
asks that before each answer. So a writer puts a mark with the number and the id of a record under
`catalog.sqlite.ends/` before it publishes it: where there is no mark behind the heads that a
catalog knows, there is no record either, and a reader has seen that in one request.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from itertools import islice
from typing import ClassVar, Final, Self

from typing_extensions import override

from share_registry import kinds
from share_registry.errors import IntegrityError, NotFoundError, RefusedError, StoreError, ensure
from share_registry.format.canonical import sha256
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.outside.files import Outside
from share_registry.parallel import side_by_side
from share_registry.store.blobs import BlobStore, verified
from share_registry.store.bucket import Bucket, UnansweredError
from share_registry.store.head_notes import (
    CATALOG,
    MAX_NOTE_BYTES,
    head_name,
    parse_head,
    space_of_head,
    write_head,
)
from share_registry.store.object_cache import ObjectCache
from share_registry.store.protocol import (
    FORMAT,
    MAX_OBJECT_BYTES,
    MAX_RECORD_BYTES,
    QUARANTINE,
    KeptHead,
    PublishStateUnknownError,
    check_aside,
    check_bytes,
    check_head,
    check_limit,
    check_numbers,
    check_object,
    check_size,
    is_space_name,
    limit_of,
    log_name,
    object_name,
    object_of,
    record_name,
    record_of,
)
from share_registry.store.read_ahead import AT_ONCE, ReadAhead
from share_registry.store.side_files import digest_of_spare, spare_name

_ENDS: Final = f"{CATALOG}.ends"
_MARK: Final = re.compile(rf"{re.escape(_ENDS)}/(.+)\.(\d{{20}})\.([0-9a-f]{{64}})")
# Marks of earlier records are removed once in so many records
_SWEEP: Final = 32
# Before a request is made again whose answer was lost
_PAUSES_S: Final = (0.1, 0.3, 1.0, 3.0)
# Keys that one request lists
_PAGE: Final = 1000
# Bytes from which on a look whether they are there costs less than sending them for nothing
_LARGE_BYTES: Final = 1 << 20


class ObjectStore(BlobStore):
    """Objects and logs in a bucket.

    Args:
        bucket: Where.
        outside: The way to clock and randomness.
        cache: Where copies of objects are kept on this machine; None for nowhere.
        identity: uuid of a new store; None where one must be there.
        read_only: Refuse every write.

    Raises:
        NotFoundError: there is no store, and no identity for a new one.
        RefusedError: the service gives one name twice, so two writers could overwrite each other.
        StoreError: the service refuses or is not reached.
        FormatError, IntegrityError: see `BlobStore`.
    """

    # a bucket raises what callers see
    driver_errors: ClassVar[tuple[type[Exception], ...]] = ()

    def __init__(
        self,
        bucket: Bucket,
        outside: Outside,
        *,
        cache: ObjectCache | None = None,
        identity: str | None = None,
        read_only: bool = False,
    ) -> None:
        self._bucket = bucket
        self._cache = cache
        self._outside = outside
        self._read_only = read_only
        self._ahead: ReadAhead | None = ReadAhead(self._get)
        # the last marks of our own
        self._marked: dict[SpaceName, tuple[CommitNumber, Digest]] = {}
        try:
            super().__init__(None if read_only else identity)
        except NotFoundError as error:
            raise NotFoundError(
                f"there is no registry at {bucket.address}.",
                hint="Create it with mode 'c' or `share-registry init`.",
            ) from error
        if not read_only:
            self._require_exclusive()

    @classmethod
    def open(cls, address: str, outside: Outside, *, identity: str | None, read_only: bool) -> Self:
        """Open the store at an address; see the class. Raises also InvalidInputError."""
        return cls(
            Bucket.at(address),
            outside,
            cache=ObjectCache.of_user(outside),
            identity=identity,
            read_only=read_only,
        )

    @override
    def uncached(self) -> Self:
        view = copy(self)
        view._cache = view._ahead = None
        return view

    @property
    @override
    def at_once(self) -> int:
        return AT_ONCE

    @override
    def read_ahead(self, digests: Iterable[Digest]) -> None:
        if self._ahead is not None:
            self._ahead.start(digests)

    @property
    @override
    def read_only(self) -> bool:
        return self._read_only

    @override
    def create(self, name: str, content: bytes) -> bool:
        self._require_writable()
        for pause_s in _PAUSES_S:
            try:
                return self._bucket.create(name, content)
            except UnansweredError:
                self._outside.wait(pause_s)
        return self._bucket.create(name, content)

    @override
    def replace(self, name: str, content: bytes) -> None:
        self._require_writable()
        self._bucket.replace(name, content)

    @override
    def read(self, name: str) -> bytes | None:
        return self._bucket.read(name, limit_of(name))

    @override
    def sizes(self, prefix: str) -> Iterable[tuple[str, int]]:
        folder = prefix.rpartition("/")[0]
        return ((key, size) for key, size in self._bucket.keys(folder) if key.startswith(prefix))

    @override
    def put(self, content: bytes, digest: Digest) -> bool:
        # its age is that of its bytes: to renew it they are written again (spec STO-07)
        self._require_writable()
        check_object(content, digest)
        name = object_name(digest)
        is_new = (len(content) < _LARGE_BYTES or self._bucket.status(name) is None) and self.create(
            name, content
        )
        if not is_new:
            self.replace(name, content)
        return is_new

    @override
    def get(self, digest: Digest, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        check_limit("limit", limit)
        object_name(digest)
        ahead = None if self._ahead is None else self._ahead.take(digest)
        if ahead is not None and len(ahead) <= limit:
            # verified in this process when it came
            return ahead
        return self._get(digest, limit)

    def _get(self, digest: Digest, limit: int = MAX_OBJECT_BYTES) -> bytes:
        name, limit = object_name(digest), min(limit, MAX_OBJECT_BYTES)
        if self._cache is not None and (kept := self._cache.get(digest, limit)) is not None:
            return kept
        try:
            content = verified(self._bucket.read(name, limit), digest, limit)
        except IntegrityError:
            # spoilt on the way, or in the bucket
            content = verified(self._bucket.read(name, limit), digest, limit)
        if self._cache is not None:
            self._cache.put(digest, content)
        return content

    @override
    def size(self, digest: Digest) -> int | None:
        status = self._bucket.status(object_name(digest))
        return None if status is None else status.size

    @override
    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        asked = sorted(map(Digest, {*kinds.texts("digests", digests)}))
        present, is_all = self._listed(len(asked) // AT_ONCE)
        rest = [digest for digest in asked if digest not in present]
        if is_all:
            return rest
        sizes = side_by_side(self.size, rest, threads=AT_ONCE)
        return [digest for digest, size in zip(rest, sizes, strict=True) if size is None]

    def _listed(self, pages: int) -> tuple[set[Digest], bool]:
        """Return the objects on some pages of a list, and whether these are all that there are."""
        names = [name for name, _ in islice(self._bucket.keys("objects"), pages * _PAGE)]
        digests = {digest for digest in map(object_of, names) if digest is not None}
        return digests, pages > 0 and len(names) < pages * _PAGE

    @override
    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()

    @override
    def publish(self, space: SpaceName, number: CommitNumber, content: bytes) -> bool:
        self._require_writable()
        name = record_name(space, number)
        check_bytes("content", content)
        check_size(len(content), MAX_RECORD_BYTES, f"record {number} of {space}")
        self._mark(space, number, sha256(content))
        is_ours = self._publish(name, content)
        if number % _SWEEP == 0:
            self._sweep(space, number)
        return is_ours

    def _publish(self, name: str, content: bytes) -> bool:
        """Ask until it is known what stands under a name: the bytes, or others.

        A key that is said to be taken may be so by a try of ours whose answer was lost, or only
        for this moment, by a writer who then fails. Raises PublishStateUnknownError.
        """
        cause: StoreError | None = None
        for pause_s in (*_PAUSES_S, 0.0):
            try:
                if self._bucket.create(name, content):
                    return True
                present = self._bucket.read(name, MAX_RECORD_BYTES)
            except StoreError as error:
                if cause is None and not isinstance(error, UnansweredError):
                    raise
                present, cause = None, error
            if present is not None:
                return present == content
            self._outside.wait(pause_s)
        raise PublishStateUnknownError(
            f"{name} may or may not be published"
            f"{f': {cause.message}' if cause else ', its name is neither free nor taken.'}",
            hint="Look it up before a retry.",
        ) from cause

    @override
    def record(self, space: SpaceName, number: CommitNumber) -> bytes | None:
        return self.read(record_name(space, number))

    @override
    def first_record(
        self, space: SpaceName, numbers: Sequence[CommitNumber]
    ) -> CommitNumber | None:
        numbers = check_numbers("numbers", numbers)
        if not numbers:
            return None
        before = f"{log_name(space)}/{min(numbers) - 1:020d}.json"
        present: set[CommitNumber] = set()
        for key, _ in self._bucket.keys(log_name(space), after=before):
            if (record := record_of(key)) is not None:
                present.add(record[1])
                if record[1] == numbers[0]:
                    break
        return next((number for number in numbers if number in present), None)

    @override
    def ends_with(self, heads: Mapping[SpaceName, KeptHead]) -> bool:
        marks = self._marks()
        if not marks:
            # as in a bucket that was filled by whoever knows no marks
            return False
        last = {space: max(number for number, _ in of_space) for space, of_space in marks.items()}
        return last == {space: head.number for space, head in heads.items()} and all(
            (head.number, head.id) in marks[space] for space, head in heads.items()
        )

    def _marks(self) -> dict[SpaceName, set[tuple[CommitNumber, Digest]]]:
        """Return number and id of what was published, or about to be, last in each space."""
        marks: dict[SpaceName, set[tuple[CommitNumber, Digest]]] = {}
        for key, _ in self._bucket.keys(_ENDS):
            if (match := _MARK.fullmatch(key)) and is_space_name(match[1]):
                mark = CommitNumber(int(match[2])), Digest(match[3])
                marks.setdefault(SpaceName(match[1]), set()).add(mark)
        return marks

    def _mark(self, space: SpaceName, number: CommitNumber, id_: Digest) -> None:
        self._bucket.replace(_mark_name(space, number, id_), b"")
        self._marked[space] = number, id_

    def _sweep(self, space: SpaceName, number: CommitNumber) -> None:
        """Remove the marks of records before one that is published, where that is allowed."""
        # the record is published whatever becomes of this
        with suppress(StoreError):
            marks = self._marks().get(space, ())
            self._bucket.remove(
                *(_mark_name(space, marked, id_) for marked, id_ in marks if marked < number)
            )

    @override
    def keep_head(self, space: SpaceName, head: KeptHead | None) -> None:
        self._require_writable()
        name = head_name(space)
        check_head("head", head)
        if head is None:
            self._bucket.remove(name)
        else:
            self._bucket.replace(name, write_head(space, head))
            if self._marked.get(space) != (head.number, head.id):
                # of a log that may have been published by whoever knows no marks
                self._mark(space, head.number, head.id)

    @override
    def kept_head(self, space: SpaceName) -> KeptHead | None:
        try:
            content = self._bucket.read(head_name(space), MAX_NOTE_BYTES)
        except IntegrityError:
            return None
        return None if content is None else parse_head(space, content)

    @override
    def kept_heads(self) -> dict[SpaceName, KeptHead]:
        keys, _ = self._bucket.inside()
        heads = {
            space: self.kept_head(space)
            for space in filter(None, (space_of_head(k) for k, _ in keys))
        }
        return {space: head for space, head in heads.items() if head is not None}

    @override
    def spares(self) -> list[Digest]:
        keys, _ = self._bucket.inside()
        return sorted(filter(None, (digest_of_spare(name) for name, _ in keys)))

    @override
    def spaces(self, *, expected: Collection[SpaceName] = ()) -> list[SpaceName]:
        kinds.texts("expected", expected)
        _, names = self._bucket.inside("spaces")
        return sorted(
            SpaceName(name)
            for name in names
            if is_space_name(name) and (name in expected or self._has_record(SpaceName(name)))
        )

    def _has_record(self, space: SpaceName) -> bool:
        return any(record_of(key) for key, _ in self._bucket.keys(log_name(space)))

    @override
    def set_aside(self, name: str, place: str) -> None:
        self._require_writable()
        check_aside(name, place)
        ensure(
            self._bucket.status(name) is not None,
            NotFoundError(f"{name} is not in the store.", hint="Run verify."),
        )
        self._bucket.copy(name, f"{QUARANTINE}/{place}/{name}")
        if (record := record_of(name)) is not None:
            # while the record is there, nobody publishes another
            self._forget_marks(*record)
        self._bucket.remove(name)

    def _forget_marks(self, space: SpaceName, number: CommitNumber) -> None:
        self._marked.pop(space, None)
        marks = self._marks().get(space, ())
        self._bucket.remove(
            *(_mark_name(space, marked, id_) for marked, id_ in marks if marked == number)
        )

    @override
    def has_quarantine(self) -> bool:
        return any(True for _ in self._bucket.keys(QUARANTINE))

    @override
    def strays(self) -> Iterator[str]:
        for name, _ in self._sorted(""):
            is_beside = name == FORMAT or name.startswith((CATALOG, f"{QUARANTINE}/", "tmp/"))
            if not is_beside and not object_of(name) and not record_of(name):
                yield name

    @override
    def now_s(self) -> float:
        if self._read_only:
            return self._outside.now().timestamp()
        # by the clock of the service
        name = f"tmp/{self._outside.token()}"
        self._bucket.replace(name, b"")
        status = self._bucket.status(name)
        self._bucket.remove(name)
        if status is None:
            raise StoreError(
                f"{self._bucket.address} does not show what was just written to it.",
                hint="Run it again; `share-registry doctor` tries what the service promises.",
            )
        return status.modified_s

    @override
    def used_s(self, digest: Digest) -> float | None:
        status = self._bucket.status(object_name(digest))
        return None if status is None else status.modified_s

    @override
    def remove(self, digests: Iterable[Digest]) -> None:
        self._require_writable()
        spares: set[Digest] | None = None
        for digest in kinds.iterable("digests", digests):
            # a tool that copied a directory here has copied them too: spec STO-14
            spares = {*self.spares()} if spares is None else spares
            if digest in spares:
                self._bucket.remove(spare_name(digest))
            self._bucket.remove(object_name(digest))
            if self._cache is not None:
                self._cache.remove(digest)
            self._outside.at("gc.unlink")

    def _require_writable(self) -> None:
        ensure(
            not self._read_only,
            RefusedError(
                f"the registry at {self._bucket.address} is open for reading only.",
                hint="Open it with mode 'w'.",
            ),
        )

    def _require_exclusive(self) -> None:
        """Try that a name is given once only: FORMAT, which is there (spec STO-16).

        A service that gives it again has written the bytes that were there. Raises RefusedError.
        """
        try:
            exclusive = not self.create(FORMAT, self._format)
        except StoreError as error:
            raise error.amended(prefix="the store cannot be written: ") from error
        ensure(
            exclusive,
            RefusedError(
                f"the service of {self._bucket.address} gave one name twice, so two writers could "
                "overwrite each other: it does not know conditional writes (If-None-Match).",
                hint="Open it with mode 'r'; to write, use a service or a release of it that does, "
                "or a directory.",
            ),
        )


def _mark_name(space: SpaceName, number: CommitNumber, id_: Digest) -> str:
    return f"{_ENDS}/{space}.{number:020d}.{id_}"
