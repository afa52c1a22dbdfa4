"""Listing of tasks, now or as of any commit.

One state of each space, the newest version of each task that is live in it.

A page begins behind a name and is found along the names, some of them at a time: what it costs does
not depend on how many tasks or versions there are.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, and_, bindparam, case, false, func, null, select, true
from sqlalchemy.orm import Session

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.as_of import At, Then, as_of
from share_registry.catalog.queries.commit_rows import moment
from share_registry.catalog.queries.resolution import spaces_in_scope
from share_registry.catalog.sql import clean, pieces
from share_registry.catalog.tables import (
    TEXT,
    AliasRow,
    CommitRow,
    LabelRow,
    MetricRow,
    TaskLifeRow,
    TaskNameRow,
    VersionRow,
)
from share_registry.errors import InvalidInputError
from share_registry.names import CommitNumber, SpaceName, TaskName, Version, parse_reference
from share_registry.values.tasks import Task

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Row, Select

_VERSIONS: Final = VersionRow.table.alias()
"""The versions of a task among which the newest is looked for."""
_AT_ONCE: Final = 500
"""Tasks that are looked at together where the first did not give a page."""
_FEW: Final = 500
"""Tasks to choose a page among; where more have a label, a page along the names is soon full."""


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

    def fits(self, name: str) -> bool:
        """Tell whether a task's name fits."""
        return self.name is None or fnmatchcase(name, self.name)


def tasks(session: Session, query: TaskQuery) -> list[Task]:
    """List the live tasks by space and name, each at its newest version.

    Raises:
        InvalidInputError, NotFoundError: the space or `at` leads nowhere, or `limit` or `after` is malformed.
    """
    spaces = spaces_in_scope(session, query.space)
    only = spaces[0] if len(spaces) == 1 else None
    then = as_of(session, only, query.at)
    last = ("", "") if query.after is None else _place(query.after, only)
    found: list[Task] = []
    for space in (name for name in spaces if name >= last[0]):
        left = None if query.limit is None else query.limit - len(found)
        if left == 0:
            break
        found += _page(session, space, then, query, last[1] if space == last[0] else "", left)
    return found


def _page(
    session: Session, space: str, then: Then, query: TaskQuery, after: str, limit: int | None
) -> list[Task]:
    """Return the tasks of a space that are wanted behind a name, at most so many."""
    names: dict[int, str] = {}
    for some in _names(session, space, then, query, after, limit):
        names |= {task: name for task, name in some if query.fits(name)}
        if limit is not None and len(names) >= limit:
            break
    chosen = list(names)[:limit]
    rows = {
        row.task: row
        for piece in pieces(chosen)
        for row in session.execute(_versions(space, then).where(TaskNameRow.task.in_(piece)))
    }
    return _tasks(session, space, then, names, [rows[task] for task in chosen if task in rows])


def _names(
    session: Session, space: str, then: Then, query: TaskQuery, after: str, limit: int | None
) -> "Iterator[Sequence[Row[int, str]]]":
    """Yield the tasks behind a name that are live and have the labels and the alias, with their names and in the order of these, some at a time.

    They are found along all names, or among those that ever had a label or the alias, where these
    are few: by a sum of text, which no index has.
    """
    bearers = _few_bearers(session, space, query)
    name = TaskNameRow.name if bearers is None else TaskNameRow.name.concat("")
    page = select(TaskNameRow.task, TaskNameRow.name).where(
        TaskNameRow.space == space, TaskNameRow.until.is_(None), _is_listed(then, query)
    )
    if bearers is not None:
        page = page.where(TaskNameRow.task.in_(bearers))
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


def _is_listed(then: Then, query: TaskQuery) -> "ColumnElement[bool]":
    """Return whether a named task is live then and has the labels at its newest version and the alias.

    As a case it is asked of one name after another, until there are as many as asked for: a
    database would rather begin with everything that has the label.
    """
    asked = [
        select(TaskLifeRow.task).where(_of_task(TaskLifeRow), then.within(TaskLifeRow)).exists()
    ]
    for name, value in _clean_labels(query).items():
        said = (
            (LabelRow.name == name)
            & (LabelRow.value == value)
            & (LabelRow.version == _newest(then))
        )
        asked.append(
            select(LabelRow.task).where(_of_task(LabelRow), then.within(LabelRow), said).exists()
        )
    if query.alias is not None:
        asked.append(
            select(AliasRow.task)
            .where(_of_task(AliasRow), then.within(AliasRow), AliasRow.name == query.alias)
            .exists()
        )
    return case((and_(*asked), true()), else_=false())


