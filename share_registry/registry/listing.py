"""Listing of tasks, now or as of any commit: one state of each space, the newest version of each task that is live in it.

A page begins behind a name and is found along the names: what it costs does not depend on how many tasks or versions there are.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import func, null, select
from sqlalchemy.orm import Session

from share_registry.catalog import queries
from share_registry.catalog.models import AliasRow, CommitRow, LabelRow, MetricRow, TaskLifeRow, TaskNameRow, VersionRow
from share_registry.catalog.step import pieces
from share_registry.errors import InvalidInput
from share_registry.names import CommitNumber, SpaceName, TaskName, Version, parse_reference
from share_registry.registry.commits import moment
from share_registry.registry.history import check_limit
from share_registry.registry.moments import At, Then, as_of
from share_registry.registry.resolve import space_of
from share_registry.registry.results import Task

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Row, Select

_Key: TypeAlias = tuple[str, int]
"""Space and number of a task."""
_Noted: TypeAlias = dict[_Key, dict[str, Any]]
_AT_ONCE: Final = 500
"""Names that are looked at together where a pattern chooses among them."""
_FEW: Final = 1000
"""Tasks to choose a page among; where more have a label, a page along the names is soon full."""


def tasks(
    session: Session,
    *,
    space: str | None = None,
    labels: Mapping[str, str] | None = None,
    alias: str | None = None,
    name: str | None = None,
    at: At | None = None,
    limit: int | None = None,
    after: str | None = None,
) -> list[Task]:
    """List the live tasks by space and name, each at its newest version.

    Args:
        session: A transaction.
        space: One space; None for all.
        labels: Only tasks whose newest version has all of these labels.
        alias: Only tasks that have this alias.
        name: Only tasks whose present name fits this pattern (`*`, `?`, `[...]`).
        at: As of a commit, tag, date or time (without a space: of a date or time).
        limit: At most so many; None for all.
        after: Only tasks behind this name (`space/task` where no space is named): the last of a page gives the next page.

    Raises:
        InvalidInput, NotFound: the space or `at` leads nowhere, or `limit` or `after` is malformed.
    """
    check_limit(limit)
    where = space_of(session, space) if space is not None else None
    then = as_of(session, where, at)
    last = ("", "") if after is None else _place(after, where)
    found: list[Row[Any]] = []
    for place in [where] if where is not None else queries.space_names(session):
        if place >= last[0] and (limit is None or len(found) < limit):
            page = _page(place, then, labels=labels or {}, alias=alias, among=_bearers(session, place, labels or {}, alias))
            found += _walk(session, page, last[1] if place == last[0] else "", None if limit is None else limit - len(found), name)
    return _tasks(session, then, found)


def _bearers(session: Session, space: str, labels: Mapping[str, str], alias: str | None) -> list[int] | None:
    """Return the tasks that ever had one of the labels or the alias, where they are few: a page is then chosen among them instead of along all names."""
    asked = [select(LabelRow.task).where(LabelRow.space == space, LabelRow.name == name, LabelRow.value == value) for name, value in labels.items()]
    if alias is not None:
        asked.append(select(AliasRow.task).where(AliasRow.space == space, AliasRow.name == alias))
    for query in asked:
        tasks = session.scalars(query.distinct().limit(_FEW + 1)).all()
        if len(tasks) <= _FEW:
            return list(tasks)
    return None


def _page(space: str, then: Then, *, labels: Mapping[str, str], alias: str | None, among: Sequence[int] | None) -> "Select[Any]":
    """Return what selects the newest versions of the live tasks by name."""
    of_task = (VersionRow.space == TaskNameRow.space) & (VersionRow.task == TaskNameRow.task)
    made = (CommitRow.space == VersionRow.space) & (CommitRow.number == VersionRow.number)
    query = (
        select(VersionRow.table, TaskNameRow.name.label("task_name"), CommitRow.time)
        .select_from(TaskNameRow.table)
        .join(VersionRow.table, of_task & (VersionRow.version == _newest(then)))
        .join(CommitRow.table, made)
        .where(TaskNameRow.space == space, TaskNameRow.until.is_(None), select(TaskLifeRow.task).where(_of_task(TaskLifeRow, then)).exists())
    )
    if among is not None:
        query = query.where(TaskNameRow.task.in_(among))
    for label, value in labels.items():
        said = _of_task(LabelRow, then) & (LabelRow.version == VersionRow.version)
        query = query.where(select(LabelRow.value).where(said, LabelRow.name == label, LabelRow.value == value).exists())
    if alias is not None:
        query = query.where(select(AliasRow.version).where(_of_task(AliasRow, then), AliasRow.name == alias).exists())
    return query.order_by(TaskNameRow.name)


def _newest(then: Then) -> "ColumnElement[int]":
    """Return the newest version that a task, joined by its name, has then."""
    versions = VersionRow.table.alias()
    of_task = (versions.c.space == TaskNameRow.space) & (versions.c.task == TaskNameRow.task)
    if then == Then():
        return select(func.max(versions.c.version)).where(of_task).scalar_subquery()
    by_then = select(versions.c.version).where(of_task, versions.c.number <= then.of(TaskNameRow.space))
    return by_then.order_by(versions.c.number.desc()).limit(1).scalar_subquery()


def _of_task(row: type[TaskLifeRow | AliasRow | LabelRow], then: Then) -> "ColumnElement[bool]":
    return (row.space == TaskNameRow.space) & (row.task == TaskNameRow.task) & then.within(row)


def _place(after: str, space: str | None) -> tuple[str, str]:
    """Return space and name behind which a page begins. Raises InvalidInput."""
    asked = parse_reference(after)
    place = asked.space if asked.space is not None else space
    if asked.task is None or place is None:
        raise InvalidInput(f"after={after!r} names no task of a space.", hint="Give the last task of the page before, such as base/cola.")
    return place, asked.task


def _walk(session: Session, query: "Select[Any]", after: str, limit: int | None, name: str | None) -> "list[Row[Any]]":
    """Return the rows of a page: names after names until there are as many that fit as wanted."""
    found: list[Row[Any]] = []
    size = limit if limit is None or name is None else max(limit, _AT_ONCE)
    while True:
        rows = session.execute(query.where(TaskNameRow.name > after).limit(size)).all()
        found += [row for row in rows if name is None or fnmatchcase(row.task_name, name)]
        if size is None or len(rows) < size or len(found) >= (limit or 0):
            return found[:limit]
        after = rows[-1].task_name


def _tasks(session: Session, then: Then, rows: "Sequence[Row[Any]]") -> list[Task]:
    labels, metrics, aliases = _noted(session, LabelRow, then, rows), _noted(session, MetricRow, then, rows), _noted(session, AliasRow, then, rows)
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


def _noted(session: Session, row: type[LabelRow | MetricRow | AliasRow], then: Then, rows: "Sequence[Row[Any]]") -> _Noted:
    """Return the labels or metrics that versions have then, or the aliases of their tasks, by task and name."""
    found: _Noted = defaultdict(dict)
    by_space: dict[str, list[Row[Any]]] = defaultdict(list)
    for version in rows:
        by_space[version.space].append(version)
    for space, versions in by_space.items():
        for piece in pieces(versions):
            query: Select[Any] = _of_aliases(space, piece, then) if issubclass(row, AliasRow) else _of_versions(row, space, piece, then)  # type: ignore[assignment]
            newest = {(version.task, version.version) for version in piece}
            for task, name, value, of in sorted(session.execute(query)):
                if of is None or (task, of) in newest:
                    found[(space, task)][name] = value
    return found


def _of_aliases(space: str, versions: "Sequence[Row[Any]]", then: Then) -> "Select[int, str, int, None]":
    of_tasks = (AliasRow.space == space) & AliasRow.task.in_([version.task for version in versions])
    return select(AliasRow.task, AliasRow.name, AliasRow.version, null()).where(of_tasks, then.within(AliasRow))


def _of_versions(row: type[LabelRow | MetricRow], space: str, versions: "Sequence[Row[Any]]", then: Then) -> "Select[int, str, str, int]":
    """Return what selects labels or metrics of some versions, and at times of others: led to by the commits that made them.

    The outer join and the sum, which is no column, keep SQLite from any other way: each task with each version takes longer than all the rest.
    """
    said = (row.space == VersionRow.space) & (row.task == VersionRow.task) & (row.version == VersionRow.version) & then.within(row)
    made = (VersionRow.space == space) & VersionRow.number.in_([version.number for version in versions])
    among = (VersionRow.task + 0).in_([version.task for version in versions])
    found = select(VersionRow.task, row.name, row.value, VersionRow.version).select_from(VersionRow.table.outerjoin(row.table, said))
    return found.where(made, among, row.name.is_not(None))
