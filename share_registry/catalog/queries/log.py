"""History of a registry: its log and its listings, now or as of any commit.

Each question is a bounded number of statements, whatever the number of commits or tasks it returns.
Nothing here needs tensors, records or the store.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final, TypeAlias

from sqlalchemy import BigInteger, ColumnElement, Row, Select, bindparam, select

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.as_of import first_from, instant, last_by
from share_registry.catalog.queries.commit_rows import (
    COLUMNS,
    annotations_of,
    commits_of,
    with_ancestry,
)
from share_registry.catalog.queries.named_tasks import find_task, spaces_in_scope, spaces_of_task
from share_registry.catalog.queries.resolution import resolve
from share_registry.catalog.sql import PIECE, Session, clean
from share_registry.catalog.tables import (
    AliasRow,
    CommitRow,
    LabelRow,
    MetricRow,
    TouchRow,
    task_of,
)
from share_registry.errors import InvalidInputError, NotFoundError, ensure
from share_registry.names import SpaceName, close_names, near_misses, split_task
from share_registry.values.commits import KINDS, Commit
from share_registry.values.conditions import Condition, conditions_of, have_labels
from share_registry.values.references import ResolvedReference

# Space (None: the only one), number and time of the commit that ends a page, left out
_Anchor: TypeAlias = tuple[str | None, int, str]
_NUMBER: Final = re.compile(r"c[0-9]{1,16}")
_COMMIT: Final = select(*COLUMNS).where(
    CommitRow.space == lookups.SPACE, CommitRow.number == bindparam("number", type_=BigInteger)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """Which commits are listed.

    Attributes:
        space: One space; None for all of them, by time.
        task: Only commits about this task, `[space/]task`, by any name it had.
        kind: Only commits of this kind.
        author: Only commits of this author.
        labels: Only commits that gave a version these labels; values may be patterns.
        metric: Only commits that recorded such a metric: `acc`, or `acc>0.8`.
        since: From this date (its beginning) or time.
        until: Up to this date (its end) or time.
        limit: At most so many; None for all.
        before: Only commits before this number, or before the one a reference leads to, or before
            this very commit: the last of a page gives the next page.
        ancestry: Whether the commits say what they build on.
    """

    space: str | None = None
    task: str | None = None
    kind: str | None = None
    author: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    metric: str | None = None
    since: str | date | None = None
    until: str | date | None = None
    limit: int | None = 50
    before: int | str | Commit | ResolvedReference | None = None
    ancestry: bool = False


def log(session: Session, query: LogQuery) -> list[Commit]:
    """List commits, newest first; those of a task say so (`Commit.about`).

    Raises:
        InvalidInputError: an unknown kind, a malformed time, a limit below 1, a bare number without
            a space where there are several.
        NotFoundError: no such space, task or commit.
        FormatError: a later release has added commits, and `before` does not ask for earlier ones.
    """
    if query.kind is not None and query.kind not in KINDS:
        raise InvalidInputError(
            f"kind {query.kind!r} is not one of {', '.join(KINDS)}.",
            hint=near_misses(query.kind, KINDS)
            if close_names(query.kind, KINDS)
            else "A commit of an adapter is of kind absorb.",
        )
    named, task = (None, None) if query.task is None else split_task(query.task)
    query = replace(query, task=task)
    spaces = spaces_in_scope(session, named or query.space)
    space = spaces[0] if len(spaces) == 1 else None
    first = None if query.since is None else instant(query.since, end=False)
    last = None if query.until is None else instant(query.until, end=True)
    if query.before is None:
        # the first of the list would pass for the newest
        lookups.require_newest(session, space)
    anchor = None if query.before is None else _anchor(session, space, query.before)
    rows: list[Row[Any]] = []
    conditions = () if query.metric is None else conditions_of(query.metric)
    for name in spaces:
        page = _page(name, query, first, last, anchor)
        rows += _fitting(session, page, query, conditions)
    if len(spaces) > 1:
        rows.sort(key=lambda row: (row.time, row.space, row.number), reverse=True)
    if not rows and query.task is not None:
        _check_task(session, space, query.task)
    commits = commits_of(session, rows[: query.limit])
    if query.ancestry:
        commits = with_ancestry(session, commits)
    if query.task is None:
        return commits
    names = {
        where: lookups.current_name(session, where, query.task)
        for where in {commit.space for commit in commits}
    }
    return [replace(commit, about=names[commit.space]) for commit in commits]


def show(session: Session, ref: str, *, space: str | None = None) -> Commit:
    """Return the commit that made a task version, or the one a reference of a whole space names.

    A version has the labels and metrics that it has now. Raises what `resolve` raises.
    """
    target = resolve(session, ref, space=space)
    commit = commit_at(session, target.space, target.number)
    if target.task in commit.refs:
        commit = replace(commit, about=target.task)
        metrics = session.execute(_annotations_now(MetricRow, commit))
        commit = replace(
            commit,
            labels=dict(sorted(session.execute(_annotations_now(LabelRow, commit)))),
            metrics={name: float(value) for name, value in sorted(metrics)},
        )
    if commit.task is None:
        return commit
    aliases = session.scalars(select(AliasRow.name).where(_is_now(AliasRow, commit)))
    return replace(commit, aliases=tuple(sorted(aliases)))


def commit_at(session: Session, space: str, number: int, *, created: bool = True) -> Commit:
    """Return one commit by its number. Raises NotFoundError."""
    rows = session.execute(_COMMIT, {"space": space, "number": number}).all()
    ensure(
        rows,
        NotFoundError(
            f"space {space} has no c{number}.", hint=f"List its commits: log(space={space!r})."
        ),
    )
    return commits_of(session, rows, created=created)[0]


def _page(
    space: str, query: LogQuery, first: str | None, last: str | None, anchor: _Anchor | None
) -> Select[Any]:
    """Return what selects the commits of a space, newest first, out of the index to them.

    From the first time to the last: as times of a space never go back, each end is a number.
    """
    page, number = select(*COLUMNS).where(CommitRow.space == space), CommitRow.number
    if query.task is not None:
        number = TouchRow.number
        of_task = (TouchRow.space == space) & (TouchRow.task == task_of(space, query.task))
        page = page.join(TouchRow.table, CommitRow.number == number).where(of_task)
    if query.kind is not None:
        page = page.where(CommitRow.kind == query.kind)
    if query.author is not None:
        page = page.where(CommitRow.author == clean(query.author))
    if first is not None:
        page = page.where(number >= first_from(space, first))
    if last is not None:
        page = page.where(number <= last_by(space, last))
    if anchor is not None:
        of, before, time = anchor
        page = page.where(
            number < before
            if of in (space, None)
            else number <= last_by(space, time, strictly=space > str(of))
        )
    return page.order_by(number.desc()).limit(query.limit)


def _fitting(
    session: Session, page: Select[Any], query: LogQuery, conditions: Sequence[Condition]
) -> Sequence[Row[Any]]:
    """Return the commits of a page that have the labels and metrics asked for, some at a time."""
    if not query.labels and not conditions:
        return session.execute(page).all()
    fitting: list[Row[Any]] = []
    for rows in session.execute(page.limit(None)).partitions(PIECE):
        fitting += [
            row
            for row, by_task in zip(rows, annotations_of(session, rows), strict=True)
            if any(
                have_labels(labels, query.labels)
                and all(condition.holds(metrics) for condition in conditions)
                for labels, metrics in by_task
            )
        ]
        if query.limit is not None and len(fitting) >= query.limit:
            break
    return fitting


def _anchor(
    session: Session, space: str | None, before: int | str | Commit | ResolvedReference
) -> _Anchor:
    if isinstance(before, Commit | ResolvedReference):
        # the commit itself: what it speaks of may have been made by an earlier one
        before = f"{before.space}/@c{before.number}"
    if isinstance(before, int):
        spaces = lookups.space_names(session)
        ensure(
            space is not None or len(spaces) == 1,
            InvalidInputError(
                f"before {before}: without a space that is a commit of no space.",
                hint="Name the space, or give a reference such as base/@c12.",
            ),
        )
        before = f"{space or spaces[0]}/@c{before}"
    anchor = resolve(session, f"@{before}" if _NUMBER.fullmatch(before) else before, space=space)
    ensure(
        space in (None, anchor.space),
        InvalidInputError(
            f"before {before!r}: that is a commit of space {anchor.space}, the log is of {space}.",
            hint="Name one space in both.",
        ),
    )
    row = session.execute(_COMMIT, {"space": anchor.space, "number": anchor.number}).one()
    return anchor.space, anchor.number, row.time


def _annotations_now(row: type[LabelRow | MetricRow], commit: Commit) -> Select[str, str]:
    return select(row.name, row.value).where(_is_now(row, commit))


def _is_now(row: type[AliasRow | LabelRow | MetricRow], commit: Commit) -> ColumnElement[bool]:
    """Return the condition that a row is of the version of a commit, and in force."""
    return (
        (row.space == commit.space)
        & (row.task == task_of(commit.space, str(commit.task)))
        & (row.version == commit.version)
        & row.until.is_(None)
    )


def _check_task(session: Session, space: SpaceName | None, task: str) -> None:
    if space is None:
        spaces_of_task(session, task)
    else:
        find_task(session, space, task)
