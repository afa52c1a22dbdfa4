"""The identity of an exported directory, by the digests of its files alone."""

from collections.abc import Mapping

from share_registry.format.canonical import Json, dump, sha256
from share_registry.names import Digest


def directory_digest(digests: Mapping[str, Digest]) -> Digest:
    """Return the sha256 over the sorted names of files with the sha256 of each."""
    entries: list[Json] = [{"name": name, "sha256": digests[name]} for name in sorted(digests)]
    return sha256(dump(entries))
