"""Listing of tasks, now or as of any commit.

One state of each space, the newest version of each task that is live in it.

A page begins behind a name and is found along the names, some of them at a time: what it costs does
not depend on how many tasks or versions there are.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, and_, bindparam, case, false, func, null, select, true
from sqlalchemy.orm import Session

from share_registry.catalog import queries
from share_registry.catalog.models import (
    TEXT,
    AliasRow,
    CommitRow,
    LabelRow,
    MetricRow,
    TaskLifeRow,
    TaskNameRow,
    VersionRow,
)
from share_registry.catalog.step import clean, pieces
from share_registry.errors import InvalidInput
from share_registry.names import CommitNumber, SpaceName, TaskName, Version, parse_reference
from share_registry.registry.commits import moment
from share_registry.registry.moments import At, Then, as_of
from share_registry.registry.resolve import space_of
from share_registry.registry.results import Task

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Row, Select

_VERSIONS: Final = VersionRow.table.alias()
"""The versions of a task among which the newest is looked for."""
_AT_ONCE: Final = 500
"""Tasks that are looked at together where the first did not give a page."""
_FEW: Final = 500
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
        after: Only tasks behind this name (`space/task` where no space is named): the last of a
            page gives the next page.

    Raises:
        InvalidInput, NotFound: the space or `at` leads nowhere, or `limit` or `after` is malformed.
    """
    where = space_of(session, space) if space is not None else None
    then = as_of(session, where, at)
    last = ("", "") if after is None else _place(after, where)
    wanted = _Wanted(
        labels={clean(label): clean(value) for label, value in (labels or {}).items()},
        alias=alias,
        name=name,
    )
    found: list[Task] = []
    for place in [where] if where is not None else queries.space_names(session):
        if place >= last[0] and (limit is None or len(found) < limit):
            found += _page(
                session,
                place,
                then,
                wanted,
                last[1] if place == last[0] else "",
                None if limit is None else limit - len(found),
            )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """Which tasks are listed: those with these labels and this alias, of a name that fits."""

    labels: Mapping[str, str]
    alias: str | None
    name: str | None

    def fits(self, name: str) -> bool:
        """Tell whether a task's name fits."""
        return self.name is None or fnmatchcase(name, self.name)


def _page(
    session: Session, space: str, then: Then, wanted: _Wanted, after: str, limit: int | None
) -> list[Task]:
    """Return the tasks of a space that are wanted behind a name, at most so many."""
    names: dict[int, str] = {}
    for some in _names(session, space, then, wanted, after, limit):
        names |= {task: name for task, name in some if wanted.fits(name)}
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
    session: Session, space: str, then: Then, wanted: _Wanted, after: str, limit: int | None
) -> "Iterator[Sequence[Row[int, str]]]":
    """Yield the tasks behind a name that are live and have the labels and the alias, with their names and in the order of these, some at a time.

    They are found along all names, or among those that ever had a label or the alias, where these
    are few: by a sum of text, which no index has.
    """
    bearers = _few_bearers(session, space, wanted)
    name = TaskNameRow.name if bearers is None else TaskNameRow.name.concat("")
    query = select(TaskNameRow.task, TaskNameRow.name).where(
        TaskNameRow.space == space, TaskNameRow.until.is_(None), _is_wanted(then, wanted)
    )
    if bearers is not None:
        query = query.where(TaskNameRow.task.in_(bearers))
    query = (
        query.where(name > bindparam("after", type_=TEXT))
        .order_by(name)
        .limit(bindparam("size", type_=BigInteger))
    )
    size = queries.EVER if limit is None else limit
    while True:
        rows = list(session.execute(query, {"after": after, "size": size}))
        yield rows
        if len(rows) < size:
            return
        after, size = rows[-1].name, max(size, _AT_ONCE)


def _is_wanted(then: Then, wanted: _Wanted) -> "ColumnElement[bool]":
    """Return whether a named task is live then and has the labels at its newest version and the alias.

    As a case it is asked of one name after another, until there are as many as asked for: a
    database would rather begin with everything that has the label.
    """
    asked = [
        select(TaskLifeRow.task).where(_of_task(TaskLifeRow), then.within(TaskLifeRow)).exists()
    ]
    for name, value in wanted.labels.items():
        said = (
            (LabelRow.name == name)
            & (LabelRow.value == value)
            & (LabelRow.version == _newest(then))
        )
        asked.append(
            select(LabelRow.task).where(_of_task(LabelRow), then.within(LabelRow), said).exists()
        )
    if wanted.alias is not None:
        asked.append(
            select(AliasRow.task)
            .where(_of_task(AliasRow), then.within(AliasRow), AliasRow.name == wanted.alias)
            .exists()
        )
    return case((and_(*asked), true()), else_=false())


def _few_bearers(session: Session, space: str, wanted: _Wanted) -> "Select[int] | None":
    """Return what selects the tasks that ever had one of the labels or the alias, where they are few."""
    asked = [
        select(LabelRow.task).where(
            LabelRow.space == space, LabelRow.name == name, LabelRow.value == value
        )
        for name, value in wanted.labels.items()
    ]
    if wanted.alias is not None:
        asked.append(
            select(AliasRow.task).where(AliasRow.space == space, AliasRow.name == wanted.alias)
        )
    for query in asked:
        if session.scalar(query.distinct().limit(1).offset(_FEW)) is None:
            return query
    return None


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


def _place(after: str, space: str | None) -> tuple[str, str]:
    """Return space and name behind which a page begins. Raises InvalidInput."""
    asked = parse_reference(after)
    place = asked.space if asked.space is not None else space
    if asked.task is None or place is None or space not in (None, place):
        raise InvalidInput(
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
