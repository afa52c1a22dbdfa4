"""The objects that records and notes name, and what is read in their place (spec REC-23)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from share_registry.format.notes import Note, TaskNote
from share_registry.format.records import (
    AbsorbRecord,
    MergeRecord,
    PurgeRecord,
    Record,
    RefitRecord,
)
from share_registry.names import Digest

# By number of a record, in the order of the log: what is read in place of objects that records
# before it name; None: nothing
Replaced: TypeAlias = Sequence[tuple[int, Mapping[Digest, Digest | None]]]


def objects_of_record(record: Record) -> Iterator[tuple[Digest, str]]:
    """Yield the objects that a record names, each with its role."""
    if record.note:
        yield record.note, "note"
    if isinstance(record, AbsorbRecord | RefitRecord) and record.basis:
        yield record.basis, "basis"
    if isinstance(record, AbsorbRecord | RefitRecord | MergeRecord):
        for task in record.tasks:
            yield task.adapter, "adapter"
            yield task.layout, "layout"
    if isinstance(record, PurgeRecord):
        yield from ((Digest(item.by), "adapter") for item in record.adapters if item.by)
        yield from ((Digest(item.by), "note") for item in record.notes if item.by)


def replacements(record: Record) -> dict[Digest, Digest | None]:
    """Return what is read in place of objects that records before this one name; None: nothing."""
    if not isinstance(record, PurgeRecord):
        return {}
    return {
        **{Digest(item.object): item.by for item in (*record.adapters, *record.notes)},
        **dict.fromkeys(map(Digest, record.bases)),
    }


def replaced_roles(record: PurgeRecord) -> dict[Digest, str]:
    """Return the objects that a record replaces or takes away, each with its role."""
    return {
        **{Digest(item.object): "adapter" for item in record.adapters},
        **{Digest(item.object): "note" for item in record.notes},
        **dict.fromkeys(map(Digest, record.bases), "basis"),
    }


def read_for(digest: Digest | None, number: int, replaced: Replaced) -> Digest | None:
    """Return the object that is read for one that a record names (spec REC-23).

    Args:
        digest: The object; None for none.
        number: The record.
        replaced: What later records replace.

    Returns:
        The object; None where nothing is read for it.
    """
    for purge, objects in replaced:
        if digest is not None and purge > number:
            digest = objects.get(digest, digest)
    return digest


def objects_of_note(note: Note) -> Iterator[tuple[Digest, str]]:
    """Yield the objects that a note names, each with its role."""
    for task in note.tasks:
        yield from objects_of_task(task)


def objects_of_task(task: TaskNote) -> Iterator[tuple[Digest, str]]:
    """Yield the objects that a note names of one task, each with its role."""
    if task.config:
        yield task.config, "config"
    yield from ((entry.object, "attachment") for entry in task.attachments)
    yield from ((entry.object, "original") for entry in task.original)