def _few_bearers(session: Session, space: str, query: TaskQuery) -> "Select[int] | None":
    """Return what selects the tasks that ever had one of the labels or the alias, where they are few."""
    asked = [
        select(LabelRow.task).where(
            LabelRow.space == space, LabelRow.name == name, LabelRow.value == value
        )
        for name, value in _clean_labels(query).items()
    ]
    if query.alias is not None:
        asked.append(
            select(AliasRow.task).where(AliasRow.space == space, AliasRow.name == query.alias)
        )
    for bearers in asked:
        if session.scalar(bearers.distinct().limit(1).offset(_FEW)) is None:
            return bearers
    return None


def _clean_labels(query: TaskQuery) -> dict[str, str]:
    return {clean(label): clean(value) for label, value in query.labels.items()}


def _versions(space: str, then: Then) -> "Select[Any]":
    """Return what selects the newest versions of named tasks.

    That they are live was asked before, and may have changed since.
    """
    of_task = _of_task(VersionRow) & (VersionRow.version == _newest(then))
    made = (CommitRow.space == VersionRow.space) & (CommitRow.number == VersionRow.number)
    query = (
        select(VersionRow.table, CommitRow.time)
        .select_from(TaskNameRow.table)
        .join(VersionRow.table, of_task)
        .join(CommitRow.table, made)
    )
    return query.where(TaskNameRow.space == space, TaskNameRow.until.is_(None))


def _newest(then: Then) -> "ColumnElement[int]":
    """Return the newest version that a named task has then."""
    versions = _VERSIONS
    of_task = (versions.c.space == TaskNameRow.space) & (versions.c.task == TaskNameRow.task)
    if then == Then():
        return (
            select(func.max(versions.c.version))
            .where(of_task)
            .correlate(TaskNameRow.table)
            .scalar_subquery()
        )
    by_then = select(versions.c.version).where(
        of_task, versions.c.number <= then.of(versions.c.space)
    )
    return (
        by_then.order_by(versions.c.number.desc())
        .limit(1)
        .correlate(TaskNameRow.table)
        .scalar_subquery()
    )


def _of_task(row: type[AliasRow | LabelRow | TaskLifeRow | VersionRow]) -> "ColumnElement[bool]":
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
    session: Session, space: str, then: Then, names: Mapping[int, str], rows: "Sequence[Row[Any]]"
) -> list[Task]:
    labels, metrics, aliases = (
        _noted(session, row, space, then, rows) for row in (LabelRow, MetricRow, AliasRow)
    )
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


def _noted(
    session: Session,
    row: type[LabelRow | MetricRow | AliasRow],
    space: str,
    then: Then,
    rows: "Sequence[Row[Any]]",
) -> dict[int, dict[str, Any]]:
    """Return the labels or metrics that versions have then, or the aliases of their tasks, by task and name."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for piece in pieces(rows):
        query: Select[Any]
        if issubclass(row, AliasRow):
            query = _of_aliases(space, piece, then)  # type: ignore[assignment]
        else:
            query = _of_versions(row, space, piece, then)  # type: ignore[assignment]
        newest = {(version.task, version.version) for version in piece}
        for task, name, value, of in sorted(session.execute(query)):
            if of is None or (task, of) in newest:
                found[task][name] = value
    return found


def _of_aliases(
    space: str, versions: "Sequence[Row[Any]]", then: Then
) -> "Select[int, str, int, None]":
    of_tasks = (AliasRow.space == space) & AliasRow.task.in_([version.task for version in versions])
    return select(AliasRow.task, AliasRow.name, AliasRow.version, null()).where(
        of_tasks, then.within(AliasRow)
    )


def _of_versions(
    row: type[LabelRow | MetricRow], space: str, versions: "Sequence[Row[Any]]", then: Then
) -> "Select[int, str, str, int]":
    """Return what selects labels or metrics of some versions, and at times of others.

    Led to by the commits that made them.

    The outer join and the sum, which is no column, keep SQLite from any other way: each task with
    each version takes longer than all the rest.
    """
    said = (
        (row.space == VersionRow.space)
        & (row.task == VersionRow.task)
        & (row.version == VersionRow.version)
        & then.within(row)
    )
    made = (VersionRow.space == space) & VersionRow.number.in_(
        [version.number for version in versions]
    )
    among = (VersionRow.task + 0).in_([version.task for version in versions])
    found = select(VersionRow.task, row.name, row.value, VersionRow.version).select_from(
        VersionRow.table.outerjoin(row.table, said)
    )
    return found.where(made, among, row.name.is_not(None))
