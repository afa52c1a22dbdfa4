"""A store in a directory (spec STO-01 to STO-12).

Everything is written to `tmp/`, flushed, and only then given its name, without replacing what is
there; then every directory that got a new name is flushed. So a name that is there after a crash or
a power cut leads to whole bytes, and what was acknowledged is there.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    StoreError,
)
from share_registry.format.canonical import sha256
from share_registry.names import CommitNumber, Digest, SpaceName, space_name
from share_registry.names import digest as checked_digest
from share_registry.outside.files import Kind, Outside, nothing_done
from share_registry.store.protocol import (
    MAX_FORMAT_BYTES,
    MAX_OBJECT_BYTES,
    MAX_RECORD_BYTES,
    PublishStateUnknownError,
    check_size,
    identity_of,
    record_name,
)

_FORMAT: Final = "FORMAT"
_FOLDERS: Final = ("objects", "spaces", "tmp")
_CATALOG: Final = "catalog.sqlite"
_SHARD: Final = re.compile(r"[0-9a-f]{2}")
_REST: Final = re.compile(r"[0-9a-f]{62}")
_RECORD: Final = re.compile(r"(\d{20})\.json")
_DAMAGED: Final = "Run verify, and restore the file from a copy."


class LocalStore:
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
        try:
            self._format = self._outside.read(self._root / _FORMAT, limit=MAX_FORMAT_BYTES)
        except NotFoundError as error:
            raise NotFoundError(
                f"there is no registry at {root}.",
                hint="Create it with mode 'c' or `share-registry init`.",
            ) from error
        self._identity = identity_of(self._format, writing=not read_only)

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
        if not inside.exists(root / _FORMAT):
            _require_fresh(root, inside)
            for folder in _FOLDERS:
                inside.make_directory(root / folder)
            _require_exclusive(root / "tmp", inside)
            _write_format(root, inside, identity)
        return cls(root, outside)

    @property
    def identity(self) -> str:
        """The uuid in FORMAT."""
        return self._identity

    @property
    def read_only(self) -> bool:
        """Whether every writing method is refused."""
        return self._read_only

    def format_bytes(self) -> bytes:
        """Return the FORMAT file."""
        return self._format

    def put(self, content: bytes, digest: Digest) -> bool:
        """Keep an object durably; tell whether it was new.

        Raises:
            InvalidInputError: larger than the limit, or the digest is not of these bytes.
            StoreError: the system refuses.
            RefusedError: the store is read-only.
        """
        self._require_writable()
        check_size(len(content), MAX_OBJECT_BYTES, f"object {digest}")
        path = self._object(digest)
        if sha256(content) != digest:
            raise InvalidInputError(f"digest {digest} is not of the object's bytes.")
        self._make_named(path.parent)
        if self._outside.exists(path):
            self._renew(path, content, digest)
            return False
        new = self._place_object(path, content)
        if not new:
            self._renew(path, content, digest)
        return new

    def get(self, digest: Digest, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """Return an object, hashed before it is handed out.

        Raises:
            NotFoundError: there is none.
            IntegrityError: larger than the limit, not a plain file, or not the bytes its name says.
            StoreError: the system refuses.
        """
        path = self._object(digest)
        found = hashlib.sha256()
        try:
            content = self._outside.read(
                path, limit=min(limit, MAX_OBJECT_BYTES), seen=found.update
            )
        except NotFoundError as error:
            raise NotFoundError(f"object {digest} is not in the store.", hint=_DAMAGED) from error
        if found.hexdigest() != digest:
            raise IntegrityError(
                f"object {digest} has the digest {found.hexdigest()}.", hint=_DAMAGED
            )
        return content

    def has(self, digest: Digest) -> bool:
        """Tell whether an object is there, without reading it."""
        return self.size(digest) is not None

    def size(self, digest: Digest) -> int | None:
        """Return the size of an object, None where there is none."""
        return self._outside.size(self._object(digest))

    def publish(self, space: SpaceName, number: CommitNumber, content: bytes) -> bool:
        """Publish a record durably under a number that must be free.

        Tell whether it stands there now.

        Raises:
            PublishUnknown: the system failed after the record was handed to it.
            StoreError: any other failure; nothing was published.
            InvalidInputError: larger than the limit, or the number is out of range.
            RefusedError: the store is read-only.
        """
        self._require_writable()
        check_size(len(content), MAX_RECORD_BYTES, f"record {number} of {space}")
        path = self._record_path(space, number)
        self._make_named(path.parent)
        temporary = self._temporary(content, "record")
        try:
            won = self._link_record(temporary, path, content)
        finally:
            self._discard(temporary)
        return won

    def record(self, space: SpaceName, number: CommitNumber) -> bytes | None:
        """Return a record, None where there is none.

        Raises IntegrityError where it is no plain file, StoreError where the system refuses.
        """
        try:
            return self._outside.read(self._record_path(space, number), limit=MAX_RECORD_BYTES)
        except NotFoundError:
            return None

    def first_record(
        self, space: SpaceName, numbers: Sequence[CommitNumber]
    ) -> CommitNumber | None:
        """Return the first of some numbers that has a record, without reading it.

        Raises StoreError where the system refuses.
        """
        names = {record_name(number): number for number in numbers}
        found = self._outside.first_of(self._log(space), list(names))
        return None if found is None else names[found]

    def sync_log(self, space: SpaceName) -> None:
        """Make the records of a space durable that somebody else published.

        Raises StoreError, or Refused where the store is read-only.
        """
        self._require_writable()
        log = self._log(space)
        if self._outside.exists(log):
            self._make_named(log)
            self._outside.sync_directory(log)

    def spaces(self, *, known: Collection[SpaceName] = ()) -> list[SpaceName]:
        """Return the spaces that have a record, sorted.

        Those `known` are not looked into where their names are there. Raises StoreError.
        """
        return [
            SpaceName(name)
            for name in self._outside.names(self._root / "spaces")
            if name in known or self._is_space(name)
        ]

    def _is_space(self, name: str) -> bool:
        root = self._root / "spaces" / name
        if not (_is_name(name) and self._is_folder(root) and self._is_folder(root / "log")):
            return False
        return self._outside.exists(self._record_path(SpaceName(name), CommitNumber(1))) or bool(
            self.numbers(SpaceName(name))
        )

    def numbers(self, space: SpaceName) -> list[CommitNumber]:
        """Return the numbers that have a record, sorted. Raises StoreError."""
        found = (_RECORD.fullmatch(name) for name in self._outside.names(self._log(space)))
        return [CommitNumber(int(match[1])) for match in found if match]

    def objects(self) -> Iterator[tuple[Digest, int]]:
        """Yield every object with its size, sorted by digest. Raises StoreError."""
        root = self._root / "objects"
        for shard in self._outside.names(root):
            for rest in (
                self._outside.names(root / shard)
                if _SHARD.fullmatch(shard) and self._is_folder(root / shard)
                else ()
            ):
                size = self._outside.size(root / shard / rest)
                if _REST.fullmatch(rest) and size is not None:
                    yield Digest(shard + rest), size

    def strays(self) -> Iterator[str]:
        """Yield what is in the store and does not belong there. Raises StoreError."""
        for name in self._outside.names(self._root):
            known = name in _FOLDERS and self._is_folder(self._root / name)
            if not known and name != _FORMAT and not name.startswith(_CATALOG):
                yield name
        for path in self._outside.files_below(self._root):
            parts = path.relative_to(self._root).parts
            if (
                len(parts) > 1
                and parts[0] in _FOLDERS
                and not (_belongs(parts) and self._outside.kind(path) is Kind.FILE)
            ):
                yield "/".join(parts)

    def close(self) -> None:
        """Do nothing: nothing is held open between calls."""

    def _require_writable(self) -> None:
        if self._read_only:
            raise RefusedError(
                f"the registry at {self._root} is open for reading only.",
                hint="Open it with mode 'w'.",
            )

    def _object(self, digest: Digest) -> Path:
        checked_digest(digest)
        return self._root.joinpath("objects", digest[:2], digest[2:])

    def _log(self, space: SpaceName) -> Path:
        return self._root.joinpath("spaces", space_name(space), "log")

    def _record_path(self, space: SpaceName, number: CommitNumber) -> Path:
        return self._log(space) / record_name(number)

    def _is_folder(self, path: Path) -> bool:
        return self._outside.kind(path) is Kind.DIRECTORY

    def _make_named(self, folder: Path) -> None:
        """Make a directory below the root whose name, and its parents' names, are on the medium, whoever created them."""
        if folder in self._named or folder == self._root:
            return
        self._make_named(folder.parent)
        if self._outside.exists(folder):
            self._outside.sync_directory(folder.parent)
        else:
            self._outside.make_directory(folder)
        self._named.add(folder)

    def _temporary(self, content: bytes, point: str) -> Path:
        path = self._root / "tmp" / self._outside.token()
        self._make_named(path.parent)  # copies of a store tend to lose empty directories
        self._outside.write_new(path, content, point=point, frozen=True)
        return path

    def _discard(self, temporary: Path) -> None:
        """Remove our own temporary name; what stays is litter, not damage."""
        try:
            self._outside.remove(temporary)
        except (StoreError, IntegrityError):
            return

    def _place_object(self, path: Path, content: bytes) -> bool:
        temporary = self._temporary(content, "obj")
        try:
            new = self._outside.link_new(temporary, path)
            self._outside.at("obj.linked")
        finally:
            self._discard(temporary)
        if new:
            self._outside.sync_directory(path.parent)
            self._outside.at("obj.dirsync")
        return new

    def _renew(self, path: Path, content: bytes, digest: Digest) -> None:
        """Answer for an object that is there already.

        Its bytes are read again, its name is flushed, since whoever placed it may not have
        come to that.
        """
        try:
            sound = self._outside.read(path, limit=len(content)) == content
        except (IntegrityError, NotFoundError):
            sound = False
        if sound:
            self._outside.touch(path)
        else:
            temporary = self._temporary(content, "obj")
            try:
                self._outside.replace(temporary, path)
            except BaseException:
                self._discard(temporary)
                raise
        self._outside.sync_directory(path.parent)
        self._outside.at("obj.dirsync")

    def _link_record(self, temporary: Path, path: Path, content: bytes) -> bool:
        """Give the record its name.

        From here on only the temporary name may be removed, whatever happens.
        """
        try:
            won = self._outside.link_new(temporary, path)
        except StoreError as error:
            if nothing_done(error):
                raise
            won = self._ours(path, content, cause=error)
        else:
            won = won or self._ours(path, content, cause=None)
        try:
            self._outside.at("record.linked")
            if won:
                self._outside.sync_directory(path.parent)
                self._outside.at("record.dirsync")
        except (StoreError, IntegrityError) as error:
            raise _unknown(path) from error
        return won

    def _ours(self, path: Path, content: bytes, *, cause: StoreError | None) -> bool:
        """Tell whether the number holds our own bytes.

        Some file systems report a success as a failure.
        """
        try:
            found = self._outside.read(path, limit=MAX_RECORD_BYTES)
        except (NotFoundError, StoreError) as error:
            raise _unknown(path) from (cause or error)
        return found == content


