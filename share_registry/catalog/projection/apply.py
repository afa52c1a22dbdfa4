"""The projection: what each record does to the rows of the catalog.

One deterministic function for commits and for rebuilds: the rows depend on the records and notes
alone, in their order. A record that does not follow from what is there comes from a damaged or
foreign log and raises Integrity; a record that is already there changes nothing.
"""

from collections.abc import Mapping
from typing import Final, cast

from sqlalchemy import (
    BigInteger,
    CursorResult,
    Row,
    Update,
    bindparam,
    delete,
    exists,
    select,
    update,
)
from sqlalchemy.orm import Session

from share_registry.catalog.projection import annotations, phrases, removed, versions
from share_registry.catalog.projection.writer import RecordWriter
from share_registry.catalog.queries.lookups import SPACE, is_alias, tag_target
from share_registry.catalog.sql import clean, pieces
from share_registry.catalog.tables import (
    TABLES,
    TEXT,
    AliasRow,
    CommitRow,
    IdentityRow,
    ObjectRow,
    SpaceRow,
    TagRow,
    TaskLifeRow,
    TaskNameRow,
)
from share_registry.errors import IntegrityError, ensure
from share_registry.format.layout import Layout
from share_registry.format.named_objects import (
    Replaced,
    objects_of_note,
    objects_of_record,
    replacements,
)
from share_registry.format.notes import Note
from share_registry.format.records import (
    AliasRecord,
    AnnotateRecord,
    DropRecord,
    ExportRecord,
    PolicyBody,
    Record,
    RenameRecord,
    TagRecord,
)
from share_registry.names import Digest


def _advance_statement() -> Update:
    space, before = bindparam("this", type_=TEXT), bindparam("before", type_=BigInteger)
    in_time = exists().where(
        CommitRow.space == space,
        CommitRow.number == before,
        CommitRow.time <= bindparam("time", type_=TEXT),
    )
    same_key = exists().where(
        CommitRow.space == space, CommitRow.key == bindparam("key", type_=TEXT)
    )
    return update(SpaceRow.table).where(
        SpaceRow.name == space,
        SpaceRow.head == before,
        SpaceRow.head_id == bindparam("then", type_=TEXT),
        in_time,
        ~same_key,
    )


# Move the head to a record that follows it; built once
_ADVANCE: Final = _advance_statement()
# What is said of a commit whose note is named and not there, or was taken away (spec NOT-06)
_GONE: Final = "its note is not in the store"
_PURGED: Final = "its note was purged"
_PRESENT: Final = select(ObjectRow.digest, ObjectRow.role).where(
    ObjectRow.space == SPACE,
    ObjectRow.digest.in_(bindparam("digests", expanding=True, type_=TEXT)),
)


def apply(
    session: Session,
    *,
    record: Record,
    id: Digest,  # noqa: A002 - the word of the format
    note: Note | None,
    layouts: Mapping[Digest, Layout],
    replaced: Replaced = (),
) -> bool:
    """Apply one record; tell whether it was new.

    Args:
        session: A transaction that writes.
        record: The record behind the head of its space, or one that was applied before.
        id: sha256 of its bytes.
        note: Its note; None where it has none or the note was removed.
        layouts: The layouts its tasks name, by digest; module shapes of one that is missing stay
            unknown.
        replaced: What later records replace.

    Raises:
        IntegrityError: it does not follow: its number, parent, time, key, names or versions.
    """
    writer = RecordWriter(
        session=session, space=record.space, number=record.number, replaced=replaced
    )
    if not _advance(writer, record, id):
        return False
    note_digest = writer.read_for(record.note)
    # it was purged, removed, or lost
    gone = _GONE if note_digest is not None else _PURGED
    is_gone = record.note is not None and note is None
    note = note or Note()
    detail = phrases.detail(record, note)
    writer.add(
        CommitRow,
        [
            {
                "number": record.number,
                "id": id,
                "parent": record.parent,
                "kind": record.kind,
                "time": record.time,
                "key": record.key,
                "note": note_digest,
                "author": clean(note.author) if note.author else None,
                "message": clean(note.message or ""),
                "detail": "; ".join(filter(None, [detail, gone])) if is_gone else detail,
                "basis": writer.read_for(record.basis)
                if record.kind in ("absorb", "refit")
                else None,
            }
        ],
    )
    _change(writer, record, note, layouts)
    if is_gone:
        annotations.forget(writer, record, gone)
    _register_objects(writer, record, note)
    return True


