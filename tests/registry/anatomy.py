"""What a commit wrote, taken apart."""

import json

import share_registry as sr
from share_registry.format.records import AbsorbRecord, parse_record
from share_registry.names import CommitNumber, Digest


def record_of(registry: sr.Registry, commit: sr.Commit) -> AbsorbRecord:
    """Return a commit's record from the store."""
    content = registry.context.store.record(commit.space, CommitNumber(commit.number))
    assert content is not None
    record = parse_record(content)
    assert isinstance(record, AbsorbRecord)
    return record


def adapter_size(registry: sr.Registry, commit: sr.Commit) -> int:
    """Return the bytes of the one adapter object of a commit."""
    (task,) = record_of(registry, commit).tasks
    return registry.context.store.size(task.adapter) or 0


def metadata_bytes(registry: sr.Registry, commit: sr.Commit, stored: set[Digest]) -> int:
    """Return the bytes of record, note and the adapter object without its symbols and planes.

    Layout and config must be stored already.
    """
    record = record_of(registry, commit)
    (task,) = record.tasks
    assert record.note is not None
    assert task.layout in stored
    note = registry.context.store.get(record.note)
    assert json.loads(note)["tasks"][0]["config"] in stored
    content = registry.context.store.get(task.adapter)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    begin, end = map(int, header["table"]["data_offsets"])
    return len(record.to_bytes()) + len(note) + 8 + length + end - begin
