"""Listing of tasks, now or as of any commit: one state of each space, the newest version of each task that is live in it.

A page begins behind a name and is found along the names, some of them at a time: what it costs does not depend on how many tasks or versions there are.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

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

_VERSIONS: Final = VersionRow.table.alias()
"""The versions of a task among which the newest is looked for."""
_AT_ONCE: Final = 500
"""Names that are looked at together where few of them are listed."""
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
    wanted = _Wanted(labels=labels or {}, alias=alias, name=name)
    found: list[Task] = []
    for place in [where] if where is not None else queries.space_names(session):
        if place >= last[0] and (limit is None or len(found) < limit):
            found += _walk(session, place, then, wanted, last[1] if place == last[0] else "", None if limit is None else limit - len(found))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """Which tasks are listed: those with these labels and this alias, of a name that fits."""

    labels: Mapping[str, str]
    alias: str | None
    name: str | None


def _walk(session: Session, space: str, then: Then, wanted: _Wanted, after: str, limit: int | None) -> list[Task]:
    """Return the tasks of a space behind a name: some names after others, more each time, until there are as many tasks as asked for."""
    bearers = _bearers(session, space, wanted)
    known = None if bearers is None else _names_of(session, space, bearers)
    looked_at: dict[int, str] = {}
    found: list[Row[Any]] = []
    size = limit
    while True:
        names = _names_after(session, space, after, size) if known is None else [named for named in known if named[1] > after][:size]
        looked_at |= names
        found += _versions(session, space, then, wanted, [task for task, name in names if wanted.name is None or fnmatchcase(name, wanted.name)])
        if size is None or len(names) < size or len(found) >= (limit or 0):
            return _tasks(session, space, then, looked_at, found[:limit])
        after, size = names[-1][1], min(2 * size, max(size, _AT_ONCE))


def _bearers(session: Session, space: str, wanted: _Wanted) -> list[int] | None:
    """Return the tasks that ever had one of the labels or the alias, where they are few: a page is then chosen among them instead of along all names."""
    asked = [select(LabelRow.task).where(LabelRow.space == space, LabelRow.name == name, LabelRow.value == value) for name, value in wanted.labels.items()]
    if wanted.alias is not None:
        asked.append(select(AliasRow.task).where(AliasRow.space == space, AliasRow.name == wanted.alias))
    for query in asked:
        tasks = session.scalars(query.distinct().limit(_FEW + 1)).all()
        if len(tasks) <= _FEW:
            return list(tasks)
    return None


def _names_of(session: Session, space: str, tasks: Sequence[int]) -> list[tuple[int, str]]:
    """Return the present names of some tasks, sorted by name."""
    query = select(TaskNameRow.task, TaskNameRow.name).where(TaskNameRow.space == space, TaskNameRow.until.is_(None))
    rows = [row for piece in pieces(tasks) for row in session.execute(query.where(TaskNameRow.task.in_(piece)))]
    return sorted(((task, name) for task, name in rows), key=lambda named: named[1])


def _names_after(session: Session, space: str, after: str, size: int | None) -> list[tuple[int, str]]:
    """Return the names behind a name, sorted; so many, or all of them."""
    query = select(TaskNameRow.task, TaskNameRow.name).where(TaskNameRow.space == space, TaskNameRow.until.is_(None), TaskNameRow.name > after)
    return [(task, name) for task, name in session.execute(query.order_by(TaskNameRow.name).limit(size))]


def _versions(session: Session, space: str, then: Then, wanted: _Wanted, tasks: Sequence[int]) -> "list[Row[Any]]":
    """Return the newest versions of those of some tasks that are live and wanted, in the order of the tasks."""
    of_task = (VersionRow.space == TaskLifeRow.space) & (VersionRow.task == TaskLifeRow.task) & (VersionRow.version == _newest(then))
    made = (CommitRow.space == VersionRow.space) & (CommitRow.number == VersionRow.number)
    query = select(VersionRow.table, CommitRow.time).select_from(TaskLifeRow.table).join(VersionRow.table, of_task).join(CommitRow.table, made)
    query = query.where(TaskLifeRow.space == space, then.within(TaskLifeRow))
    for label, value in wanted.labels.items():
        said = _of_task(LabelRow, then) & (LabelRow.version == VersionRow.version)
        query = query.where(select(LabelRow.value).where(said, LabelRow.name == label, LabelRow.value == value).exists())
    if wanted.alias is not None:
        query = query.where(select(AliasRow.version).where(_of_task(AliasRow, then), AliasRow.name == wanted.alias).exists())
    found = {row.task: row for piece in pieces(tasks) for row in session.execute(query.where(TaskLifeRow.task.in_(piece)))}
    return [found[task] for task in tasks if task in found]


def _newest(then: Then) -> "ColumnElement[int]":
    """Return the newest version that a live task has then."""
    versions = _VERSIONS
    of_task = (versions.c.space == TaskLifeRow.space) & (versions.c.task == TaskLifeRow.task)
    if then == Then():
        return select(func.max(versions.c.version)).where(of_task).scalar_subquery()
    by_then = select(versions.c.version).where(of_task, versions.c.number <= then.of(TaskLifeRow.space))
    return by_then.order_by(versions.c.number.desc()).limit(1).scalar_subquery()


def _of_task(row: type[AliasRow | LabelRow], then: Then) -> "ColumnElement[bool]":
    return (row.space == TaskLifeRow.space) & (row.task == TaskLifeRow.task) & then.within(row)


def _place(after: str, space: str | None) -> tuple[str, str]:
    """Return space and name behind which a page begins. Raises InvalidInput."""
    asked = parse_reference(after)
    place = asked.space if asked.space is not None else space
    if asked.task is None or place is None or space not in (None, place):
        raise InvalidInput(
            f"after={after!r} names no task of {f'space {space}' if space else 'a space'}.", hint="Give the last task of the page before, such as base/cola."
        )
    return place, asked.task


def _tasks(session: Session, space: str, then: Then, names: Mapping[int, str], rows: "Sequence[Row[Any]]") -> list[Task]:
    labels, metrics, aliases = (_noted(session, row, space, then, rows) for row in (LabelRow, MetricRow, AliasRow))
    return [
        Task(
            name=TaskName(names[row.task]),
            space=SpaceName(space),
            ref=f"{space}/{names[row.task]}@v{row.version}",
            version=Version(row.version),
            number=CommitNumber(row.number),
            time=moment(row.time),
            error=row.error,
            bound=row.bound,
            budget=row.budget,
            raw_bytes=row.raw_bytes,
            bytes_added=row.added_bytes,
            labels=labels[row.task],
            metrics={metric: float(value) for metric, value in metrics[row.task].items()},
            aliases={alias: Version(version) for alias, version in aliases[row.task].items()},
        )
        for row in rows
    ]


def _noted(session: Session, row: type[LabelRow | MetricRow | AliasRow], space: str, then: Then, rows: "Sequence[Row[Any]]") -> dict[int, dict[str, Any]]:
    """Return the labels or metrics that versions have then, or the aliases of their tasks, by task and name."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for piece in pieces(rows):
        query: Select[Any] = _of_aliases(space, piece, then) if issubclass(row, AliasRow) else _of_versions(row, space, piece, then)  # type: ignore[assignment]
        newest = {(version.task, version.version) for version in piece}
        for task, name, value, of in sorted(session.execute(query)):
            if of is None or (task, of) in newest:
                found[task][name] = value
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
