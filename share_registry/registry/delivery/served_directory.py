"""One directory of a version under a name that only its bytes have.

It is written aside and renamed, so that it is whole or not there. Whoever writes a name writes the
same bytes, so that a race of writers has one outcome.
"""

import errno
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from share_registry.errors import (
    IntegrityError,
    NotFoundError,
    RefusedError,
    StoreError,
    ensure,
)
from share_registry.exchange.directory_digest import directory_digest
from share_registry.exchange.export_files import is_file, place
from share_registry.format.canonical import sha256
from share_registry.names import Digest
from share_registry.outside.file_content import FileContent
from share_registry.outside.files import Kind, Outside
from share_registry.outside.system import errno_of
from share_registry.registry.checkout.version_export import RebuiltFiles
from share_registry.registry.delivery.served_index import INDEX_FILE, SERVED_NAME, read_index
from share_registry.values.sync_reports import SyncStatus
from share_registry.values.task_version import TaskVersion

_MAX_FILE_BYTES: Final = 4 << 30
# Hexadecimal digits of the digest that a name has
DIGITS: Final = 12
_DAY_S: Final = 86_400
_LITTER: Final = re.compile(
    rf"\.(?:{SERVED_NAME}|{re.escape(INDEX_FILE)})\.[0-9a-f]{{16}}\.(?:new|old)"
)


def served_name(row: TaskVersion, digest: Digest) -> str:
    """Return the name of a version's directory, by the digest of its files."""
    return f"{row.space}--{row.name}--v{row.version}-{digest[:DIGITS]}"


def digest_on_disk(path: Path, outside: Outside) -> Digest | None:
    """Return the digest of a directory's files, every byte read; None for what is none such.

    Raises StoreError.
    """
    digests = digests_on_disk(path, outside)
    return None if digests is None else directory_digest(digests)


def digests_on_disk(path: Path, outside: Outside) -> dict[str, Digest] | None:
    """Return the digest of each file of a directory by name. Otherwise as `digest_on_disk`."""
    if outside.kind(path) is not Kind.DIRECTORY:
        return None
    try:
        return {
            name: sha256(outside.read(path / name, limit=_MAX_FILE_BYTES))
            for name in outside.names(path)
        }
    # the second where somebody puts it right or removes it meanwhile
    except (IntegrityError, NotFoundError):
        return None


def is_sound(path: Path, digest: Digest, outside: Outside) -> bool:
    """Tell whether a directory has the files of a digest and nothing else. Raises StoreError."""
    return digest_on_disk(path, outside) == digest


def put(rebuilt: RebuiltFiles, root: Path, name: str, outside: Outside) -> SyncStatus:
    """Make a directory have the files of a version.

    Raises RefusedError where something else is in its place, StoreError.
    """
    target = root / name
    try:
        _, is_new = place(rebuilt.files, root, name, overwrite=False, outside=outside)
    except RefusedError:
        # it is damaged, or another writer was faster
        if is_sound(target, rebuilt.digest, outside):
            return SyncStatus.UNCHANGED
        kind = outside.kind(target)
        if kind is None:
            # another host removed it meanwhile
            place(rebuilt.files, root, name, overwrite=False, outside=outside)
            return SyncStatus.WRITTEN
        ensure(
            kind is Kind.DIRECTORY,
            RefusedError(f"{target} is no directory.", hint="Move it away and run sync again."),
        )
        _mend(rebuilt.files, target, outside)
        return SyncStatus.REPAIRED
    return SyncStatus.WRITTEN if is_new else SyncStatus.UNCHANGED


def take_away(root: Path, name: str, outside: Outside) -> bool:
    """Remove a directory that the index does not name, and tell whether it is gone.

    First its name goes, in one step; then the index is read once more, which another host may have
    written meanwhile. Raises StoreError.
    """
    if _is_named(root, name, outside):
        return False
    outside.at("prune.unnamed")
    aside = root / f".{name}.{outside.token()[:16]}.old"
    # as old as it is, another host would take it for what a killed writer left
    outside.touch(root / name)
    try:
        outside.replace(root / name, aside)
    except StoreError as error:
        # another host removed it
        if errno_of(error) != errno.ENOENT:
            raise
        return True
    outside.at("prune.aside")
    if _is_named(root, name, outside) and outside.rename_directory(aside, root / name):
        return False
    outside.remove_tree(aside)
    return True


def remove_litter(root: Path, outside: Outside) -> None:
    """Remove what writers left that were killed a day ago or more. Raises StoreError."""
    now_s = outside.now().timestamp()
    for name in filter(_LITTER.fullmatch, outside.names(root)):
        path = root / name
        if now_s - (outside.modified_s(path) or now_s) < _DAY_S:
            continue
        if outside.kind(path) is Kind.DIRECTORY:
            outside.remove_tree(path)
        else:
            outside.remove(path)


def _is_named(root: Path, name: str, outside: Outside) -> bool:
    try:
        index = read_index(root, outside)
    # nobody can tell what it names: nothing is removed
    except IntegrityError:
        return True
    return index is None or any(each.name == name for each in index.adapters)


def _mend(files: Mapping[str, FileContent], target: Path, outside: Outside) -> None:
    """Put a damaged directory right, file by file: what is right is never missing meanwhile."""
    for name in outside.names(target):
        if outside.kind(target / name) is Kind.DIRECTORY:
            outside.remove_tree(target / name)
        elif name not in files:
            outside.remove(target / name)
    for name, content in files.items():
        if not is_file(target / name, content, outside):
            outside.rewrite(target / name, content, point="export")
    outside.sync_directory(target)
