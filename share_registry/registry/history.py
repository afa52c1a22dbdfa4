"""History of a registry: its log and its listings, now or as of any commit.

Each question is a bounded number of statements, whatever the number of commits or tasks it returns. Nothing here needs tensors, records or the store.
"""

from datetime import date
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, literal, select, true, tuple_
from sqlalchemy.orm import Session

from share_registry.catalog import queries
from share_registry.catalog.models import AliasRow, CommitRow, SpaceRow, TagRow, TaskLifeRow, TaskNameRow, TouchRow, holds
from share_registry.catalog.queries import task_of
from share_registry.errors import InvalidInput, NotFound
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version, near_misses
from share_registry.registry.commits import commits_of, moment
from share_registry.registry.moments import At, as_of, instant, number_at
from share_registry.registry.resolve import find_task, resolve, space_of
from share_registry.registry.results import Alias, AliasMove, Commit, SpaceSummary, Tag

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select

KINDS: Final = ("create", "absorb", "refit", "merge", "restore", "drop", "rename", "policy", "alias", "tag", "annotate")
"""Kinds of commits, as records name them."""
_MOST: Final = (1 << 31) - 1


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
        before: Only commits before this number, or before the commit a reference leads to: the last of a page gives the next page.

    Raises:
        InvalidInput: an unknown kind, a malformed time, a limit below 1, a bare number without a space where there are several.
        NotFound: no such space, task or commit.
    """
    if kind is not None and kind not in KINDS:
        raise InvalidInput(f"kind {kind!r} is not one of {', '.join(KINDS)}.", hint=near_misses(kind, list(KINDS)))
    if limit is not None and not (isinstance(limit, int) and 1 <= limit <= _MOST):
        raise InvalidInput(f"limit {limit!r} is not a number from 1 to {_MOST}.", hint="Give None for all; on the command line 0.")
    where = space_of(session, space) if space is not None else None
    page = _page(where, kind=kind, author=author, since=since, until=until)
    if task is not None:
        page = page.where(_about(where, task))
    if before is not None:
        page = page.where(_before(session, where, before))
    order = [CommitRow.number.desc()] if where is not None else [CommitRow.time.desc(), CommitRow.space.desc(), CommitRow.number.desc()]
    page = page.order_by(*order)
    found = commits_of(session, page if limit is None else page.limit(limit))
    if not found and task is not None:
        _check_known(session, where, task)
    return found


def show(session: Session, ref: str, *, space: str | None = None) -> Commit:
    """Return the commit that made a task version, or the one a reference of a whole space names. Raises what `resolve` raises."""
    found = resolve(session, ref, space=space)
    return commit_at(session, found.space, found.number)


def commit_at(session: Session, space: str, number: int, *, created: bool = True) -> Commit:
    """Return one commit by its number. Raises NotFound."""
    found = commits_of(session, select(CommitRow.space, CommitRow.number).where(CommitRow.space == space, CommitRow.number == number), created=created)
    if not found:
        raise NotFound(f"space {space} has no c{number}.", hint="List its commits with `log`.")
    return found[0]


def spaces(session: Session) -> list[SpaceSummary]:
    """List every space, sorted by name; only live tasks are counted."""
    alive = select(func.count()).where(TaskLifeRow.space == SpaceRow.name, TaskLifeRow.until.is_(None)).scalar_subquery()
    newest = (CommitRow.space == SpaceRow.name) & (CommitRow.number == SpaceRow.head)
    query = select(SpaceRow.table, alive.label("alive"), CommitRow.time).join(CommitRow.table, newest).order_by(SpaceRow.name)
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
            tasks=row.alive,
            commits=row.head,
            time=moment(row.time),
        )
        for row in session.execute(query)
    ]


def aliases(session: Session, *, space: str | None = None, task: str | None = None, at: At | None = None) -> list[Alias]:
    """List aliases and the versions they stand for, by space, task and name; those of dropped tasks too.

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
    named = (TaskNameRow.space == AliasRow.space) & (TaskNameRow.task == AliasRow.task) & TaskNameRow.until.is_(None)
    moved = (CommitRow.space == AliasRow.space) & (CommitRow.number == AliasRow.since)
    held = (AliasRow.space == then.c.space) & holds(AliasRow, then.c.number)
    query = (
        select(AliasRow.table, TaskNameRow.name.label("task_name"), CommitRow.time)
        .select_from(AliasRow.table)
        .join(then, held)
        .join(TaskNameRow.table, named)
        .join(CommitRow.table, moved)
    )
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


