"""Listing of tasks, now or as of any commit: one state of each space, the newest version of each task that is live in it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from share_registry.catalog.models import AliasRow, CommitRow, LabelRow, MetricRow, TaskLifeRow, TaskNameRow, VersionRow, holds
from share_registry.names import CommitNumber, SpaceName, TaskName, Version
from share_registry.registry.commits import moment
from share_registry.registry.moments import At, as_of
from share_registry.registry.resolve import space_of
from share_registry.registry.results import Task

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Row, Subquery

_Key: TypeAlias = tuple[str, int]
"""Space and number of a task."""
_Noted: TypeAlias = dict[_Key, dict[str, Any]]


def tasks(
    session: Session,
    *,
    space: str | None = None,
    labels: Mapping[str, str] | None = None,
    alias: str | None = None,
    name: str | None = None,
    at: At | None = None,
) -> list[Task]:
    """List the live tasks by space and name, each at its newest version.

    Args:
        session: A transaction.
        space: One space; None for all.
        labels: Only tasks whose newest version has all of these labels.
        alias: Only tasks that have this alias.
        name: Only tasks whose present name fits this pattern (`*`, `?`, `[...]`).
        at: As of a commit, tag, date or time (without a space: of a date or time).

    Raises:
        InvalidInput, NotFound: the space or `at` leads nowhere.
    """
    newest = _newest(as_of(session, space_of(session, space) if space is not None else None, at))
    named = (TaskNameRow.space == newest.c.space) & (TaskNameRow.task == newest.c.task) & TaskNameRow.until.is_(None)
    version = (VersionRow.space == newest.c.space) & (VersionRow.task == newest.c.task) & (VersionRow.version == newest.c.version)
    made = (CommitRow.space == VersionRow.space) & (CommitRow.number == VersionRow.number)
    query = (
        select(VersionRow.table, TaskNameRow.name.label("task_name"), CommitRow.time)
        .select_from(VersionRow.table)
        .join(newest, version)
        .join(TaskNameRow.table, named)
        .join(CommitRow.table, made)
    )
    for label, value in (labels or {}).items():
        query = query.where(select(LabelRow.value).where(_of_version(LabelRow, newest), LabelRow.name == label, LabelRow.value == value).exists())
    if alias is not None:
        query = query.where(select(AliasRow.version).where(_of_task(AliasRow, newest), AliasRow.name == alias).exists())
    rows = session.execute(query.order_by(VersionRow.space, TaskNameRow.name)).all()
    chosen = [row for row in rows if name is None or fnmatchcase(row.task_name, name)]
    return _tasks(session, newest, chosen) if chosen else []


def _newest(then: "Subquery") -> "Subquery":
    """Return (space, task, version, number): the newest version of each task live at that commit, and that commit."""
    alive = (TaskLifeRow.space == then.c.space) & holds(TaskLifeRow, then.c.number)
    made = (VersionRow.space == TaskLifeRow.space) & (VersionRow.task == TaskLifeRow.task) & (VersionRow.number <= then.c.number)
    columns = (VersionRow.space, VersionRow.task, func.max(VersionRow.version).label("version"), then.c.number)
    joined = select(*columns).select_from(then).join(TaskLifeRow.table, alive).join(VersionRow.table, made)
    return joined.group_by(VersionRow.space, VersionRow.task, then.c.number).subquery("newest")


def _of_task(row: type[AliasRow | LabelRow | MetricRow], newest: "Subquery") -> "ColumnElement[bool]":
    return (row.space == newest.c.space) & (row.task == newest.c.task) & holds(row, newest.c.number)


def _of_version(row: type[LabelRow | MetricRow], newest: "Subquery") -> "ColumnElement[bool]":
    return _of_task(row, newest) & (row.version == newest.c.version)


def _tasks(session: Session, newest: "Subquery", rows: "Iterable[Row[Any]]") -> list[Task]:
    labels = _noted(session, select(LabelRow.space, LabelRow.task, LabelRow.name, LabelRow.value).join(newest, _of_version(LabelRow, newest)))
    metrics = _noted(session, select(MetricRow.space, MetricRow.task, MetricRow.name, MetricRow.value).join(newest, _of_version(MetricRow, newest)))
    aliases = _noted(session, select(AliasRow.space, AliasRow.task, AliasRow.name, AliasRow.version).join(newest, _of_task(AliasRow, newest)))
    return [
        Task(
            name=TaskName(row.task_name),
            space=SpaceName(row.space),
            ref=f"{row.space}/{row.task_name}@v{row.version}",
            version=Version(row.version),
            number=CommitNumber(row.number),
            time=moment(row.time),
            error=row.error,
            bound=row.bound,
            budget=row.budget,
            raw_bytes=row.raw_bytes,
            bytes_added=row.added_bytes,
            labels=labels[(row.space, row.task)],
            metrics={metric: float(value) for metric, value in metrics[(row.space, row.task)].items()},
            aliases={alias: Version(version) for alias, version in aliases[(row.space, row.task)].items()},
        )
        for row in rows
    ]


def _noted(session: Session, query: Any) -> _Noted:
    found: _Noted = defaultdict(dict)
    for space, task, name, value in session.execute(query.order_by(*query.selected_columns)):
        found[(space, task)][name] = value
    return found
