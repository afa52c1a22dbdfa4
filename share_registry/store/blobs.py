"""A store over any place that keeps bytes under names, and one in memory.

Names are those of a directory store: `FORMAT`, `objects/ab/<62 hex>` and
`spaces/<space>/log/<20-digit n>.json`. What a place must do is little: create a name that must be
free, replace, read, and list.
"""

import threading
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import ClassVar

from typing_extensions import override

from share_registry import kinds
from share_registry.errors import IntegrityError, NotFoundError, StoreError, ensure
from share_registry.format.canonical import sha256
from share_registry.format.format_file import format_bytes
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.outside.files import Outside
from share_registry.store.protocol import (
    FORMAT,
    MAX_OBJECT_BYTES,
    MAX_RECORD_BYTES,
    PublishStateUnknownError,
    Store,
    check_bytes,
    check_limit,
    check_numbers,
    check_object,
    check_size,
    identity_of,
    log_name,
    object_name,
    object_of,
    record_name,
    record_of,
)


class BlobStore(Store):
    """Objects and logs as bytes under names: a subclass says how `create` and three more do it.

    These four may be called by several threads. What `create` and `replace` wrote is there, whole,
    after a power cut.

    Args:
        identity: uuid of a new store; where one is there already, it keeps its own. None where one
            must be there.

    Attributes:
        driver_errors: What the four raise where the system refuses, seen by callers as StoreError.

    Raises:
        NotFoundError: there is no store, and no identity for a new one.
        IntegrityError: it has lost its FORMAT file, or that is malformed.
        FormatError: it is of another version.
    """

    driver_errors: ClassVar[tuple[type[Exception], ...]] = (OSError,)

    def __init__(self, identity: str | None) -> None:
        with self._translating():
            self._format = self.read(FORMAT) or self._begin(identity)
        self._identity = identity_of(self._format, writing=not self.read_only)

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Write bytes under a name that must be free, and tell whether it was.

        Of several callers, in any process, that race for a name exactly one is told True.
        """

    @abstractmethod
    def replace(self, name: str, content: bytes) -> None:
        """Write bytes under a name in place of those that are there."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return the bytes under a name, None where there are none."""

    @abstractmethod
    def sizes(self, prefix: str) -> Iterable[tuple[str, int]]:
        """Return every name that begins with a prefix and its size in bytes, in any order."""

    @property
    @override
    def identity(self) -> str:
        return self._identity

    @override
    def format_bytes(self) -> bytes:
        return self._format

    @override
    def kept_format(self) -> bytes | None:
        return self.read(FORMAT)

    def _begin(self, identity: str | None) -> bytes:
        """Write FORMAT where there is none yet, and return it."""
        ensure(
            not any(True for prefix in ("objects/", "spaces/") for _ in self.sizes(prefix)),
            IntegrityError(
                f"{type(self).__name__} holds objects or records and no FORMAT.",
                hint="Bring FORMAT back from a copy of the store: without it the log proves "
                "nothing.",
            ),
        )
        if identity is None:
            raise NotFoundError("there is no FORMAT.", hint="Create the registry with mode 'c'.")
        self.create(FORMAT, format_bytes(identity))
        # another creator may have been faster
        return self.read(FORMAT) or b""

    @override
    def put(self, content: bytes, digest: Digest) -> bool:
        check_object(content, digest)
        name = object_name(digest)
        with self._translating():
            is_new = self.create(name, content)
            if not is_new and self.read(name) != content:
                self.replace(name, content)
        return is_new

    @override
    def get(self, digest: Digest, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        check_limit("limit", limit)
        with self._translating():
            content = self.read(object_name(digest))
        return verified(content, digest, limit)

    @override
    def size(self, digest: Digest) -> int | None:
        name = object_name(digest)
        return dict(self._sorted(name)).get(name)

    @override
    def publish(self, space: SpaceName, number: CommitNumber, content: bytes) -> bool:
        name = record_name(space, number)
        check_bytes("content", content)
        check_size(len(content), MAX_RECORD_BYTES, f"record {number}")
        try:
            with self._translating():
                return self.create(name, content) or self.read(name) == content
        except StoreError as error:
            raise PublishStateUnknownError(
                f"{name} may or may not be published: {error.message}",
                hint="Look it up before a retry.",
            ) from error

    @override
    def record(self, space: SpaceName, number: CommitNumber) -> bytes | None:
        with self._translating():
            return self.read(record_name(space, number))

    @override
    def first_record(
        self, space: SpaceName, numbers: Sequence[CommitNumber]
    ) -> CommitNumber | None:
        present = {*self.numbers(space)}
        return next((n for n in check_numbers("numbers", numbers) if n in present), None)

    @override
    def spaces(self, *, expected: Collection[SpaceName] = ()) -> list[SpaceName]:
        kinds.texts("expected", expected)
        names = (name for name, _ in self._sorted("spaces/"))
        logs = (map(record_of, log) for _, log in groupby(names, lambda name: name.split("/")[1]))
        # one record shows that there is a space: a long log is not parsed
        records = (next(filter(None, log), None) for log in logs)
        return sorted(record[0] for record in records if record)

    @override
    def numbers(self, space: SpaceName) -> list[CommitNumber]:
        records = (record_of(name) for name, _ in self._sorted(f"{log_name(space)}/"))
        return [record[1] for record in records if record]

    @override
    def objects(self) -> Iterator[tuple[Digest, int]]:
        for name, size in self._sorted("objects/"):
            if digest := object_of(name):
                yield digest, size

    @override
    def strays(self) -> Iterator[str]:
        for name, _ in self._sorted(""):
            if name != FORMAT and not object_of(name) and not record_of(name):
                yield name

    def _sorted(self, prefix: str) -> list[tuple[str, int]]:
        with self._translating():
            return sorted(self.sizes(prefix))

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except self.driver_errors as error:
            raise StoreError(
                f"{type(self).__name__}: {error}.", hint="Check the place and run it again."
            ) from error


def verified(content: bytes | None, digest: Digest, limit: int) -> bytes:
    """Return the bytes that were read of an object.

    Raises NotFoundError where there are none, IntegrityError where they are too many or others.
    """
    if content is None:
        raise NotFoundError(f"object {digest} is not in the store.", hint="Run verify.")
    ensure(
        len(content) <= limit,
        IntegrityError(
            f"object {digest} has {len(content)} bytes, more than the limit of {limit}.",
            hint="Run verify.",
        ),
    )
    actual = sha256(content)
    ensure(
        actual == digest,
        IntegrityError(f"object {digest} has the digest {actual}.", hint="Run verify."),
    )
    return content


class MemoryStore(BlobStore):
    """A store in a dictionary: the shortest, for tests and registries not to outlive the process.

    Args:
        identity: uuid of the store.
    """

    def __init__(self, identity: str) -> None:
        self._blobs: dict[str, bytes] = {}
        self._used: dict[Digest, float] = {}
        self._outside = Outside()
        self._lock = threading.Lock()
        super().__init__(identity)

    @override
    def create(self, name: str, content: bytes) -> bool:
        with self._lock:
            is_free = name not in self._blobs
            self._blobs.setdefault(name, bytes(content))
        return is_free

    @override
    def replace(self, name: str, content: bytes) -> None:
        self._blobs[name] = bytes(content)

    @override
    def read(self, name: str) -> bytes | None:
        return self._blobs.get(name)

    @override
    def sizes(self, prefix: str) -> Iterable[tuple[str, int]]:
        if prefix in self._blobs:
            return [(prefix, len(self._blobs[prefix]))]
        blobs = self._blobs.copy()
        return [(name, len(blobs[name])) for name in blobs if name.startswith(prefix)]

    @override
    def put(self, content: bytes, digest: Digest) -> bool:
        is_new = super().put(content, digest)
        self._used[digest] = self.now_s()
        return is_new

    @override
    def now_s(self) -> float:
        return self._outside.now().timestamp()

    @override
    def used_s(self, digest: Digest) -> float | None:
        return self._used.get(digest) if object_name(digest) in self._blobs else None

    @override
    def remove(self, digests: Iterable[Digest]) -> None:
        for digest in kinds.iterable("digests", digests):
            self._blobs.pop(object_name(digest), None)
