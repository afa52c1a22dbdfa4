"""The projection: what each record does to the rows of the catalog.

One deterministic function for commits and for rebuilds: the rows depend on the records and notes
alone, in their order. A record that does not follow from what is there comes from a damaged or
foreign log and raises Integrity; a record that is already there changes nothing.
"""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Final, cast

from sqlalchemy import (
    BigInteger,
    CursorResult,
    Select,
    Update,
    bindparam,
    delete,
    exists,
    select,
    update,
)
from sqlalchemy.orm import Session

from share_registry.catalog.projection import annotations, versions
from share_registry.catalog.projection.writer import RecordWriter
from share_registry.catalog.queries.lookups import SPACE, tag_target
from share_registry.catalog.sql import clean, pieces
from share_registry.catalog.tables import (
    TABLES,
    TEXT,
    AliasRow,
    CommitRow,
    IdentityRow,
    LeaseRow,
    ObjectRow,
    SpaceRow,
    TagRow,
    TaskLifeRow,
    TaskNameRow,
)
from share_registry.errors import IntegrityError

if TYPE_CHECKING:
    from sqlalchemy import Row

    from share_registry.format.layout import Layout
    from share_registry.format.records import (
        AliasRecord,
        AnnotateRecord,
        CreateRecord,
        DropRecord,
        MergeRecord,
        Note,
        PolicyBody,
        PolicyRecord,
        Record,
        RefitRecord,
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
    upon = (
        (SpaceRow.name == space)
        & (SpaceRow.head == before)
        & (SpaceRow.head_id == bindparam("then", type_=TEXT))
    )
    return update(SpaceRow.table).where(upon, in_time, ~same_key)


_ADVANCE: Final = _advance_statement()
"""Move the head to a record that follows it; built once."""


def apply(
    session: Session,
    *,
    record: "Record",
    id: "Digest",  # noqa: A002 - the word of the format
    note: "Note | None",
    layouts: "Mapping[Digest, Layout]",
) -> bool:
    """Apply one record; tell whether it was new.

    Args:
        session: A transaction that writes.
        record: The record behind the head of its space, or one that was applied before.
        id: sha256 of its bytes.
        note: Its note; None where it has none or the note was removed.
        layouts: The layouts its tasks name, by digest; module shapes of one that is missing stay
            unknown.

    Raises:
        IntegrityError: it does not follow: its number, parent, time, key, names or versions.
    """
    step = RecordWriter(session=session, space=record.space, number=record.number)
    if not _advance(step, record, id):
        return False
    step.add(CommitRow, [_commit(record, id, note)])
    _change(step, record, note, layouts)
    _register_objects(step, record, note)
    return True


def wipe(session: Session, space: str | None = None) -> None:
    """Remove every row of one space, or of all; which store it is and the leases stay."""
    for table in reversed(TABLES.sorted_tables):
        if table in (IdentityRow.table, LeaseRow.table):
            continue
        column = table.c.name if table is SpaceRow.table else table.c.space
        session.execute(delete(table) if space is None else delete(table).where(column == space))


def _advance(step: RecordWriter, record: "Record", commit_id: str) -> bool:
    """Move the head.

    The conditional update lets one of several processes through and the others find the record
    there.
    """
    if record.kind == "create" and record.number == 1:
        if _commit_of(step, 1) is not None:
            return _explain(step, record, commit_id)
        step.session.execute(SpaceRow.table.insert(), [_space(record, commit_id)])
        return True
    values = {
        "this": step.space,
        "before": step.number - 1,
        "then": record.parent,
        "time": record.time,
        "key": record.key,
    }
    moved = step.session.execute(_ADVANCE, values | {"head": step.number, "head_id": commit_id})
    changed = cast("CursorResult[object]", moved).rowcount
    return (changed == 1 and record.kind != "create") or _explain(step, record, commit_id)


def _explain(step: RecordWriter, record: "Record", commit_id: str) -> bool:
    """Return False where the record was applied before; else say why it cannot be.

    Raises IntegrityError.
    """
    known = _commit_of(step, step.number)
    if known is not None and known.id == commit_id:
        return False
    if known is not None:
        raise IntegrityError(
            f"{step.what} is {commit_id[:12]}, but the catalog holds {known.id[:12]} there.",
            hint="Run `share-registry rebuild`.",
        )
    before = _commit_of(step, step.number - 1)
    if (before is None) != (record.kind == "create") or (before is None and step.number != 1):
        head = step.session.scalar(select(SpaceRow.head).where(SpaceRow.name == step.space)) or 0
        raise IntegrityError(f"{step.what} ({record.kind}) cannot follow c{head}.")
    if before is not None and before.id != record.parent:
        raise IntegrityError(
            f"{step.what} has the parent {record.parent[:12]}, expected {before.id[:12]}."
        )
    if before is not None and before.time > record.time:
        raise IntegrityError(
            f"{step.what} has the time {record.time}, earlier than {before.time} of the one before it."
        )
    raise IntegrityError(f"{step.what} repeats the key {record.key!r}.")


def _commit_of(step: RecordWriter, number: int) -> "Row[str, str] | None":
    query = select(CommitRow.id, CommitRow.time).where(
        CommitRow.space == step.space, CommitRow.number == number
    )
    return step.session.execute(query).one_or_none()


def _space(record: "Record", commit_id: str) -> dict[str, object]:
    created = cast("CreateRecord", record)
    return {
        "name": created.space,
        "base_model": clean(created.base_model.label),
        "base_revision": created.base_model.revision,
        "base_labels": tuple(created.base_model.labels),
        **_policy(created.policy),
        "live": 0,
        "head": 1,
        "head_id": commit_id,
    }


def _policy(policy: "PolicyBody") -> dict[str, object]:
    return {
        "budget": float(policy.budget),
        "keep_original": policy.keep_original,
        "references": policy.references,
        "refit": policy.refit,
        "pseudo_rank": policy.pseudo_rank,
        "k": policy.k,
        "phi": policy.phi,
    }


def _commit(record: "Record", commit_id: str, note: "Note | None") -> dict[str, object]:
    return {
        "number": record.number,
        "id": commit_id,
        "parent": record.parent,
        "kind": record.kind,
        "time": record.time,
        "key": record.key,
        "note": record.note,
        "author": clean(note.author) if note and note.author else None,
        "message": clean(note.message or "") if note else "",
        "detail": _detail(record, note),
        "basis": record.basis if record.kind in ("absorb", "refit") else None,
    }


def _detail(record: "Record", note: "Note | None") -> str:
    match record.kind:
        case "create":
            return f"base model {clean(record.base_model.label)}"
        case "absorb":
            return "with a basis of their own" if record.basis else ""
        case "refit":
            return _refit_phrase(record)
        case "merge":
            return _merge_phrase(record)
        case "restore":
            return f"{record.task}@v{record.version} repeats v{record.of}"
        case "drop":
            return f"dropped {record.task}"
        case "rename":
            return f"{record.task} is now called {record.name}"
        case "policy":
            return _policy_phrase(record.policy)
        case "alias":
            return (
                f"{record.task}@{record.alias} is v{record.version}"
                if record.version
                else f"{record.task}@{record.alias} is removed"
            )
        case "tag":
            return f"{record.tag} names c{record.commit}"
        case "annotate":
            return annotations.phrase(note.of(record.task) if note else None)
        case _:
            return ""


def _policy_phrase(policy: "PolicyBody") -> str:
    kept = f"originals {'kept' if policy.keep_original else 'not kept'}"
    cut = f", pseudo-rank {policy.pseudo_rank}" if policy.pseudo_rank else ""
    if policy.k:
        return f"coefficients over {policy.k} directions, phi {policy.phi}{cut}, {kept}"
    return f"budget {policy.budget}, {kept}, references {'on' if policy.references else 'off'}, refits {'on' if policy.refit else 'off'}{cut}"


def _merge_phrase(record: "MergeRecord") -> str:
    parents = zip(record.weights, record.tasks[0].derived_from, strict=False)
    terms = " + ".join(f"{weight} {parent.task}@v{parent.version}" for weight, parent in parents)
    return f"{record.tasks[0].task}@v{record.tasks[0].version} = {terms}, {record.method}"


def _refit_phrase(record: "RefitRecord") -> str:
    count = len(record.tasks)
    moved = (
        f"{count} task{'' if count == 1 else 's'} re-expressed" if count else "for later commits"
    )
    return f"basis {record.basis[:8]}, {moved}"


def _change(
    step: RecordWriter, record: "Record", note: "Note | None", layouts: "Mapping[Digest, Layout]"
) -> None:
    match record.kind:
        case "absorb":
            versions.absorb(step, record, note, layouts)
        case "refit":
            versions.refit(step, record, note, layouts)
        case "merge":
            versions.merge(step, record, note, layouts)
        case "restore":
            versions.restore(step, record, note)
        case "drop":
            _drop(step, record)
        case "rename":
            _rename(step, record)
        case "policy":
            _set_policy(step, record)
        case "alias":
            _move_alias(step, record)
        case "tag":
            _tag(step, record)
        case "annotate":
            _annotate(step, record, note)


def _drop(step: RecordWriter, record: "DropRecord") -> None:
    known = step.task(record.task)
    step.end(TaskLifeRow, TaskLifeRow.task == known.task)
    step.count(-1 if known.live else 0)
    step.touch({known.task: None})


def _rename(step: RecordWriter, record: "RenameRecord") -> None:
    known = step.task(record.task)
    taken = step.known([record.name]).get(record.name)
    if taken is not None and taken.task != known.task:
        raise IntegrityError(
            f"{step.what} gives {record.task!r} the name {record.name!r}, which belongs to another task."
        )
    step.end(TaskNameRow, TaskNameRow.task == known.task)
    step.add(TaskNameRow, [{"name": record.name, "since": step.number, "task": known.task}])
    step.touch({known.task: None})


def _set_policy(step: RecordWriter, record: "PolicyRecord") -> None:
    statement = (
        update(SpaceRow.table).where(SpaceRow.name == step.space).values(**_policy(record.policy))
    )
    step.session.execute(statement)


def _move_alias(step: RecordWriter, record: "AliasRecord") -> None:
    known = step.task(record.task)
    step.end(AliasRow, AliasRow.task == known.task, AliasRow.name == record.alias)
    if record.version is not None:
        step.check_version(known, record.version)
        step.add(
            AliasRow,
            [
                {
                    "task": known.task,
                    "name": record.alias,
                    "since": step.number,
                    "version": record.version,
                }
            ],
        )
    step.touch({known.task: record.version})


def _tag(step: RecordWriter, record: "TagRecord") -> None:
    if record.commit >= step.number:
        raise IntegrityError(f"{step.what} tags c{record.commit}, which does not exist before it.")
    if tag_target(step.session, step.space, record.tag) is not None:
        raise IntegrityError(f"{step.what} gives the tag {record.tag!r} a second time.")
    step.add(TagRow, [{"name": record.tag, "number": record.commit, "since": step.number}])


def _annotate(step: RecordWriter, record: "AnnotateRecord", note: "Note | None") -> None:
    known = step.task(record.task)
    step.check_version(known, record.version)
    annotations.change(step, known.task, record.version, note.of(record.task) if note else None)
    step.touch({known.task: record.version})


def _register_objects(step: RecordWriter, record: "Record", note: "Note | None") -> None:
    named = sorted({*_objects_of_record(record), *_objects_of_note(note)})
    if not named:
        return
    known = {
        (row.digest, row.role)
        for piece in pieces(sorted({digest for digest, _ in named}))
        for row in step.session.execute(_named(), {"space": step.space, "digests": piece})
    }
    step.add(
        ObjectRow,
        [
            {"digest": digest, "role": role, "since": step.number}
            for digest, role in named
            if (digest, role) not in known
        ],
    )


@cache
def _named() -> Select[str, str]:
    digests = bindparam("digests", expanding=True, type_=TEXT)
    return select(ObjectRow.digest, ObjectRow.role).where(
        ObjectRow.space == SPACE, ObjectRow.digest.in_(digests)
    )


def _objects_of_record(record: "Record") -> set[tuple[str, str]]:
    found = {(str(record.note), "note")} if record.note else set()
    if record.kind in ("absorb", "refit") and record.basis:
        found.add((str(record.basis), "basis"))
    if record.kind in ("absorb", "refit", "merge"):
        found |= {
            (digest, role)
            for task in record.tasks
            for digest, role in ((task.adapter, "adapter"), (task.layout, "layout"))
        }
    return found


def _objects_of_note(note: "Note | None") -> set[tuple[str, str]]:
    tasks = note.tasks if note else []
    configs = {(str(task.config), "config") for task in tasks if task.config}
    attachments = {
        (str(entry.object), "attachment") for task in tasks for entry in task.attachments
    }
    return (
        configs
        | attachments
        | {(str(entry.object), "original") for task in tasks for entry in task.original}
    )
