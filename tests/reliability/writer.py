"""A writer that keeps the store's protocol without the library, and what its logs must fulfil."""

from collections.abc import Sequence
from typing import Final

from share_registry.format.canonical import dump, load, sha256
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.store.protocol import Store

SPACE: Final = SpaceName("base")


class LostError(AssertionError):
    """A promise about what was committed is broken."""


class Writer:
    """Commit objects under a key, as the library's transaction does."""

    def commit(
        self, store: Store, key: str, contents: Sequence[bytes], *, space: SpaceName = SPACE
    ) -> CommitNumber:
        """Put the objects, then publish a record that names them.

        Upon a lost race, again upon the new head.
        """
        head = self.head(store, space)
        digests = self.put(store, contents)
        while True:
            number = CommitNumber(head + 1)
            if head:
                store.sync_log(space)
            record = self.record(store, space, number, key, digests)
            if store.publish(space, number, record):
                return number
            head += 1

    def head(self, store: Store, space: SpaceName) -> int:
        """Find the last record by probing."""
        head = 0
        while store.record(space, CommitNumber(head + 1)) is not None:
            head += 1
        return head

    def put(self, store: Store, contents: Sequence[bytes]) -> list[Digest]:
        """Put the objects."""
        for content in contents:
            store.put(content, sha256(content))
        return [sha256(content) for content in contents]

    def record(
        self,
        store: Store,
        space: SpaceName,
        number: CommitNumber,
        key: str,
        digests: Sequence[Digest],
    ) -> bytes:
        """Write a record upon the one before it."""
        before = (
            store.format_bytes() if number == 1 else store.record(space, CommitNumber(number - 1))
        )
        if before is None:
            raise LostError(f"record {number - 1} vanished under a writer")
        return dump(
            {
                "number": number,
                "parent": sha256(before),
                "key": key,
                "objects": list(map(str, digests)),
            }
        )


def keys_of(store: Store, space: SpaceName = SPACE) -> list[str]:
    """Read a whole log and everything it names.

    Raises LostError where the chain is broken or an object is missing or wrong.
    """
    keys: list[str] = []
    parent = sha256(store.format_bytes())
    numbers = store.numbers(space)
    if numbers != list(range(1, len(numbers) + 1)):
        raise LostError(f"the log has gaps: {numbers}")
    for number in numbers:
        content = store.record(space, number)
        if content is None:
            raise LostError(f"record {number} is listed and cannot be read")
        try:
            record = load(content, subject=f"record {number}")
            objects = record["objects"]
            assert isinstance(objects, list)
            for digest in objects:
                store.get(Digest(str(digest)))
        except Exception as error:
            raise LostError(
                f"record {number} is readable and what it names is not: {error}"
            ) from error
        if record["parent"] != parent:
            raise LostError(f"record {number} does not continue the one before it")
        parent = sha256(content)
        keys.append(str(record["key"]))
    return keys


def check(
    store: Store, *, acknowledged: Sequence[str], attempted: Sequence[str], space: SpaceName = SPACE
) -> list[str]:
    """Check that what was acknowledged is there once, and nothing is that nobody tried."""
    keys = keys_of(store, space)
    if len(set(keys)) != len(keys):
        raise LostError(f"a commit was made twice: {keys}")
    if missing := set(acknowledged) - set(keys):
        raise LostError(f"acknowledged and gone: {sorted(missing)}")
    if unknown := set(keys) - set(attempted):
        raise LostError(f"nobody wrote: {sorted(unknown)}")
    return keys