def _unknown(path: Path) -> PublishStateUnknownError:
    return PublishStateUnknownError(
        f"{path.name} of {path.parent.parent.name} may or may not be published: the system failed in between.",
        hint="Look it up before a retry.",
    )


def _make_root(root: Path, outside: Outside) -> None:
    """Make the directory.

    Where it is there already, its creator may have died before its name was flushed.
    """
    outside.make_directory(root)
    try:
        outside.sync_directory(root.parent)
    except StoreError as error:
        if not nothing_done(error):  # who may not list the parent did not create the name in it
            raise


def _require_fresh(root: Path, inside: Outside) -> None:
    """Allow an empty directory, a catalog, and what a creator that died left behind."""
    for name in inside.names(root):
        ours = name.startswith(_CATALOG) or (
            name in _FOLDERS and inside.kind(root / name) is Kind.DIRECTORY
        )
        used = not ours or (name in ("objects", "spaces") and inside.names(root / name))
        if used and not inside.exists(root / _FORMAT):  # unless another creator was faster by now
            raise RefusedError(
                f"{root} holds {name!r} and no FORMAT file: it is not a registry.",
                hint="Choose an empty or new directory, or restore FORMAT from a copy if this was a registry.",
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
    if not exclusive:
        raise RefusedError(
            f"the file system of {folder} gave one name twice, so two writers could overwrite each other.",
            hint="Put the registry on another file system.",
        )


def _write_format(root: Path, inside: Outside, identity: str) -> None:
    from share_registry.format.records import format_bytes

    temporary = root / "tmp" / inside.token()
    inside.write_new(temporary, format_bytes(identity), point="format", frozen=True)
    try:
        inside.link_new(temporary, root / _FORMAT)
    finally:
        inside.remove(temporary)
    inside.at("format.linked")
    inside.sync_directory(root)


def _is_name(name: str) -> bool:
    try:
        space_name(name)
    except InvalidInputError:
        return False
    return True


def _belongs(parts: tuple[str, ...]) -> bool:
    match parts:
        case ("tmp", _):
            return True
        case ("objects", shard, rest):
            return bool(_SHARD.fullmatch(shard) and _REST.fullmatch(rest))
        case ("spaces", space, "log", record):
            return bool(_is_name(space) and _RECORD.fullmatch(record))
    return False
