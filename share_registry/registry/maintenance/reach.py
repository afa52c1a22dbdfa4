"""What the logs need: the objects that records and notes name, and what those refer to.

Everything is read from the store and checked on the way, the catalog is not asked: an object that
is taken for garbage by mistake is lost. So whatever cannot be read or does not follow ends the
walk with an error.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from share_registry.errors import IntegrityError, ensure
from share_registry.format.canonical import sha256
from share_registry.format.named_objects import objects_of_task
from share_registry.format.notes import Note
from share_registry.format.records import Record, parse_record
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.registry.arguments import Progress, ignore_progress
from share_registry.registry.ledger import Ledger, Place
from share_registry.registry.log_ends import hole, probes
from share_registry.registry.object_uses import Uses, uses_of
from share_registry.store.protocol import Store

# Roles of objects that may refer to others; "rows": of an adapter object or a basis, what it holds
# itself
_REFERRING: Final = frozenset({"adapter", "rows"})


@dataclass(slots=True, kw_only=True)
class Reach:
    """The objects that the logs of a store need, as far as the logs were followed.

    Attributes:
        objects: Every one, with those that others refer to.
        uses: What those refer to that were read for it; None for a basis.
        files: By note, the files that it names of each task.
        ledgers: By space, its versions.
        heads: By space, number and id of the last record that was followed.
    """

    store: Store
    objects: set[Digest] = field(default_factory=set)
    uses: dict[Digest, Uses | None] = field(default_factory=dict)
    files: dict[Digest, dict[str, list[tuple[Digest, str]]]] = field(default_factory=dict)
    ledgers: dict[SpaceName, Ledger] = field(default_factory=dict)
    heads: dict[SpaceName, tuple[CommitNumber, Digest]] = field(default_factory=dict)
    # in which role: the bytes of an attachment may be an adapter object as well
    _followed: set[tuple[Digest, str]] = field(default_factory=set)

    def follow(self, progress: Progress = ignore_progress) -> None:
        """Follow every log from where it was left to its end.

        What was needed before stays needed, also where a version was removed since.

        Raises:
            IntegrityError, NotFoundError: a record, a note or an object that refers to others is
                damaged or missing.
            FormatError: a record is of a later release, which may name objects in ways of its own.
        """
        for space in self.store.spaces(expected=self.heads):
            ledger, before = self.ledgers.setdefault(space, Ledger(space)), self.heads.get(space)
            for record in self._new_records(space, progress):
                ledger.follow(record)
            if self.heads.get(space) != before:
                self._reach([*ledger.objects(), *self._files(ledger)])

    def without(self, removed: Mapping[SpaceName, Collection[Place]]) -> "Reach":
        """Return what is needed as of the records that were followed, and nothing else.

        Objects that were read before are not read again.

        Args:
            removed: By space, versions that are taken for removed.
        """
        fresh = Reach(
            store=self.store,
            uses=self.uses,
            files=self.files,
            ledgers={
                space: ledger.without(removed.get(space, ()))
                for space, ledger in self.ledgers.items()
            },
            heads=dict(self.heads),
        )
        for ledger in fresh.ledgers.values():
            fresh._reach([*ledger.objects(), *fresh._files(ledger)])
        return fresh

    def decoded_from(self, adapter: Digest) -> set[Digest]:
        """Return the adapter and basis objects that one is decoded from, itself included."""
        objects: set[Digest] = set()
        present: Digest | None = adapter
        while present is not None and present not in objects:
            uses = self._uses(present)
            objects |= {present, *(uses.sources if uses else ())}
            present = uses.previous if uses else None
        return objects

    def uses_if_there(self, digest: Digest) -> Uses | None:
        """Return what an object refers to; None for a basis, and where it is not there."""
        return self._uses(digest) if digest in self.uses or self.store.has(digest) else None

    def content_if_there(self, digest: Digest) -> bytes | None:
        """Return an object; None where it is not there. Raises IntegrityError."""
        return self.store.get(digest) if self.store.has(digest) else None

    def learn(self, contents: Mapping[Digest, bytes]) -> None:
        """Take into account what objects refer to that are not stored yet."""
        for digest, content in contents.items():
            try:
                self.files[digest] = files_of(content)
            except IntegrityError:
                with suppress(IntegrityError):
                    self.uses[digest] = uses_of(content)

    def _new_records(self, space: SpaceName, progress: Progress) -> Iterator[Record]:
        """Yield the records behind the last, each checked to follow the one before it."""
        number, parent = self.heads.get(space, (0, sha256(self.store.format_bytes())))
        # listed once: later the numbers further and further behind are probed, as writers wait
        last = 0 if space in self.heads else max(self.store.numbers(space), default=0)
        while (content := self.store.record(space, CommitNumber(number + 1))) is not None:
            number += 1
            progress(f"records of {space}", number, max(number, last))
            record = parse_record(content, subject=f"record c{number} of space {space}")
            ensure(
                (record.space, record.number, record.parent) == (space, number, parent),
                IntegrityError(f"record c{number} of space {space} does not follow c{number - 1}."),
            )
            parent = sha256(content)
            self.heads[space] = CommitNumber(number), parent
            yield record
        if last <= number:
            last = self.store.first_record(space, probes(CommitNumber(number + 1))) or 0
        if last > number + 1:
            raise hole(space, number + 1, last)

    def _files(self, ledger: Ledger) -> Iterator[tuple[Digest, str]]:
        """Yield the objects that notes name of versions that were not removed."""
        for digest in {*ledger.notes.values()} - self.files.keys():
            self.files[digest] = files_of(self.store.get(digest))
        for digest, names in ledger.described().items():
            yield from chain(*(self.files[digest].get(name, ()) for name in names))

    def _reach(self, named: Iterable[tuple[Digest, str]]) -> None:
        """Add objects and, one after another, those that they refer to."""
        pending = [*named]
        for digest, role in pending:
            self.objects.add(digest)
            if role in _REFERRING and (digest, role) not in self._followed:
                self._followed.add((digest, role))
                pending += references(self._uses(digest), role)

    def _uses(self, digest: Digest) -> Uses | None:
        if digest not in self.uses:
            self.uses[digest] = uses_of(self.store.get(digest))
        return self.uses[digest]


def files_of(content: bytes) -> dict[str, list[tuple[Digest, str]]]:
    """Return the files that a note names of each task. Raises IntegrityError."""
    # spec NOT-03
    return {
        task.task: [*objects_of_task(task)] for task in reversed(Note.from_bytes(content).tasks)
    }


def references(uses: Uses | None, role: str) -> Iterator[tuple[Digest, str]]:
    """Yield the objects that one in a role refers to, with their roles."""
    if uses is None:
        return
    yield uses.layout, "layout"
    if role == "adapter":
        yield from ((source, "rows") for source in uses.sources)
        yield from ((tensor, "tensor") for tensor in uses.tensors)
        yield from ((previous, "adapter") for previous in filter(None, [uses.previous]))
