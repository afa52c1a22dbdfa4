"""What became of tasks: all of one, and of many of a page the last few versions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import func, select

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.aliases import moves_of_all
from share_registry.catalog.queries.named_tasks import find_task
from share_registry.catalog.queries.task_pages import (
    bare_task,
    total_of_task,
    versions_of_task,
)
from share_registry.catalog.sql import Session, pieces
from share_registry.catalog.tables import (
    CommitRow,
    SpaceRow,
    TaskLifeRow,
    TaskNameRow,
    VersionRow,
    is_commit_of,
)
from share_registry.names import SpaceName, TaskName
from share_registry.values.past_versions import Chronicle, PastVersion
from share_registry.values.tasks import Task

_NEWER: Final = VersionRow.table.alias()


def chronicle_of(session: Session, space: SpaceName, name: str, *, limit: int) -> Chronicle:
    """Return what became of a task, live or dropped.

    Args:
        session: A transaction.
        space: Its space.
        name: Any name that it had.
        limit: At most so many versions and moves, the newest.

    Raises:
        NotFoundError: there is no such task.
        FormatError: a later release has added commits.
    """
    lookups.require_newest(session, space)
    task = find_task(session, space, name)
    versions = versions_of_task(session, space, task, limit=limit)
    commits = {
        row.number: row
        for piece in pieces([version.number for version in versions])
        for row in session.execute(
            select(CommitRow.number, CommitRow.kind, CommitRow.author, CommitRow.message)
            .add_columns(VersionRow.restored_from)
            .join(VersionRow.table, is_commit_of(VersionRow, VersionRow.number))
            .where(VersionRow.space == space, VersionRow.task == task.task)
            .where(VersionRow.number.in_(piece))
        )
    }
    life = select(TaskLifeRow.task).where(
        TaskLifeRow.space == space, TaskLifeRow.task == task.task, TaskLifeRow.until.is_(None)
    )
    return Chronicle(
        space=space,
        task=TaskName(task.name),
        live=session.scalar(life) is not None,
        versions=tuple(
            PastVersion(
                task=version,
                kind=(commit := commits[version.number]).kind,
                author=commit.author,
                message=commit.message,
                restored_from=commit.restored_from,
            )
            for version in versions
        ),
        total=total_of_task(session, space, task),
        moves=tuple(moves_of_all(session, space, task, limit=limit)),
    )


def recent_versions(
    session: Session, space: SpaceName, names: Sequence[str], *, last: int
) -> Mapping[str, Sequence[Task]]:
    """Return the last few versions of tasks by their present names, oldest first.

    Without labels, metrics and aliases: one statement for 500 tasks.
    """
    newest = (
        select(func.max(_NEWER.c.version))
        .where(_NEWER.c.space == VersionRow.space, _NEWER.c.task == VersionRow.task)
        .scalar_subquery()
    )
    query = (
        select(VersionRow.table, TaskNameRow.name.label("task_name"), CommitRow.time)
        .select_from(TaskNameRow.table)
        .join(
            VersionRow.table,
            (VersionRow.space == TaskNameRow.space) & (VersionRow.task == TaskNameRow.task),
        )
        .join(CommitRow.table, is_commit_of(VersionRow, VersionRow.number))
        .where(TaskNameRow.space == space, TaskNameRow.until.is_(None))
        .where(VersionRow.version > newest - last)
    )
    lines: dict[str, list[Task]] = defaultdict(list)
    for piece in pieces(names):
        rows = session.execute(query.where(TaskNameRow.name.in_(piece)))
        for row in sorted(rows, key=lambda row: row.version):
            lines[row.task_name].append(bare_task(row, row.task_name))
    return lines


def version_counts(session: Session, space: SpaceName | None) -> Mapping[str, int]:
    """Return how many versions a space has, or each, those too that were removed since."""
    names = select(SpaceRow.name)
    query = select(VersionRow.space, func.count()).group_by(VersionRow.space)
    if space is not None:
        names = names.where(SpaceRow.name == space)
        query = query.where(VersionRow.space == space)
    counted = dict.fromkeys(session.scalars(names), 0)
    return counted | dict(sorted(session.execute(query)))
