"""What may be downloaded: the files behind an immutable name.

A directory of the cache is read whole before its first file is sent, and again when one of its
files has been written since; in between nothing is hashed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from share_registry.errors import StoreError
from share_registry.exchange.directory_digest import directory_digest
from share_registry.names import Digest, parse_reference
from share_registry.outside.files import Outside
from share_registry.registry.delivery.served_directory import DIGITS, digests_on_disk
from share_registry.serving.adapter_cache import AdapterCache
from share_registry.serving.served_adapters import ServedAdapters
from share_registry.values.task_version import TaskVersion

_MOST_REMEMBERED: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedFile:
    """One file of a release.

    Attributes:
        size_bytes: Its size.
        sha256: Of its bytes.
        stamp: Of the file when it was read.
    """

    size_bytes: int
    sha256: Digest
    stamp: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The files behind an immutable name.

    Attributes:
        digest: The sha256 over the names and digests of its files.
        files: By name.
    """

    name: str
    digest: Digest
    files: Mapping[str, ReleasedFile]


class Releases:
    """Releases by name; safe for threads.

    Args:
        adapters: Makes their directories.
        cache: Has them.
        base_model: What the configs name as base model; None for what they named.
        outside: Files.
    """

    def __init__(
        self,
        adapters: ServedAdapters,
        cache: AdapterCache,
        *,
        base_model: str | None,
        outside: Outside,
    ) -> None:
        self._adapters = adapters
        self._cache = cache
        self._base_model = base_model
        self._outside = outside
        self._read: dict[str, Release] = {}

    def resolve(self, ref: str) -> tuple[TaskVersion, Release]:
        """Return the version that a reference stands for now, and its release.

        Raises as `ServedAdapters.directory`, InvalidInputError for what is no reference.
        """
        # first: nothing is looked up for what is no reference
        parse_reference(ref)
        row, name = self._adapters.name_of(ref, self._base_model)
        return row, self.recall(name) or self.load(name)

    def recall(self, name: str) -> Release | None:
        """Return a release that was read before; never waits."""
        return self._read.get(name)

    def load(self, name: str) -> Release:
        """Read a release, or make it where it is not there or damaged.

        Raises as `ServedAdapters.directory`, NotFoundError for what is no name of a release.
        """
        path = self._cache.use(name)
        release = None if path is None else self._release_at(path)
        if release is None:
            path = self._adapters.directory(name, self._base_model)
            release = None if path is None else self._release_at(path)
        if release is None:
            raise StoreError(
                f"{name} was removed from the cache again before it could be read.",
                hint="Give the cache more room.",
            )
        if len(self._read) < _MOST_REMEMBERED or name in self._read:
            self._read[name] = release
        return release

    def path(self, release: Release, file: str) -> Path | None:
        """Return where a file of a release is, with the bytes that were read.

        None where it has to be loaded again. Raises StoreError.
        """
        root = self._cache.use(release.name)
        if root is None or self._outside.stamp(root / file) != release.files[file].stamp:
            return None
        return root / file

    def _release_at(self, path: Path) -> Release | None:
        """Return what is in a directory, None for what is not as its name says."""
        # before they are read: what is written meanwhile differs from them
        stamps = {name: self._outside.stamp(path / name) for name in self._outside.names(path)}
        digests = digests_on_disk(path, self._outside)
        if digests is None:
            return None
        digest = directory_digest(digests)
        files = {
            name: ReleasedFile(size_bytes=stamp[1], sha256=digests[name], stamp=stamp)
            for name, stamp in stamps.items()
            if stamp is not None and name in digests
        }
        if digest[:DIGITS] != path.name[-DIGITS:] or files.keys() != digests.keys():
            return None
        return Release(name=path.name, digest=digest, files=files)
