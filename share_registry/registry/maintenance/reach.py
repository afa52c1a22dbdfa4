"""What the logs need: the objects that records and notes name, and what those refer to.

Everything is read from the store and checked on the way, the catalog is not asked: an object that
is taken for garbage by mistake is lost. So whatever cannot be read or does not follow ends the
walk with an error.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from share_registry.errors import IntegrityError, ensure
from share_registry.format import adapter_object
from share_registry.format.canonical import sha256
from share_registry.format.object_file import description
from share_registry.format.records import (
    Note,
    Record,
    objects_of_note,
    objects_of_record,
    parse_record,
)
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.registry.arguments import Progress, ignore_progress
from share_registry.registry.log_ends import hole, probes
from share_registry.store.protocol import Store

# Roles of objects that may refer to others
_REFERRING: Final = frozenset({"adapter", "basis", "note"})


@dataclass(slots=True, kw_only=True)
class Reach:
    """The objects that the logs of a store need, as far as the logs were followed.

    Attributes:
        objects: Every one, with those that others refer to.
        followed: The objects that were read for what they refer to, each with its role.
        heads: By space, number and id of the last record that was followed.
    """

    store: Store
    objects: set[Digest] = field(default_factory=set)
    # in which role: the bytes of an attachment may be an adapter object as well
    followed: set[tuple[Digest, str]] = field(default_factory=set)
    heads: dict[SpaceName, tuple[CommitNumber, Digest]] = field(default_factory=dict)

    def follow(self, progress: Progress = ignore_progress) -> None:
        """Follow every log from where it was left to its end.

        Raises:
            IntegrityError, NotFoundError: a record, a note or an object that refers to others is
                damaged or missing.
            FormatError: a record is of a later release, which may name objects in ways of its own.
        """
        for space in self.store.spaces(expected=self.heads):
            for record in self._new_records(space, progress):
                self._reach(objects_of_record(record))

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

    def _reach(self, named: Iterator[tuple[Digest, str]]) -> None:
        """Add objects and, one after another, those that they refer to."""
        pending = [*named]
        for digest, role in pending:
            self.objects.add(digest)
            if role in _REFERRING and (digest, role) not in self.followed:
                self.followed.add((digest, role))
                pending += _references(self.store.get(digest), role)


def _references(content: bytes, role: str) -> list[tuple[Digest, str]]:
    """Return the objects that an object refers to, with their roles. Raises IntegrityError."""
    if role == "note":
        return [*objects_of_note(Note.from_bytes(content))]
    if description(content, subject="object").get("kind") == "basis":
        return []
    # a kind that is not known may refer to anything: this refuses it
    header = adapter_object.header(content)
    # a source is an adapter or a basis, which says so itself
    sources = [*header.sources, *filter(None, [header.previous])]
    return [
        (header.layout, "layout"),
        *((source, "adapter") for source in sources),
        *((item.object, "tensor") for item in header.external),
    ]