def is_stale(session: Session, record: Record) -> bool:
    """Tell whether the catalog names what a record replaces: then the space is filled again."""
    writer = RecordWriter(session=session, space=record.space, number=record.number)
    return removed.names_any(writer, replacements(record))


def wipe(session: Session, space: str | None = None) -> None:
    """Remove every row of one space, or of all; which store it is stays."""
    for table in reversed(TABLES.sorted_tables):
        if table is IdentityRow.table:
            continue
        column = table.c.name if table is SpaceRow.table else table.c.space
        session.execute(delete(table) if space is None else delete(table).where(column == space))


def _advance(writer: RecordWriter, record: Record, commit_id: str) -> bool:
    """Move the head.

    The conditional update lets one of several processes through and the others find the record
    there.
    """
    if record.kind == "create" and record.number == 1:
        if _commit_of(writer, 1) is not None:
            return _explain(writer, record, commit_id)
        space = {
            "name": record.space,
            "base_model": clean(record.base_model.label),
            "base_revision": record.base_model.revision,
            "base_labels": tuple(record.base_model.labels),
            "live": 0,
            "added_bytes": 0,
            "raw_bytes": 0,
            "head": 1,
            "head_id": commit_id,
        }
        writer.session.execute(SpaceRow.table.insert(), [space | _policy(record.policy)])
        return True
    values = {
        "this": writer.space,
        "before": writer.number - 1,
        "then": record.parent,
        "time": record.time,
        "key": record.key,
        "head": writer.number,
        "head_id": commit_id,
    }
    moved = cast("CursorResult[object]", writer.session.execute(_ADVANCE, values)).rowcount == 1
    return (moved and record.kind != "create") or _explain(writer, record, commit_id)


def _explain(writer: RecordWriter, record: Record, commit_id: str) -> bool:
    """Return False where the record was applied before; else say why it cannot be.

    Raises IntegrityError.
    """
    present = _commit_of(writer, writer.number)
    if present is not None and present.id == commit_id:
        return False
    if present is not None:
        raise IntegrityError(
            f"{writer.subject} is {commit_id[:12]}, but the catalog holds {present.id[:12]} there.",
            hint="Run `share-registry rebuild`.",
        )
    before = _commit_of(writer, writer.number - 1)
    if (before is None) != (record.kind == "create") or (before is None and writer.number != 1):
        head = writer.session.scalar(select(SpaceRow.head).where(SpaceRow.name == writer.space))
        raise IntegrityError(f"{writer.subject} ({record.kind}) cannot follow c{head or 0}.")
    if before is not None and before.id != record.parent:
        raise IntegrityError(
            f"{writer.subject} has the parent {record.parent[:12]}, expected {before.id[:12]}."
        )
    if before is not None and before.time > record.time:
        raise IntegrityError(
            f"{writer.subject} has the time {record.time}, "
            f"earlier than {before.time} of the one before it."
        )
    raise IntegrityError(f"{writer.subject} repeats the key {record.key!r}.")


def _commit_of(writer: RecordWriter, number: int) -> Row[str, str] | None:
    return writer.session.execute(
        select(CommitRow.id, CommitRow.time).where(
            CommitRow.space == writer.space, CommitRow.number == number
        )
    ).one_or_none()


def _policy(policy: PolicyBody) -> dict[str, object]:
    return policy.model_dump() | {"budget": float(policy.budget)}


