"""A store in a directory (spec STO-01 to STO-12).

Everything is written to `tmp/`, flushed, and only then given its name, without replacing what is
there; then every directory that got a new name is flushed. So a name that is there after a crash or
a power cut leads to whole bytes, and what was acknowledged is there.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Final, Self

from typing_extensions import override

from share_registry import kinds
from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    StoreError,
    ensure,
)
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.outside.files import Kind, Outside
from share_registry.outside.system import nothing_done
from share_registry.store.head_notes import CATALOG
from share_registry.store.protocol import (
    FORMAT,
    MAX_FORMAT_BYTES,
    MAX_OBJECT_BYTES,
    MAX_RECORD_BYTES,
    QUARANTINE,
    KeptHead,
    PublishStateUnknownError,
    Store,
    check_aside,
    check_bytes,
    check_head,
    check_limit,
    check_numbers,
    check_object,
    check_size,
    identity_of,
    is_space_name,
    log_name,
    object_name,
    object_of,
    record_name,
    record_of,
)
from share_registry.store.side_files import SideFiles

_FOLDERS: Final = ("objects", "spaces", "tmp")
_SHARD: Final = re.compile(r"[0-9a-f]{2}")
_REST: Final = re.compile(r"[0-9a-f]{62}")
_RECORD: Final = re.compile(r"(\d{20})\.json")
_DAMAGED: Final = "Run verify, and restore the file from a copy."


class LocalStore(Store):
    """Objects and logs in a directory.

    Args:
        root: The directory.
        outside: The way to the file system.
        read_only: Refuse every write, so that read-only media do.

    Raises:
        NotFoundError: there is no store.
        FormatError: it is of another version.
        IntegrityError: its FORMAT is malformed.
    """

    def __init__(self, root: Path, outside: Outside, *, read_only: bool = False) -> None:
        self._root = outside.absolute(root)
        self._outside = outside.confined(self._root)
        self._read_only = read_only
        self._named: set[Path] = set()
        self._side = SideFiles(self._root, self._outside, self._temporary)
        try:
            self._format = self._outside.read(self._root / FORMAT, limit=MAX_FORMAT_BYTES)
        except NotFoundError as error:
            raise NotFoundError(
                f"there is no registry at {self._root}.",
                hint="Create it with mode 'c' or `share-registry init`.",
            ) from error
        try:
            self._identity = identity_of(self._format, writing=not read_only)
        except IntegrityError as error:
            path = quote(str(root / FORMAT))
            raise IntegrityError(
                f"{root / FORMAT} is damaged: {error.message}",
                hint=f"Every copy of the registry has the same: `cp -f COPY/FORMAT {path}`, "
                "then `share-registry verify`.",
            ) from error

    @classmethod
    def create(cls, root: Path, outside: Outside, identity: str) -> Self:
        """Create a store, or open the one that somebody else creates at the same time.

        Args:
            root: A directory that is missing, empty, or holds nothing but a catalog.
            outside: The way to the file system.
            identity: uuid of the new store.

        Raises:
            RefusedError: the directory holds something else, or its file system lets two writers
                overwrite each other.
            StoreError: the system refuses; a second try may succeed.
        """
        root = outside.absolute(root)
        _make_root(root, outside)
        inside = outside.confined(root)
        if not inside.exists(root / FORMAT):
            _require_fresh(root, inside)
            for folder in _FOLDERS:
                inside.make_directory(root / folder)
            _require_exclusive(root / "tmp", inside)
            _write_format(root, inside, identity)
        return cls(root, outside)

    @property
    @override
    def identity(self) -> str:
        return self._identity

    @property
    @override
    def read_only(self) -> bool:
        return self._read_only

    @override
    def format_bytes(self) -> bytes:
        return self._format

    @override
    def kept_format(self) -> bytes | None:
        with suppress(NotFoundError):
            return self._outside.read(self._root / FORMAT, limit=MAX_FORMAT_BYTES)
        return None

    @override
    def put(self, content: bytes, digest: Digest) -> bool:
        self._require_writable()
        check_object(content, digest)
        path = self._root / object_name(digest)
        self._make_named(path.parent)
        if not self._outside.exists(path):
            with self._temporary(content, "obj") as temporary:
                is_new = self._outside.link_new(temporary, path)
                self._outside.at("obj.linked")
            if is_new:
                self._sync_objects(path)
                return True
        self._renew(path, content)
        return False

    @override
    def get(self, digest: Digest, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        check_limit("limit", limit)
        path, hasher = self._root / object_name(digest), hashlib.sha256()
        try:
            content = self._outside.read(
                path, limit=min(limit, MAX_OBJECT_BYTES), seen=hasher.update
            )
        except NotFoundError as error:
            raise NotFoundError(f"object {digest} is not in the store.", hint=_DAMAGED) from error
        ensure(
            hasher.hexdigest() == digest,
            IntegrityError(f"object {digest} has the digest {hasher.hexdigest()}.", hint=_DAMAGED),
        )
        return content

    @override
    def size(self, digest: Digest) -> int | None:
        return self._outside.size(self._root / object_name(digest))

    @override
    def publish(self, space: SpaceName, number: CommitNumber, content: bytes) -> bool:
        self._require_writable()
        path = self._root / record_name(space, number)
        check_bytes("content", content)
        check_size(len(content), MAX_RECORD_BYTES, f"record {number} of {space}")
        self._make_named(path.parent)
        with self._temporary(content, "record") as temporary:
            return self._link_record(temporary, path, content)

    @override
    def record(self, space: SpaceName, number: CommitNumber) -> bytes | None:
        try:
            return self._outside.read(
                self._root / record_name(space, number), limit=MAX_RECORD_BYTES
            )
        except NotFoundError:
            return None

    @override
    def first_record(
        self, space: SpaceName, numbers: Sequence[CommitNumber]
    ) -> CommitNumber | None:
        numbers = check_numbers("numbers", numbers)
        names = {Path(record_name(space, number)).name: number for number in numbers}
        first = self._outside.first_of(self._root / log_name(space), list(names))
        return None if first is None else names[first]

    @override
    def keep_head(self, space: SpaceName, head: KeptHead | None) -> None:
        self._require_writable()
        check_head("head", head)
        self._side.keep_head(space, head)

    @override
    def kept_heads(self) -> dict[SpaceName, KeptHead]:
        return self._side.heads()

    @override
    def kept_head(self, space: SpaceName) -> KeptHead | None:
        return self._side.head(space)

    @override
    def keep_spare(self, content: bytes, digest: Digest) -> None:
        self._require_writable()
        check_object(content, digest)
        self._side.keep_spare(content, digest)

    @override
    def spare(self, digest: Digest) -> bytes | None:
        return self._side.spare(digest)

    @override
    def spares(self) -> list[Digest]:
        return self._side.spares()

    @override
    def sync_log(self, space: SpaceName) -> None:
        self._require_writable()
        log = self._root / log_name(space)
        if self._outside.exists(log):
            self._make_named(log)
            self._outside.sync_directory(log)

    @override
    def spaces(self, *, expected: Collection[SpaceName] = ()) -> list[SpaceName]:
        kinds.texts("expected", expected)
        return [
            SpaceName(name)
            for name in self._outside.names(self._root / "spaces")
            if name in expected or self._is_space(name)
        ]

    def _is_space(self, name: str) -> bool:
        root = self._root / "spaces" / name
        if not (is_space_name(name) and self._is_folder(root) and self._is_folder(root / "log")):
            return False
        return self._outside.exists(
            self._root / record_name(SpaceName(name), CommitNumber(1))
        ) or bool(self.numbers(SpaceName(name)))

    @override
    def numbers(self, space: SpaceName) -> list[CommitNumber]:
        names = self._outside.names(self._root / log_name(space))
        return [CommitNumber(int(match[1])) for match in map(_RECORD.fullmatch, names) if match]

    @override
    def objects(self) -> Iterator[tuple[Digest, int]]:
        root = self._root / "objects"
        for shard in filter(_SHARD.fullmatch, self._outside.names(root)):
            if not self._is_folder(root / shard):
                continue
            for rest in filter(_REST.fullmatch, self._outside.names(root / shard)):
                size = self._outside.size(root / shard / rest)
                if size is not None:
                    yield Digest(shard + rest), size

    @override
    def set_aside(self, name: str, place: str) -> None:
        self._require_writable()
        check_aside(name, place)
        source, target = self._root / name, self._root / QUARANTINE / place / name
        ensure(
            self._outside.exists(source),
            NotFoundError(f"{name} is not in the store.", hint="Run verify."),
        )
        self._outside.make_directory(target.parent)
        self._outside.replace(source, target)
        # the new name first: the file is never without one
        self._outside.sync_directory(target.parent)
        self._outside.sync_directory(source.parent)

    @override
    def has_quarantine(self) -> bool:
        return self._outside.exists(self._root / QUARANTINE)

    @override
    def strays(self) -> Iterator[str]:
        for name in self._outside.names(self._root):
            is_ours = name in (*_FOLDERS, QUARANTINE) and self._is_folder(self._root / name)
            is_catalog = name.startswith(CATALOG)
            is_spoilt = self._side.is_spoilt(name, lambda space: bool(self.numbers(space)))
            if not is_ours and name != FORMAT and (not is_catalog or is_spoilt):
                yield name
        for path in self._outside.files_below(self._root):
            name = path.relative_to(self._root).as_posix()
            folder, _, rest = name.partition("/")
            belongs = object_of(name) or record_of(name) or (folder == "tmp" and "/" not in rest)
            if (
                rest
                and folder in _FOLDERS
                and not (belongs and self._outside.kind(path) is Kind.FILE)
            ):
                yield name

    @override
    def now_s(self) -> float:
        if self._read_only:
            return self._outside.now().timestamp()
        # by the clock of the file system, which is another machine's where it is shared
        with self._temporary(b"", "clock") as temporary:
            return self._outside.modified_s(temporary) or 0.0

    @override
    def used_s(self, digest: Digest) -> float | None:
        return self._outside.modified_s(self._root / object_name(digest))

    @override
    def remove(self, digests: Iterable[Digest]) -> None:
        self._require_writable()
        folders: set[Path] = set()
        for digest in kinds.iterable("digests", digests):
            path = self._root / object_name(digest)
            if self._side.remove_spare(digest):
                folders.add(self._root)
            if self._outside.remove(path):
                self._outside.at("gc.unlink")
            # also of one that a run which died removed: that may not have come to the flush
            folders.add(path.parent)
        for folder in sorted(folders):
            if self._outside.exists(folder):
                self._outside.sync_directory(folder)

    @override
    def litter(self) -> Iterator[tuple[str, int, float]]:
        folder = self._root / "tmp"
        for name in self._outside.names(folder):
            size, time_s = (
                self._outside.size(folder / name),
                self._outside.modified_s(folder / name),
            )
            if size is not None and time_s is not None:
                yield name, size, time_s

    @override
    def remove_litter(self, name: str) -> None:
        self._require_writable()
        ensure(
            Path(kinds.text("name", name)).name == name,
            InvalidInputError(f"{name!r} names no file.", hint="Give a name that litter() gave."),
        )
        self._outside.remove(self._root / "tmp" / name)

    def _require_writable(self) -> None:
        ensure(
            not self._read_only,
            RefusedError(
                f"the registry at {self._root} is open for reading only.",
                hint="Open it with mode 'w'.",
            ),
        )

    def _is_folder(self, path: Path) -> bool:
        return self._outside.kind(path) is Kind.DIRECTORY

    def _make_named(self, folder: Path) -> None:
        """Make a directory below the root, and its name and its parents' durable.

        Also where another process made it: that may have died before it flushed the name.
        """
        if folder in self._named or folder == self._root:
            return
        self._make_named(folder.parent)
        if self._outside.exists(folder):
            self._outside.sync_directory(folder.parent)
        else:
            self._outside.make_directory(folder)
        self._named.add(folder)

    @contextmanager
    def _temporary(self, content: bytes, point: str) -> Iterator[Path]:
        # copies of a store tend to lose empty directories
        self._make_named(self._root / "tmp")
        with _temporary_file(self._root, self._outside, content, point=point) as path:
            yield path

    def _renew(self, path: Path, content: bytes) -> None:
        """Answer for an object that is there already.

        Its bytes are read again, and its name is flushed, since whoever gave it may not have come
        to that.
        """
        try:
            sound = self._outside.read(path, limit=len(content)) == content
        except (IntegrityError, NotFoundError):
            sound = False
        if sound:
            self._outside.touch(path)
        else:
            with self._temporary(content, "obj") as temporary:
                self._outside.replace(temporary, path)
        self._sync_objects(path)

    def _sync_objects(self, path: Path) -> None:
        self._outside.sync_directory(path.parent)
        self._outside.at("obj.dirsync")

    def _link_record(self, temporary: Path, path: Path, content: bytes) -> bool:
        """Give a record its name; tell whether it has it.

        The commit protocol rests on this step. The link either makes the record visible, whole, or
        leaves the name to whoever has it. Before it nothing was published, and every error says
        so. Once it was tried the outcome must be known, or said to be unknown: a network file
        system may report a success as a failure, so the bytes under the name are compared with
        ours, and where they cannot be read or flushed, the caller has to look the record up
        (`PublishStateUnknownError`). From here on only the temporary name may be removed.
        """
        cause: StoreError | None = None
        try:
            won = self._outside.link_new(temporary, path)
        except StoreError as error:
            if nothing_done(error):
                raise
            won, cause = False, error
        won = won or self._has_bytes(path, content, cause=cause)
        try:
            self._outside.at("record.linked")
            if won:
                self._outside.sync_directory(path.parent)
                self._outside.at("record.dirsync")
        except (StoreError, IntegrityError) as error:
            raise _unknown(path) from error
        return won

    def _has_bytes(self, path: Path, content: bytes, *, cause: StoreError | None) -> bool:
        try:
            return self._outside.read(path, limit=MAX_RECORD_BYTES) == content
        except (NotFoundError, StoreError) as error:
            raise _unknown(path) from (cause or error)


def _unknown(path: Path) -> PublishStateUnknownError:
    return PublishStateUnknownError(
        f"{path.name} of {path.parent.parent.name} may or may not be published: "
        "the system failed in between.",
        hint="Look it up before a retry.",
    )


@contextmanager
def _temporary_file(root: Path, outside: Outside, content: bytes, *, point: str) -> Iterator[Path]:
    """Write a file under a temporary name of our own; what cannot be removed is litter."""
    path = root / "tmp" / outside.token()
    outside.write_new(path, content, point=point, frozen=True)
    try:
        yield path
    finally:
        with suppress(StoreError, IntegrityError):
            outside.remove(path)


def _make_root(root: Path, outside: Outside) -> None:
    """Make the directory of a store.

    Where it is there already, its creator may have died before its name was flushed.
    """
    outside.make_directory(root)
    try:
        outside.sync_directory(root.parent)
    except StoreError as error:
        # who may not list the parent did not create the name in it
        if not nothing_done(error):
            raise


def _require_fresh(root: Path, inside: Outside) -> None:
    """Allow an empty directory, a catalog, and what a creator that died left behind."""
    for name in inside.names(root):
        ours = name.startswith(CATALOG) or (
            name in _FOLDERS and inside.kind(root / name) is Kind.DIRECTORY
        )
        used = not ours or (name in ("objects", "spaces") and inside.names(root / name))
        # where FORMAT is there by now, another creator was faster
        ensure(
            not used or inside.exists(root / FORMAT),
            RefusedError(
                f"{root} holds {name!r} and no FORMAT file: it is not a registry.",
                hint="Choose an empty or new directory, "
                "or restore FORMAT from a copy if this was a registry.",
            ),
        )


def _require_exclusive(folder: Path, inside: Outside) -> None:
    """Try that a name is given once only. Raises RefusedError."""
    name = inside.token()
    first, second, target = (folder / f"{name}{suffix}" for suffix in ("-1", "-2", "-probe"))
    try:
        inside.write_new(first, b"1", point="probe")
        inside.write_new(second, b"2", point="probe")
        exclusive = (
            inside.link_new(first, target)
            and not inside.link_new(second, target)
            and inside.read(target, limit=1) == b"1"
        )
    finally:
        for path in (first, second, target):
            inside.remove(path)
    ensure(
        exclusive,
        RefusedError(
            f"the file system of {folder} gave one name twice, "
            "so two writers could overwrite each other.",
            hint="Put the registry on another file system.",
        ),
    )


def _write_format(root: Path, inside: Outside, identity: str) -> None:
    from share_registry.format.format_file import format_bytes

    with _temporary_file(root, inside, format_bytes(identity), point="format") as temporary:
        inside.link_new(temporary, root / FORMAT)
    inside.at("format.linked")
    inside.sync_directory(root)