def alias_history(session: Session, task: str, alias: str, *, space: str | None = None, at: At | None = None) -> list[AliasMove]:
    """List the moves of an alias of a task, newest first.

    Args:
        session: A transaction.
        task: The task, by any name it had.
        alias: The alias.
        space: The task's space; None for the only one.
        at: Only the move that was in force at a commit, tag, date or time; none where the alias stood for nothing then.

    Raises:
        InvalidInput, NotFound, Refused: the space, task, alias or `at` leads nowhere.
    """
    where = space_of(session, space)
    found = find_task(session, where, task)
    of_task = (AliasRow.space == where) & (AliasRow.task == found.task)
    query = select(AliasRow.version, AliasRow.since, AliasRow.until).where(of_task, AliasRow.name == alias)
    rows = session.execute(query.order_by(AliasRow.since)).all()
    if not rows:
        known = sorted(session.scalars(select(AliasRow.name).where(of_task).distinct()))
        raise NotFound(f"task {where}/{found.name} never had the alias {alias!r}.", hint=near_misses(alias, known))
    if at is not None:
        number = number_at(session, where, at)
        rows = [row for row in rows if row.since <= number and (row.until is None or row.until > number)]
    steps: dict[int, int | None] = {row.until: None for row in rows if row.until is not None and at is None}
    steps |= {row.since: row.version for row in rows}
    commits = select(CommitRow.number, CommitRow.id, CommitRow.time, CommitRow.author, CommitRow.message)
    moves = session.execute(commits.where(CommitRow.space == where, _moved(of_task, alias)).order_by(CommitRow.number.desc()))
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
        for number, commit_id, text, author, message in moves
        if number in steps
    ]


def tags(session: Session, *, space: str | None = None) -> list[Tag]:
    """List the tags of a space, or of all, in the order of the commits they name. Raises NotFound for an unknown space."""
    named = (CommitRow.space == TagRow.space) & (CommitRow.number == TagRow.number)
    query = select(TagRow.name, TagRow.space, TagRow.number, CommitRow.id, CommitRow.time).join(CommitRow.table, named)
    if space is not None:
        query = query.where(TagRow.space == space_of(session, space))
    return [
        Tag(name=name, space=SpaceName(where), number=CommitNumber(number), id=Digest(commit_id), time=moment(text))
        for name, where, number, commit_id, text in session.execute(query.order_by(TagRow.space, TagRow.number, TagRow.name))
    ]


def _page(space: str | None, *, kind: str | None, author: str | None, since: str | date | None, until: str | date | None) -> "Select[str, int]":
    page = select(CommitRow.space, CommitRow.number)
    if space is not None:
        page = page.where(CommitRow.space == space)
    if kind is not None:
        page = page.where(CommitRow.kind == kind)
    if author is not None:
        page = page.where(CommitRow.author == author)
    if since is not None:
        page = page.where(CommitRow.time >= instant(since, end=False))
    if until is not None:
        page = page.where(CommitRow.time <= instant(until, end=True))
    return page


def _about(space: str | None, task: str) -> "ColumnElement[bool]":
    touched = (TouchRow.space == CommitRow.space) & (TouchRow.number == CommitRow.number)
    if space is not None:
        return select(TouchRow.task).where(touched, TouchRow.task == task_of(space, task)).exists()
    named = select(TaskNameRow.task).where(TaskNameRow.space == TouchRow.space, TaskNameRow.name == task)
    return select(TouchRow.task).where(touched, TouchRow.task.in_(named)).exists()


def _before(session: Session, space: str | None, before: int | str) -> "ColumnElement[bool]":
    if isinstance(before, int):
        if space is None and len(queries.space_names(session)) != 1:
            raise InvalidInput(f"before={before} without a space is a commit of no space.", hint="Name the space, or give a reference such as base/@c12.")
        return CommitRow.number < min(before, _MOST)
    found = resolve(session, before, space=space)
    if space is not None:
        if found.space != space:
            raise InvalidInput(f"before={before!r} is a commit of space {found.space}, the log is of {space}.", hint="Name one space in both.")
        return CommitRow.number < found.number
    anchor = select(CommitRow.time).where(CommitRow.space == found.space, CommitRow.number == found.number).scalar_subquery()
    return tuple_(CommitRow.time, CommitRow.space, CommitRow.number) < tuple_(anchor, literal(found.space), literal(found.number))


def _check_known(session: Session, space: SpaceName | None, task: str) -> None:
    """Raise NotFound where no space (None: at all) has a task of this name."""
    known = sorted(set(session.scalars(select(TaskNameRow.name).where(TaskNameRow.space == space if space is not None else true()))))
    if task not in known:
        raise NotFound(f"task {f'{space}/' if space else ''}{task} does not exist.", hint=near_misses(task, known))


def _moved(of_task: "ColumnElement[bool]", alias: str) -> "ColumnElement[bool]":
    rows = select(AliasRow.since).where(of_task, AliasRow.name == alias)
    return CommitRow.number.in_(rows) | CommitRow.number.in_(rows.with_only_columns(AliasRow.until).where(AliasRow.until.is_not(None)))