def _change(
    writer: RecordWriter, record: Record, note: Note, layouts: Mapping[Digest, Layout]
) -> None:
    match record.kind:
        case "absorb":
            versions.absorb(writer, record, note, layouts)
        case "refit":
            versions.refit(writer, record, note, layouts)
        case "merge":
            versions.merge(writer, record, note, layouts)
        case "restore":
            versions.restore(writer, record, note)
        case "drop":
            _drop(writer, record)
        case "rename":
            _rename(writer, record)
        case "policy":
            space = update(SpaceRow.table).where(SpaceRow.name == writer.space)
            writer.session.execute(space.values(**_policy(record.policy)))
        case "alias":
            _move_alias(writer, record)
        case "tag":
            _tag(writer, record)
        case "annotate" | "export":
            _speak(writer, record, note)
        case "expire" | "purge":
            removed.remove(writer, record)


def _speak(writer: RecordWriter, record: AnnotateRecord | ExportRecord, note: Note) -> None:
    task = writer.task(record.task)
    if isinstance(record, AnnotateRecord):
        writer.check_kept(task, record.version)
        annotations.change(writer, task.task, record.version, note.of(record.task))
    else:
        writer.check_version(task, record.version)
    writer.touch({task.task: record.version})


def _drop(writer: RecordWriter, record: DropRecord) -> None:
    task = writer.task(record.task)
    ensure(
        writer.end(TaskLifeRow, TaskLifeRow.task == task.task),
        IntegrityError(f"{writer.subject} drops {record.task!r}, which is dropped by then."),
    )
    writer.count(-1)
    writer.touch({task.task: None})


def _rename(writer: RecordWriter, record: RenameRecord) -> None:
    task = writer.task(record.task)
    ensure(
        record.name != record.task,
        IntegrityError(f"{writer.subject} gives {record.task!r} the name that it has."),
    )
    owner = writer.tasks([record.name]).get(record.name)
    ensure(
        owner is None or owner.task == task.task,
        IntegrityError(
            f"{writer.subject} gives {record.task!r} the name {record.name!r}, "
            "which belongs to another task."
        ),
    )
    writer.end(TaskNameRow, TaskNameRow.task == task.task)
    writer.add(TaskNameRow, [{"name": record.name, "since": writer.number, "task": task.task}])
    writer.touch({task.task: None})


def _move_alias(writer: RecordWriter, record: AliasRecord) -> None:
    task = writer.task(record.task)
    ensure(
        tag_target(writer.session, writer.space, record.alias) is None,
        IntegrityError(f"{writer.subject} makes an alias of {record.alias!r}, which is a tag."),
    )
    ended = writer.end(AliasRow, AliasRow.task == task.task, AliasRow.name == record.alias)
    if record.version is None:
        ensure(
            ended,
            IntegrityError(
                f"{writer.subject} removes the alias {record.alias!r}, "
                f"which {record.task!r} does not have."
            ),
        )
    else:
        writer.check_kept(task, record.version)
        values = {"task": task.task, "name": record.alias, "version": record.version}
        writer.add(AliasRow, [values | {"since": writer.number}])
    writer.touch({task.task: record.version})


def _tag(writer: RecordWriter, record: TagRecord) -> None:
    ensure(
        record.commit < writer.number,
        IntegrityError(f"{writer.subject} tags c{record.commit}, which does not exist before it."),
    )
    ensure(
        tag_target(writer.session, writer.space, record.tag) is None,
        IntegrityError(f"{writer.subject} gives the tag {record.tag!r} a second time."),
    )
    ensure(
        not is_alias(writer.session, writer.space, record.tag),
        IntegrityError(f"{writer.subject} makes a tag of {record.tag!r}, which is an alias."),
    )
    writer.add(TagRow, [{"name": record.tag, "number": record.commit, "since": writer.number}])


def _register_objects(writer: RecordWriter, record: Record, note: Note) -> None:
    read = [(writer.read_for(digest), role) for digest, role in objects_of_record(record)]
    objects = {(digest, role) for digest, role in read if digest is not None}
    named = sorted(objects | {*objects_of_note(note)})
    present = {
        (row.digest, row.role)
        for piece in pieces(sorted({digest for digest, _ in named}))
        for row in writer.session.execute(_PRESENT, {"space": writer.space, "digests": piece})
    }
    writer.add(
        ObjectRow,
        [
            {"digest": digest, "role": role, "since": writer.number}
            for digest, role in named
            if (digest, role) not in present
        ],
    )
