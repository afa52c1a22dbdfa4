"""A copy of a registry in a repository of the Hugging Face Hub, with the names of a directory.

What is read is of one commit, so nobody's commit is seen by half. What is put and published is
collected, sent piece by piece, and is there with `commit`: by one commit where it is not much, else
by several, objects first. Each builds on the commit that was looked at, so that whoever commits
meanwhile is seen: where it is not to the registry, the commit is made on top of it.

Nothing is ever removed, and no file is written but those of a store.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

from typing_extensions import override

from share_registry import kinds
from share_registry.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    ensure,
)
from share_registry.exchange.hub_branch import (
    BranchMovedError,
    HubBranch,
    blob_id,
)
from share_registry.exchange.hub_client import HubLocation, open_client
from share_registry.format.canonical import sha256
from share_registry.look.units import count
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.outside.files import Outside
from share_registry.parallel import side_by_side
from share_registry.store.blobs import BlobStore
from share_registry.store.head_notes import head_name, parse_head, space_of_head, write_head
from share_registry.store.protocol import (
    FORMAT,
    KeptHead,
    check_head,
    check_object,
    limit_of,
    object_name,
    object_of,
    record_name,
    record_of,
)

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.hf_api import RepoFile

# Reads that are faster together
_AT_ONCE: Final = 16
# Files of a commit before the last one, and of any: where huggingface_hub's own uploads begin to
# divide them, and the most that they try, since the Hub gives up on a commit after a minute
_COMMIT_FILES: Final = 250
_MOST_FILES: Final = 1000
# Bytes that wait to be sent, and that a commit carries itself as nothing is sent before it
_WAITING_BYTES: Final = 128 << 20
_CARRIED_BYTES: Final = 64 << 20
# Commits on top of those of others before it is given up
_TRIES: Final = 5


class OutrunError(ConflictError):
    """Somebody changed the registry there after it was looked at; it is looked at again."""


@dataclass(frozen=True, slots=True)
class _HubFile:
    """What is known of a file without its bytes: the one digest or the other, or both."""

    size: int
    sha256: str | None
    blob_id: str | None

    @classmethod
    def listed(cls, entry: "RepoFile") -> Self:
        if entry.lfs is not None:
            # the other digest is that of a pointer to it
            return cls(entry.size, entry.lfs.sha256, None)
        return cls(entry.size, None, entry.blob_id)

    @classmethod
    def of(cls, content: bytes) -> Self:
        return cls(len(content), sha256(content), blob_id(content))

    def is_same(self, file: "_HubFile | None") -> bool:
        if file is None or self.size != file.size:
            return False
        if self.sha256 is not None and file.sha256 is not None:
            return self.sha256 == file.sha256
        return self.blob_id is not None and self.blob_id == file.blob_id


class HubStore(BlobStore):
    """Objects and logs in a folder of a repository.

    Args:
        branch: Where.
        head: The commit that is looked at.
        identity: uuid of a new store; None where one must be there.
        read_only: Refuse every write.

    Raises:
        NotFoundError: there is no store, and no identity for a new one.
        FormatError, IntegrityError: see `BlobStore`.
    """

    # what the Hub raises are errors of ours
    driver_errors: ClassVar[tuple[type[Exception], ...]] = ()

    def __init__(
        self, branch: HubBranch, head: str, *, identity: str | None, read_only: bool
    ) -> None:
        self._branch = branch
        self._head = head
        self._read_only = read_only
        self._lock = threading.RLock()
        # as of the head, and what was put since
        self._files = self._list(head)
        # what commits on top of others may build on: the head's files and those we committed
        self._base = dict(self._files)
        # contents but of objects, which are small: read, or to be committed
        self._texts: dict[str, bytes] = {}
        # on their way, in this order; what is last is sent when all else is
        self._last: dict[str, bytes] = {}
        self._unsent: dict[str, bytes] = {}
        self._sent: list[tuple[str, CommitOperationAdd]] = []
        self._written: set[str] = set()
        self._failure: ShareRegistryError | None = None
        try:
            super().__init__(identity)
        except NotFoundError as error:
            raise NotFoundError(
                f"there is no registry at {branch.place}.",
                hint="`share-registry clone` makes a copy there.",
            ) from error

    @classmethod
    def open(
        cls, address: str, outside: Outside, *, mode: str, identity: str | None = None
    ) -> Self:
        """Open the copy at `hf://[datasets/]owner/repo[@revision][/folder]`.

        Args:
            address: Where.
            outside: The environment.
            mode: "r", "w", or "c" to create the repository, which only its owner sees then, the
                branch and the store where they are not there.
            identity: uuid of a store that is created.

        Raises:
            InvalidInputError: a malformed address, or one of a tag where it is written.
            NotFoundError: no such repository, revision or store, or no right to see it.
            RefusedError: no token, or no right.
            StoreError: the Hub cannot be reached, or fails.
        """
        location = HubLocation.parse(address)
        if mode == "r":
            branch = HubBranch(api=open_client(outside), location=location)
            return cls(branch, branch.resolve(), identity=None, read_only=True)
        branch = HubBranch(api=open_client(outside, signs_in=True), location=location)
        head = branch.head(create=mode == "c") or branch.create(private=True)
        return cls(branch, head, identity=identity if mode == "c" else None, read_only=False)

    def reopened(self) -> Self:
        """Return the copy as it is now, without what was put and not committed."""
        head = self._branch.head(create=False)
        assert head is not None
        return type(self)(self._branch, head, identity=self._identity, read_only=False)

    @property
    @override
    def at_once(self) -> int:
        return _AT_ONCE

    @property
    @override
    def read_only(self) -> bool:
        return self._read_only

    @override
    def create(self, name: str, content: bytes) -> bool:
        with self._lock:
            is_free = name not in self._files
            if is_free:
                self.replace(name, content)
        return is_free

    @override
    def replace(self, name: str, content: bytes) -> None:
        ensure(
            not self._read_only,
            RefusedError(
                f"the registry at {self._branch.place} is open for reading only.",
                hint="Open it with mode 'w'.",
            ),
        )
        file = _HubFile.of(content)
        with self._lock, self._failing():
            self._files[name] = file
            # where objects are, FORMAT must be
            is_first = name == FORMAT or object_of(name) is not None
            waiting = self._unsent if is_first else self._last
            # a head is noted again and again: it goes behind the record that it names
            waiting.pop(name, None)
            waiting[name] = content
            if object_of(name) is None:
                self._texts[name] = content
            self._make_room()

    @override
    def read(self, name: str) -> bytes | None:
        if name in self._texts:
            return self._texts[name]
        file = self._files.get(name)
        if file is None:
            return None
        limit = limit_of(name)
        ensure(
            file.size <= limit,
            IntegrityError(
                f"{name} has {file.size} bytes, more than the limit of {limit}.",
                hint="Revert the commit there that did it, or make a new copy.",
            ),
        )
        try:
            content = self._branch.read(self._head, name)
        except NotFoundError as error:
            raise IntegrityError(
                f"{name} is listed at {self._branch.place} and not there: {error.message}",
                hint="Revert the commit there that did it, or make a new copy.",
            ) from error
        if object_of(name) is None:
            self._texts[name] = content
        return content

    @override
    def sizes(self, prefix: str) -> Iterable[tuple[str, int]]:
        if prefix in self._files:
            return [(prefix, self._files[prefix].size)]
        files = self._files.copy()
        return [(name, file.size) for name, file in files.items() if name.startswith(prefix)]

    @override
    def put(self, content: bytes, digest: Digest) -> bool:
        check_object(content, digest)
        name = object_name(digest)
        file = self._files.get(name)
        if file is None:
            return self.create(name, content)
        if not _HubFile.of(content).is_same(file):
            self.replace(name, content)
        return False

    @override
    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        # what the Hub says to have other bytes is put again
        asked = sorted(map(Digest, {*kinds.texts("digests", digests)}))
        files = {digest: self._files.get(object_name(digest)) for digest in asked}
        return [
            digest
            for digest, file in files.items()
            if file is None or file.sha256 not in (None, digest)
        ]

    @override
    def record(self, space: SpaceName, number: CommitNumber) -> bytes | None:
        if record_name(space, number) not in self._texts:
            # a log is read in order
            names = [record_name(space, CommitNumber(number + n)) for n in range(_AT_ONCE)]
            side_by_side(self._read_ahead, names, threads=_AT_ONCE)
        return super().record(space, number)

    def _read_ahead(self, name: str) -> None:
        # what is wrong with a record is said when it is asked for
        with suppress(IntegrityError):
            self.read(name)

    @override
    def keep_head(self, space: SpaceName, head: KeptHead | None) -> None:
        check_head("head", head)
        if head is not None:
            self.replace(head_name(space), write_head(space, head))

    @override
    def kept_head(self, space: SpaceName) -> KeptHead | None:
        content = self.read(head_name(space))
        return None if content is None else parse_head(space, content)

    def commit(self) -> None:
        """Commit what was put and published, and compare what the Hub has with it.

        Raises:
            OutrunError: the registry there is not what was looked at any more.
            ConflictError: others commit all the time.
            RefusedError: no right, or the Hub takes the files not.
            IntegrityError: the Hub has other bytes than were sent.
            StoreError: whether it was committed is not known.
        """
        with self._lock, self._failing():
            self._unsent |= self._last
            self._last = {}
            self._send()
            self._commit()
            self._check()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Let what is put after a failure fail alike: what was sent is not to be sent again."""
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except ShareRegistryError as error:
            self._failure = error
            raise

    def _make_room(self) -> None:
        """Send what waits, and commit what is sent, where it is much."""
        waiting = sum(map(len, self._unsent.values()))
        if len(self._unsent) >= _COMMIT_FILES or waiting >= _WAITING_BYTES:
            self._send()
        # of what was sent no bytes are left
        contents = (sent.path_or_fileobj for _, sent in self._sent)
        carried = sum(len(content) for content in contents if isinstance(content, bytes))
        if len(self._sent) >= _COMMIT_FILES or carried >= _CARRIED_BYTES:
            self._commit()

    def _send(self) -> None:
        additions = self._branch.send(self._unsent, frees=True) if self._unsent else []
        self._sent += zip(self._unsent, additions, strict=True)
        self._unsent = {}

    def _commit(self) -> None:
        """Commit what is sent, in order, and a head with the record that it names."""
        while self._sent:
            parts_them = any(space_of_head(name) for name, _ in self._sent[_MOST_FILES:][:1])
            some = self._sent[: _MOST_FILES - parts_them]
            names = [name for name, _ in some]
            self._commit_on_top([addition for _, addition in some], *self._message(names))
            self._base |= {name: self._files[name] for name in names}
            self._written |= {*names}
            self._sent = self._sent[len(some) :]

    def _commit_on_top(
        self, additions: "list[CommitOperationAdd]", title: str, description: str
    ) -> None:
        """Commit on top of the head, wherever others move it meanwhile."""
        for tries_left in reversed(range(_TRIES)):
            try:
                self._head = self._branch.commit(
                    additions, title=title, description=description, parent=self._head
                )
            except BranchMovedError as error:
                if not tries_left:
                    raise
                self._follow(error)
            else:
                return

    def _follow(self, moved: BranchMovedError) -> None:
        """Go on from what somebody else committed, where the registry there is what it was.

        Objects may have come, which nothing is said by. Raises OutrunError.
        """
        head = self._branch.head(create=False)
        assert head is not None
        files = self._list(head)
        is_kept = all(file.is_same(files.get(name)) for name, file in self._base.items())
        if not is_kept or any(not object_of(name) for name in files.keys() - self._base.keys()):
            raise OutrunError(moved.message, hint=moved.hint) from moved
        self._head = head

    def _message(self, names: Sequence[str]) -> tuple[str, str]:
        """Return the title of a commit, and what its description says of the ends of logs."""
        records, objects = (
            count(sum(1 for name in names if kind(name)), word)
            for kind, word in ((record_of, "record"), (object_of, "object"))
        )
        ends = [
            f"{space}: c{head.number} {head.id}"
            for space in sorted(filter(None, map(space_of_head, names)))
            if (head := self.kept_head(space)) is not None
        ]
        return f"share_registry: {records}, {objects} of registry {self._identity}", "\n".join(ends)

    def _check(self) -> None:
        """Check that the Hub has what was sent. Raises IntegrityError."""
        files = self._list(self._head) if self._written else {}
        for name in sorted(self._written):
            ensure(
                self._files[name].is_same(files.get(name)),
                IntegrityError(
                    f"{self._branch.place}: at {self._head} {name} is not what was sent.",
                    hint="Run it again, and look at what the repository does with its files.",
                ),
            )
        self._written.clear()

    def _list(self, commit: str) -> dict[str, _HubFile]:
        """Return the files of a store at a commit; others are nobody's business here."""
        entries = self._branch.files(commit, is_deep=True)
        return {
            name: _HubFile.listed(entry) for name, entry in entries.items() if _is_of_store(name)
        }


def _is_of_store(name: str) -> bool:
    return (
        name == FORMAT
        or object_of(name) is not None
        or record_of(name) is not None
        or space_of_head(name) is not None
    )
