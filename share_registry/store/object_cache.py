"""Where a store that is far away keeps copies of objects on this machine, and its catalog.

Objects never change and are named by their digest, so one folder serves all stores of a user, and
any number of processes. A copy is hashed again whenever it is read: one that is not what its name
says is removed, and counts as not there.
"""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

from share_registry.errors import InvalidInputError, ShareRegistryError, ensure
from share_registry.format.canonical import sha256
from share_registry.names import Digest
from share_registry.outside.files import Kind, Outside
from share_registry.outside.system import Unflushed

_LOG: Final = logging.getLogger(__name__)
_FOLDER: Final = "SHARE_REGISTRY_CACHE"
_CAPACITY: Final = "SHARE_REGISTRY_CACHE_BYTES"
_DEFAULT_BYTES: Final = 4 << 30
# The share of the capacity that is written between two looks at how much there is
_LOOK_SHARE: Final = 16
# The largest object that is kept, and how much stays when there is too much, as shares of it
_LARGEST_SHARE: Final = 0.25
_KEPT_SHARE: Final = 0.9


class ObjectCache:
    """Copies of objects in a folder, those not read for the longest time removed first.

    It may hold more than its capacity by a sixteenth of it for each process that writes. What the
    system refuses is no error: then less is kept.

    Args:
        folder: Where; it is made when something is kept.
        outside: The way to the file system.
        capacity_bytes: How much is kept; 0 for nothing.
    """

    def __init__(self, folder: Path, outside: Outside, *, capacity_bytes: int) -> None:
        self._folder = outside.absolute(folder)
        # what is lost in a crash is fetched again
        self._outside = Outside(system=Unflushed())
        self._capacity_bytes = capacity_bytes
        self._unseen_bytes = capacity_bytes

    @classmethod
    def of_user(cls, outside: Outside) -> "ObjectCache":
        """Return the cache of this user. Raises InvalidInputError."""
        text = outside.environment(_CAPACITY) or str(_DEFAULT_BYTES)
        ensure(
            text.isdecimal() and len(text) < 19,
            InvalidInputError(
                f"${_CAPACITY} is {text[:40]!r}, expected a number of bytes.",
                hint="Give one such as 4294967296, or 0 to keep no copies.",
            ),
        )
        folder = _user_folder(outside)
        if folder is None:
            return cls(Path(), outside, capacity_bytes=0)
        return cls(folder / "objects", outside, capacity_bytes=int(text))

    def get(self, digest: Digest, limit: int) -> bytes | None:
        """Return a copy whose bytes have been hashed in this call; None where there is none."""
        if not self._capacity_bytes:
            return None
        path = self._path(digest)
        try:
            content = self._outside.read(path, limit=limit)
        except ShareRegistryError:
            return None
        if sha256(content) != digest:
            _LOG.info("the copy of object %s is damaged, it is fetched again", digest)
            self.remove(digest)
            return None
        self._outside.touch(path)
        return content

    def put(self, digest: Digest, content: bytes) -> None:
        """Keep a copy of an object whose digest has been checked."""
        if not self._capacity_bytes or len(content) > self._capacity_bytes * _LARGEST_SHARE:
            return
        path = self._path(digest)
        try:
            self._outside.make_directory(path.parent, private=True)
            self._outside.rewrite(path, content)
        except ShareRegistryError as error:
            _LOG.info("no copy of object %s is kept: %s", digest, error)
            return
        self._unseen_bytes += len(content)
        if self._unseen_bytes > self._capacity_bytes / _LOOK_SHARE:
            self._unseen_bytes = 0
            self._make_room()

    def remove(self, digest: Digest) -> None:
        """Forget a copy."""
        with suppress(ShareRegistryError):
            self._outside.remove(self._path(digest))

    def _make_room(self) -> None:
        """Remove what was not read for the longest time, where there is too much."""
        with suppress(ShareRegistryError):
            copies = [
                (self._outside.modified_s(path) or 0.0, self._outside.size(path) or 0, path)
                for path in self._outside.files_below(self._folder)
                if self._outside.kind(path) is Kind.FILE
            ]
            left_bytes = sum(size for _, size, _ in copies)
            if left_bytes <= self._capacity_bytes:
                return
            for _, size, path in sorted(copies):
                if left_bytes <= self._capacity_bytes * _KEPT_SHARE:
                    return
                self._outside.remove(path)
                left_bytes -= size

    def _path(self, digest: Digest) -> Path:
        return self._folder / digest[:2] / digest[2:]


def index_folder(address: str, outside: Outside) -> Path | None:
    """Return where the catalog of a store lies that has no directory, on this machine.

    None for a user without a home.
    """
    folder = _user_folder(outside)
    return None if folder is None else folder / "catalogs" / sha256(address.encode())[:32]


def _user_folder(outside: Outside) -> Path | None:
    """Return the folder of this user for what can be fetched again, None without a home."""
    if chosen := outside.environment(_FOLDER):
        return outside.absolute(Path(chosen))
    home = outside.environment("HOME") or outside.environment("USERPROFILE") or ""
    folder = Path(outside.environment("XDG_CACHE_HOME") or f"{home}/.cache")
    # a relative one would be in whatever directory a process runs in
    return folder / "share-registry" if home and folder.is_absolute() else None
