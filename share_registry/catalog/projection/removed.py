"""Versions that are not read any more: what records that expire or purge do to the rows.

The rows of such a version stay, and say which commit removed it. Only what names its objects as
objects of the space goes.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy import ColumnElement, delete, select, update

from share_registry.catalog.projection.writer import KnownTask, RecordWriter
from share_registry.catalog.sql import pieces
from share_registry.catalog.tables import (
    AliasRow,
    CommitRow,
    ObjectRow,
    TaskLifeRow,
    VersionRow,
)
from share_registry.errors import IntegrityError, ensure
from share_registry.format.named_objects import replacements
from share_registry.format.records import ExpireRecord, PurgeRecord
from share_registry.names import Digest

# Columns of a version that name an object, with the role that it has
_OBJECTS: Final = {
    "adapter_digest": "adapter",
    "layout_digest": "layout",
    "config_digest": "config",
}


def remove(writer: RecordWriter, record: ExpireRecord | PurgeRecord) -> None:
    """Mark versions as removed."""
    if isinstance(record, ExpireRecord):
        _expire(writer, record)
    else:
        _purge(writer, record)


def _expire(writer: RecordWriter, record: ExpireRecord) -> None:
    """Remove versions, none of them one that a live task or an alias stands at."""
    tasks = writer.tasks({of.task for of in record.versions})
    by_task: dict[int, list[int]] = defaultdict(list)
    for of in record.versions:
        task = writer.require_name(tasks.get(of.task), of.task)
        writer.check_kept(task, of.version)
        _check_free(writer, task, of.version)
        by_task[task.task].append(of.version)
    for number, versions in by_task.items():
        _remove(writer, number, VersionRow.version.in_(versions))
    writer.touch(dict.fromkeys(by_task))


def _purge(writer: RecordWriter, record: PurgeRecord) -> None:
    """Remove every version of a task, drop it, and end its aliases."""
    task = writer.task(record.task)
    ensure(
        not names_any(writer, replacements(record)),
        IntegrityError(
            f"{writer.subject} replaces what the catalog still names.",
            hint="Run `share-registry rebuild`.",
        ),
    )
    _remove(writer, task.task, VersionRow.removed.is_(None))
    if writer.end(TaskLifeRow, TaskLifeRow.task == task.task):
        writer.count(-1)
    writer.end(AliasRow, AliasRow.task == task.task)
    writer.touch({task.task: None})


def names_any(writer: RecordWriter, objects: Collection[Digest]) -> bool:
    """Tell whether versions or commits before the record name any of some objects."""
    named = (
        (CommitRow, CommitRow.note),
        (CommitRow, CommitRow.basis),
        (VersionRow, VersionRow.adapter_digest),
        (VersionRow, VersionRow.note_digest),
    )
    return any(
        writer.session.scalar(
            select(column)
            .where(row.space == writer.space, row.number < writer.number, column.in_(piece))
            .limit(1)
        )
        is not None
        for row, column in named
        for piece in pieces(sorted(objects))
    )


def _check_free(writer: RecordWriter, task: KnownTask, version: int) -> None:
    """Check that nobody who asks for a live task, or an alias, gets a version."""
    subject = f"{writer.subject} removes {task.name}@v{version}"
    ensure(
        not (task.live and version == task.latest),
        IntegrityError(f"{subject}, the newest of a live task."),
    )
    alias = writer.session.scalar(
        select(AliasRow.name)
        .where(
            AliasRow.space == writer.space,
            AliasRow.task == task.task,
            AliasRow.version == version,
            AliasRow.until.is_(None),
        )
        .limit(1)
    )
    ensure(alias is None, IntegrityError(f"{subject}, at which the alias {alias!r} is."))


def _remove(writer: RecordWriter, task: int, which: ColumnElement[bool]) -> None:
    """Mark versions of a task as removed, and forget the objects that no other version has."""
    here = (VersionRow.space == writer.space) & (VersionRow.task == task)
    columns = [VersionRow.table.c[name] for name in _OBJECTS]
    rows = writer.session.execute(select(*columns).where(here, which)).all()
    writer.session.execute(
        update(VersionRow.table).where(here, which).values(removed=writer.number)
    )
    for name, role in _OBJECTS.items():
        digests = {getattr(row, name) for row in rows} - {None}
        _forget(writer, VersionRow.table.c[name], role, sorted(digests))


def _forget(
    writer: RecordWriter, column: ColumnElement[str | None], role: str, digests: Sequence[str]
) -> None:
    for piece in pieces(digests):
        kept: Collection[str | None] = writer.session.scalars(
            select(column).where(
                VersionRow.space == writer.space, column.in_(piece), VersionRow.removed.is_(None)
            )
        ).all()
        gone = sorted({*piece} - {*kept})
        writer.session.execute(
            delete(ObjectRow.table).where(
                ObjectRow.space == writer.space,
                ObjectRow.role == role,
                ObjectRow.digest.in_(gone),
            )
        )
