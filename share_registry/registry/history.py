"""History of a registry: its log and its listings, now or as of any commit.

Each question is a bounded number of statements, whatever the number of commits or tasks it returns.
Nothing here needs tensors, records or the store.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, bindparam, select
from sqlalchemy.orm import Session

from share_registry.catalog import queries
from share_registry.catalog.models import (
    AliasRow,
    CommitRow,
    SpaceRow,
    TagRow,
    TaskNameRow,
    TouchRow,
)
from share_registry.catalog.queries import task_of
from share_registry.catalog.step import clean, pieces
from share_registry.errors import InvalidInput, NotFound
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version, near_misses
from share_registry.registry.commits import COLUMNS, commits_of, moment
from share_registry.registry.doors import MOST
from share_registry.registry.moments import At, as_of, first_from, instant, last_by, number_at
from share_registry.registry.resolve import find_task, resolve, space_of
from share_registry.registry.results import Alias, AliasMove, Commit, SpaceSummary, Tag

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Row, Select

_NUMBER: Final = re.compile(r"c[0-9]{1,16}")
KINDS: Final = (
    "create",
    "absorb",
    "refit",
    "merge",
    "restore",
    "drop",
    "rename",
    "policy",
    "alias",
    "tag",
    "annotate",
)
"""Kinds of commits, as records name them."""


def log(
    session: Session,
    *,
    space: str | None = None,
    task: str | None = None,
    kind: str | None = None,
    author: str | None = None,
    since: str | date | None = None,
    until: str | date | None = None,
    limit: int | None = 50,
    before: int | str | None = None,
) -> list[Commit]:
    """List commits, newest first.

    Args:
        session: A transaction.
        space: One space; None for all of them, by time.
        task: Only commits about this task, by any name it had.
        kind: Only commits of this kind.
        author: Only commits of this author.
        since: From this date (its beginning) or time.
        until: Up to this date (its end) or time.
        limit: At most so many; None for all.
        before: Only commits before this number, or before the commit a reference leads to: the last
            of a page gives the next page.

    Raises:
        InvalidInput: an unknown kind, a malformed time, a limit below 1, a bare number without a
            space where there are several.
        NotFound: no such space, task or commit.
    """
    if kind is not None and kind not in KINDS:
        raise InvalidInput(
            f"kind {kind!r} is not one of {', '.join(KINDS)}.", hint=near_misses(kind, list(KINDS))
        )
    where = space_of(session, space) if space is not None else None
    reach = _Reach(
        first=None if since is None else instant(since, end=False),
        last=None if until is None else instant(until, end=True),
        before=None if before is None else _anchor(session, where, before),
    )
    rows: list[Row[Any]] = []
    for place in [where] if where is not None else queries.space_names(session):
        rows += session.execute(
            _page(place, reach, task=task, kind=kind, author=author).limit(limit)
        )
    if where is None:
        rows = sorted(rows, key=lambda row: (row.time, row.space, row.number), reverse=True)[:limit]
    if not rows and task is not None:
        _check_known(session, where, task)
    return commits_of(session, rows)


def show(session: Session, ref: str, *, space: str | None = None) -> Commit:
    """Return the commit that made a task version, or the one a reference of a whole space names.

    Raises what `resolve` raises.
    """
    found = resolve(session, ref, space=space)
    return commit_at(session, found.space, found.number)


def commit_at(session: Session, space: str, number: int, *, created: bool = True) -> Commit:
    """Return one commit by its number. Raises NotFound."""
    rows = session.execute(_commit(), {"space": space, "number": number}).all()
    found = commits_of(session, rows, created=created)
    if not found:
        raise NotFound(f"space {space} has no c{number}.", hint="List its commits with `log`.")
    return found[0]


@cache
def _commit() -> "Select[Any]":
    return select(*COLUMNS).where(
        CommitRow.space == queries.SPACE, CommitRow.number == bindparam("number", type_=BigInteger)
    )


def spaces(session: Session) -> list[SpaceSummary]:
    """List every space, sorted by name; only live tasks are counted."""
    newest = (CommitRow.space == SpaceRow.name) & (CommitRow.number == SpaceRow.head)
    query = (
        select(SpaceRow.table, CommitRow.time).join(CommitRow.table, newest).order_by(SpaceRow.name)
    )
    return [
        SpaceSummary(
            name=SpaceName(row.name),
            base_model=row.base_model,
            base_revision=row.base_revision,
            base_labels=row.base_labels,
            budget=row.budget,
            keep_original=row.keep_original,
            references=row.references,
            refit=row.refit,
            pseudo_rank=row.pseudo_rank,
            k=row.k,
            phi=row.phi,
            tasks=row.live,
            commits=row.head,
            time=moment(row.time),
        )
        for row in session.execute(query)
    ]


def aliases(
    session: Session, *, space: str | None = None, task: str | None = None, at: At | None = None
) -> list[Alias]:
    """List aliases and the versions they stand for, by space, task and name.

    Those of dropped tasks too.

    Args:
        session: A transaction.
        space: One space; None for all, or for the only one where a task is named.
        task: Only those of this task.
        at: As of a commit, tag, date or time.

    Raises:
        InvalidInput, NotFound: the space, the task or `at` leads nowhere.
    """
    where = space_of(session, space) if space is not None or task is not None else None
    then = as_of(session, where, at)
    named = (
        (TaskNameRow.space == AliasRow.space)
        & (TaskNameRow.task == AliasRow.task)
        & TaskNameRow.until.is_(None)
    )
    moved = (CommitRow.space == AliasRow.space) & (CommitRow.number == AliasRow.since)
    query = (
        select(AliasRow.table, TaskNameRow.name.label("task_name"), CommitRow.time)
        .select_from(AliasRow.table)
        .join(TaskNameRow.table, named)
        .join(CommitRow.table, moved)
        .where(then.within(AliasRow))
    )
    if where is not None:
        query = query.where(AliasRow.space == where)
    if where is not None and task is not None:
        query = query.where(AliasRow.task == find_task(session, where, task).task)
    return [
        Alias(
            name=row.name,
            task=TaskName(row.task_name),
            version=Version(row.version),
            ref=f"{row.space}/{row.task_name}@v{row.version}",
            number=CommitNumber(row.since),
            time=moment(row.time),
        )
        for row in session.execute(query.order_by(AliasRow.space, TaskNameRow.name, AliasRow.name))
    ]


def alias_history(
    session: Session, task: str, alias: str, *, space: str | None = None, at: At | None = None
) -> list[AliasMove]:
    """List the moves of an alias of a task, newest first.

    Args:
        session: A transaction.
        task: The task, by any name it had.
        alias: The alias.
        space: The task's space; None for the only one.
        at: Only the move that was in force at a commit, tag, date or time; none where the alias
            stood for nothing then.

    Raises:
        InvalidInput, NotFound, Refused: the space, task, alias or `at` leads nowhere.
    """
    where = space_of(session, space)
    found = find_task(session, where, task)
    of_task = (AliasRow.space == where) & (AliasRow.task == found.task)
    query = select(AliasRow.version, AliasRow.since, AliasRow.until).where(
        of_task, AliasRow.name == alias
    )
    rows = session.execute(query.order_by(AliasRow.since)).all()
    if not rows:
        known = sorted(session.scalars(select(AliasRow.name).where(of_task).distinct()))
        raise NotFound(
            f"task {where}/{found.name} never had the alias {alias!r}.",
            hint=near_misses(alias, known),
        )
    if at is not None:
        number = number_at(session, where, at)
        rows = [
            row for row in rows if row.since <= number and (row.until is None or row.until > number)
        ]
    steps: dict[int, int | None] = {
        row.until: None for row in rows if row.until is not None and at is None
    }
    steps |= {row.since: row.version for row in rows}
    commits = select(
        CommitRow.number, CommitRow.id, CommitRow.time, CommitRow.author, CommitRow.message
    )
    moves = [
        row
        for piece in pieces(sorted(steps))
        for row in session.execute(
            commits.where(CommitRow.space == where, CommitRow.number.in_(piece))
        )
    ]
    return [
        AliasMove(
            name=alias,
            task=found.name,
            version=None if (version := steps[number]) is None else Version(version),
            ref=None if version is None else f"{where}/{found.name}@v{version}",
            number=CommitNumber(number),
            id=Digest(commit_id),
            time=moment(text),
            author=author,
            reason=message,
        )
        for number, commit_id, text, author, message in sorted(moves, reverse=True)
    ]


def tags(session: Session, *, space: str | None = None) -> list[Tag]:
    """List the tags of a space, or of all, in the order of the commits they name.

    Raises NotFound for an unknown space.
    """
    named = (CommitRow.space == TagRow.space) & (CommitRow.number == TagRow.number)
    query = select(TagRow.name, TagRow.space, TagRow.number, CommitRow.id, CommitRow.time).join(
        CommitRow.table, named
    )
    if space is not None:
        query = query.where(TagRow.space == space_of(session, space))
    return [
        Tag(
            name=name,
            space=SpaceName(where),
            number=CommitNumber(number),
            id=Digest(commit_id),
            time=moment(text),
        )
        for name, where, number, commit_id, text in session.execute(
            query.order_by(TagRow.space, TagRow.number, TagRow.name)
        )
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reach:
    """From where to where a log goes.

    From one time to another, and up to a commit, left out, at (space, number, time).
    """

    first: str | None
    last: str | None
    before: tuple[str | None, int, str] | None

    def within(self, space: str, number: "ColumnElement[int]") -> "Iterator[ColumnElement[bool]]":
        """Yield the conditions on the number of a commit of a space.

        Its times never go back, so that each end is a number.
        """
        if self.first is not None:
            yield number >= first_from(space, self.first)
        if self.last is not None:
            yield number <= last_by(space, self.last)
        if self.before is not None:
            anchor, before, time = self.before
            yield (
                number < before
                if anchor in (space, None)
                else number <= last_by(space, time, strictly=space > str(anchor))
            )


def _page(
    space: str, reach: _Reach, *, task: str | None, kind: str | None, author: str | None
) -> "Select[Any]":
    """Return what selects the commits of a space, newest first, out of the index that leads to them."""
    page, number = select(*COLUMNS).where(CommitRow.space == space), CommitRow.number
    if task is not None:
        number = TouchRow.number
        page = page.join(TouchRow.table, CommitRow.number == number).where(
            TouchRow.space == space, TouchRow.task == task_of(space, task)
        )
    if kind is not None:
        page = page.where(CommitRow.kind == kind)
    if author is not None:
        page = page.where(CommitRow.author == clean(author))
    return page.where(*reach.within(space, number)).order_by(number.desc())


def _anchor(session: Session, space: str | None, before: int | str) -> tuple[str | None, int, str]:
    """Return space (None: the only one), number and time of the commit that a page ends before."""
    if isinstance(before, int):
        if space is None and len(queries.space_names(session)) != 1:
            raise InvalidInput(
                f"before={before} without a space is a commit of no space.",
                hint="Name the space, or give a reference such as base/@c12.",
            )
        return None, min(before, MOST), ""
    found = resolve(session, f"@{before}" if _NUMBER.fullmatch(before) else before, space=space)
    if space is not None and found.space != space:
        raise InvalidInput(
            f"before={before!r} is a commit of space {found.space}, the log is of {space}.",
            hint="Name one space in both.",
        )
    time = session.scalars(
        select(CommitRow.time).where(
            CommitRow.space == found.space, CommitRow.number == found.number
        )
    ).one()
    return found.space, found.number, time


def _check_known(session: Session, space: SpaceName | None, task: str) -> None:
    """Raise NotFound where no space (None: at all) has a task of this name."""
    names = select(TaskNameRow.name).where(
        TaskNameRow.space.in_([space] if space is not None else queries.space_names(session))
    )
    if session.scalars(names.where(TaskNameRow.name == task).limit(1)).one_or_none() is None:
        raise NotFound(
            f"task {f'{space}/' if space else ''}{task} does not exist.",
            hint=near_misses(task, sorted(set(session.scalars(names)))),
        )
