"""Write an exported directory: complete under its name or not there at all."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from share_registry.errors import IntegrityError, InvalidInputError, RefusedError
from share_registry.exchange.config import CONFIG_FILE
from share_registry.format.canonical import Json, dump, sha256
from share_registry.names import Digest
from share_registry.outside.files import Kind, Outside

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CHANGED: Final = "Export into another directory, or with overwrite."


def place(
    files: Mapping[str, bytes], root: Path, name: str, *, overwrite: bool, outside: Outside
) -> tuple[Path, bool]:
    """Write files into the directory `root/name`, or into `root` itself where the name is empty.

    The files are written beside their place, made durable, and moved there in one step. An existing
    directory is replaced by two renames, never mixed.

    Returns:
        The directory, and whether it was written: False where the same files were there already.

    Raises:
        InvalidInputError: the name is not safe.
        RefusedError: something else is there, or what is there is no adapter directory and so is
            not overwritten.
        StoreError: the disk refuses; nothing is left behind.
    """
    if name and (not _NAME.fullmatch(name) or name.endswith(".") or ".." in name):
        raise InvalidInputError(
            f"export name {name[:80]!r} is not allowed.",
            hint="Use letters, digits and . _ - only, at most 128.",
        )
    target = outside.absolute(root / name if name else root)
    occupied = _occupied(target, outside)
    if occupied and _same(files, target, outside):
        return target, False
    if occupied and not overwrite:
        raise RefusedError(f"{target} holds other files than this export.", hint=_CHANGED)
    if occupied:
        _check_replaceable(target, outside)
    outside.make_directory(target.parent)
    _swap(files, target, occupied, outside)
    return target, True


def export_digest(files: Mapping[str, bytes]) -> Digest:
    """Return an exported directory's identity: sha256 over the names and digests of its files."""
    entries: list[Json] = [
        {"name": name, "sha256": sha256(content)} for name, content in sorted(files.items())
    ]
    return sha256(dump(entries))


def _swap(files: Mapping[str, bytes], target: Path, occupied: bool, outside: Outside) -> None:
    fresh, old = (
        target.with_name(f".{target.name}.{outside.token()[:16]}.{part}") for part in ("new", "old")
    )
    try:
        outside.make_directory(fresh)
        for file, content in files.items():
            outside.write_new(fresh / file, content, point="export")
        outside.sync_directory(fresh)
        if occupied:
            outside.replace(target, old)
        outside.at("export.swap")
        if not outside.rename_directory(fresh, target):
            raise RefusedError(
                f"{target} was written by somebody else meanwhile.",
                hint="Export again: the same files there are success.",
            )
        outside.sync_directory(target.parent)
    except BaseException:
        if outside.exists(fresh):
            outside.remove_tree(fresh)
        if outside.exists(old) and not outside.exists(target):
            outside.rename_directory(old, target)
        raise
    if occupied:
        outside.remove_tree(old)


def _occupied(target: Path, outside: Outside) -> bool:
    kind = outside.kind(target)
    if kind not in (None, Kind.DIRECTORY):
        raise RefusedError(f"{target} is a {kind}, expected a directory or nothing.", hint=_CHANGED)
    return kind is Kind.DIRECTORY and bool(outside.names(target))


def _same(files: Mapping[str, bytes], target: Path, outside: Outside) -> bool:
    if outside.names(target) != sorted(files) or any(
        outside.size(target / name) != len(content) for name, content in files.items()
    ):
        return False
    try:
        return all(
            outside.read(target / name, limit=len(content)) == content
            for name, content in files.items()
        )
    except IntegrityError:
        return False


def _check_replaceable(target: Path, outside: Outside) -> None:
    """Refuse to replace what no export or PEFT wrote: a flat directory with a config in it."""
    names = outside.names(target)
    strange = [name for name in names if outside.kind(target / name) is not Kind.FILE]
    if strange or CONFIG_FILE not in names:
        reason = f"holds {strange[0]!r}" if strange else f"has no {CONFIG_FILE}"
        raise RefusedError(
            f"{target} {reason}, so it is not overwritten.", hint="Export into another directory."
        )
