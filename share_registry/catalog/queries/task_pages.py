"""Listing of tasks, now or as of any commit.

One state of each space, the newest version of each task that is live in it.

A page begins behind a name and is found along the names, some of them at a time: what it costs does
not depend on how many tasks or versions there are.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    case,
    false,
    func,
    select,
    true,
)

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.as_of import At, Then, as_of
from share_registry.catalog.queries.resolution import spaces_in_scope
from share_registry.catalog.sql import Session, clean, pieces
from share_registry.catalog.tables import (
    TEXT,
    AliasRow,
    CommitRow,
    LabelRow,
    MetricRow,
    TaskLifeRow,
    TaskNameRow,
    VersionRow,
    is_commit_of,
)
from share_registry.errors import InvalidInputError
from share_registry.names import CommitNumber, SpaceName, TaskName, Version, parse_reference
from share_registry.values.tasks import Task

# The versions of a task among which the newest is looked for
_VERSIONS: Final = VersionRow.table.alias()
# Tasks that are looked at together where the first did not give a page
_AT_ONCE: Final = 500
# Tasks to choose a page among; where more have a label, a page along the names is soon full
_FEW: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """Which tasks are listed.

    Attributes:
        space: One space; None for all.
        labels: Only tasks whose newest version has all of these labels.
        alias: Only tasks that have this alias.
        name: Only tasks whose present name fits this pattern (`*`, `?`, `[...]`).
        at: As of a commit, tag, date or time (where there are several spaces: of a date or time).
        limit: At most so many; None for all.
        after: Only tasks behind this one, or behind this name (`space/task` where no space is
            named): the last of a page gives the next page.
    """

    space: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    alias: str | None = None
    name: str | None = None
    at: At | None = None
    limit: int | None = None
    after: str | Task | None = None


def tasks(session: Session, query: TaskQuery) -> list[Task]:
    """List the live tasks by space and name, each at its newest version.

    Raises:
        InvalidInputError, NotFoundError: the space or `at` leads nowhere, or `limit` or `after` is
            malformed.
    """
    query = replace(
        query, labels={clean(label): clean(value) for label, value in query.labels.items()}
    )
    spaces = spaces_in_scope(session, query.space)
    only = spaces[0] if len(spaces) == 1 else None
    then = as_of(session, only, query.at)
    last_space, last_name = ("", "") if query.after is None else _place(query.after, only)
    listed: list[Task] = []
    for space in (name for name in spaces if name >= last_space):
        left = None if query.limit is None else query.limit - len(listed)
        if left == 0:
            break
        listed += _page(session, space, then, query, last_name if space == last_space else "", left)
    return listed


def _page(
    session: Session, space: str, then: Then, query: TaskQuery, after: str, limit: int | None
) -> list[Task]:
    names: dict[int, str] = {}
    pattern = "*" if query.name is None else query.name
    for batch in _names(session, space, then, query, after, limit):
        names |= {task: name for task, name in batch if fnmatchcase(name, pattern)}
        if limit is not None and len(names) >= limit:
            break
    chosen = list(names)[:limit]
    # that they are live was asked before, and may have changed since
    newest = (
        select(VersionRow.table, CommitRow.time)
        .select_from(TaskNameRow.table)
        .join(VersionRow.table, _of_task(VersionRow) & (VersionRow.version == _newest(then)))
        .join(CommitRow.table, is_commit_of(VersionRow, VersionRow.number))
        .where(TaskNameRow.space == space, TaskNameRow.until.is_(None))
    )
    rows = {
        row.task: row
        for piece in pieces(chosen)
        for row in session.execute(newest.where(TaskNameRow.task.in_(piece)))
    }
    return _tasks(session, space, then, names, [rows[task] for task in chosen if task in rows])


def _names(
    session: Session, space: str, then: Then, query: TaskQuery, after: str, limit: int | None
) -> Iterator[Sequence[Row[int, str]]]:
    """Yield the live tasks behind a name that have the labels and the alias, some at a time.

    Each comes with its name, in the order of names. They are looked up along all names, or among
    those that ever had a label or the alias, where these are few: by a sum of text, which no index
    has.
    """
    page = select(TaskNameRow.task, TaskNameRow.name).where(
        TaskNameRow.space == space, TaskNameRow.until.is_(None), _is_listed(then, query)
    )
    bearers, name = _few_bearers(session, space, query), TaskNameRow.name
    if bearers is not None:
        page, name = page.where(TaskNameRow.task.in_(bearers)), name.concat("")
    page = (
        page.where(name > bindparam("after", type_=TEXT))
        .order_by(name)
        .limit(bindparam("size", type_=BigInteger))
    )
    size = lookups.EVER if limit is None else limit
    while True:
        rows = list(session.execute(page, {"after": after, "size": size}))
        yield rows
        if len(rows) < size:
            return
        after, size = rows[-1].name, max(size, _AT_ONCE)


def _is_listed(then: Then, query: TaskQuery) -> ColumnElement[bool]:
    """Return whether a named task is live then and has the labels and the alias then.

    As a case it is asked of one name after another, until there are as many as asked for: a
    database would rather begin with everything that has the label.
    """
    conditions = [
        select(TaskLifeRow.task).where(_of_task(TaskLifeRow), then.within(TaskLifeRow)).exists()
    ]
    for name, value in query.labels.items():
        label = select(LabelRow.task).where(_of_task(LabelRow), then.within(LabelRow))
        same = (LabelRow.name == name) & (LabelRow.value == value)
        conditions.append(label.where(same & (LabelRow.version == _newest(then))).exists())
    if query.alias is not None:
        alias = select(AliasRow.task).where(_of_task(AliasRow), then.within(AliasRow))
        conditions.append(alias.where(AliasRow.name == query.alias).exists())
    return case((and_(*conditions), true()), else_=false())


def _few_bearers(session: Session, space: str, query: TaskQuery) -> Select[int] | None:
    """Return what selects the tasks that ever had a label or the alias, where they are few."""
    candidates = [
        select(LabelRow.task).where(
            LabelRow.space == space, LabelRow.name == name, LabelRow.value == value
        )
        for name, value in query.labels.items()
    ]
    if query.alias is not None:
        candidates.append(
            select(AliasRow.task).where(AliasRow.space == space, AliasRow.name == query.alias)
        )
    for bearers in candidates:
        if session.scalar(bearers.distinct().limit(1).offset(_FEW)) is None:
            return bearers
    return None


def _newest(then: Then) -> ColumnElement[int]:
    column = _VERSIONS.c
    of_task = (column.space == TaskNameRow.space) & (column.task == TaskNameRow.task)
    newest = select(func.max(column.version)).where(of_task)
    if then != Then():
        by_then = select(column.version).where(of_task, column.number <= then.of(column.space))
        newest = by_then.order_by(column.number.desc()).limit(1)
    return newest.correlate(TaskNameRow.table).scalar_subquery()


def _of_task(row: type[AliasRow | LabelRow | TaskLifeRow | VersionRow]) -> ColumnElement[bool]:
    return (row.space == TaskNameRow.space) & (row.task == TaskNameRow.task)


def _place(after: str | Task, space: str | None) -> tuple[str, str]:
    """Return space and name behind which a page begins. Raises InvalidInputError."""
    if isinstance(after, Task):
        after = f"{after.space}/{after.name}"
    asked = parse_reference(after)
    place = asked.space if asked.space is not None else space
    if asked.task is None or place is None or space not in (None, place):
        raise InvalidInputError(
            f"after={after!r} names no task of {f'space {space}' if space else 'a space'}.",
            hint="Give the last task of the page before, such as base/cola.",
        )
    return place, asked.task


def _tasks(
    session: Session, space: str, then: Then, names: Mapping[int, str], rows: Sequence[Row[Any]]
) -> list[Task]:
    labels: dict[int, dict[str, str]] = defaultdict(dict)
    metrics: dict[int, dict[str, float]] = defaultdict(dict)
    aliases: dict[int, dict[str, Version]] = defaultdict(dict)
    for piece in pieces(rows):
        for task, name, value in _annotations(session, LabelRow, space, piece, then):
            labels[task][name] = value
        for task, name, value in _annotations(session, MetricRow, space, piece, then):
            metrics[task][name] = float(value)
        query = select(AliasRow.task, AliasRow.name, AliasRow.version).where(
            (AliasRow.space == space) & AliasRow.task.in_([version.task for version in piece]),
            then.within(AliasRow),
        )
        for task, name, version in sorted(session.execute(query)):
            aliases[task][name] = Version(version)
    return [
        Task(
            name=TaskName(names[row.task]),
            space=SpaceName(space),
            ref=f"{space}/{names[row.task]}@v{row.version}",
            version=Version(row.version),
            number=CommitNumber(row.number),
            time=datetime.fromisoformat(row.time),
            error=row.error,
            bound=row.bound,
            budget=row.budget,
            raw_bytes=row.raw_bytes,
            bytes_added=row.added_bytes,
            labels=labels[row.task],
            metrics=metrics[row.task],
            aliases=aliases[row.task],
        )
        for row in rows
    ]


def _annotations(
    session: Session,
    row: type[LabelRow | MetricRow],
    space: str,
    versions: Sequence[Row[Any]],
    then: Then,
) -> Iterator[tuple[int, str, str]]:
    """Yield task, name and value of the labels or metrics that some versions have then, sorted.

    The database is led to them by the commits that made the versions. The outer join and the sum,
    which is no column, keep SQLite from any other way: each task with each version takes longer
    than all the rest. It may give those of other versions too, which are left out here.
    """
    of_version = (
        (row.space == VersionRow.space)
        & (row.task == VersionRow.task)
        & (row.version == VersionRow.version)
        & then.within(row)
    )
    query = (
        select(VersionRow.task, row.name, row.value, VersionRow.version)
        .select_from(VersionRow.table.outerjoin(row.table, of_version))
        .where(VersionRow.space == space)
        .where(VersionRow.number.in_([version.number for version in versions]))
        .where((VersionRow.task + 0).in_([version.task for version in versions]))
        .where(row.name.is_not(None))
    )
    places = {(version.task, version.version) for version in versions}
    for task, name, value, version in sorted(session.execute(query)):
        if (task, version) in places:
            yield task, name, value
