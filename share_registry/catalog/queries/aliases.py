"""Spaces, aliases and tags as they stand now, or stood at any commit."""

from datetime import datetime
from typing import Any, Final, TypeAlias

from sqlalchemy import Select, func, select

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.as_of import At, as_of, number_at
from share_registry.catalog.queries.named_tasks import FoundTask, find_named_task, space_of
from share_registry.catalog.queries.resolution import alias_rows
from share_registry.catalog.sql import Session, pieces
from share_registry.catalog.tables import (
    AliasRow,
    CommitRow,
    SpaceRow,
    TagRow,
    TaskNameRow,
    is_commit_of,
    names_task_of,
)
from share_registry.errors import NotFoundError
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version, near_misses
from share_registry.values.references import Alias, AliasMove, Tag
from share_registry.values.tasks import SpaceSummary

_ALIASES: Final = (
    select(AliasRow.table, TaskNameRow.name.label("task_name"), CommitRow.time)
    .select_from(AliasRow.table)
    .join(TaskNameRow.table, names_task_of(AliasRow))
    .join(CommitRow.table, is_commit_of(AliasRow, AliasRow.since))
)
# By alias and commit: the version that the alias then got, None where it was removed
_Targets: TypeAlias = dict[tuple[str, int], Version | None]


def spaces(session: Session) -> list[SpaceSummary]:
    """List every space, sorted by name; only live tasks are counted. Raises FormatError."""
    lookups.require_newest(session, None)
    return _summaries(session)


def sound_spaces(session: Session) -> list[SpaceSummary]:
    """List the spaces whose newest state is known, as `spaces`."""
    unknown = lookups.unknown_newest(session)
    return [space for space in _summaries(session) if space.name not in unknown]


def space_summary(session: Session, name: str) -> SpaceSummary:
    """Return one space. Raises InvalidInputError, NotFoundError, FormatError."""
    space = space_of(session, name)
    lookups.require_newest(session, space)
    return _summaries(session, name=space)[0]


def space_as_known(session: Session, name: SpaceName) -> SpaceSummary:
    """Return a space as the last commit that is known left it, newest or not."""
    return _summaries(session, name=name)[0]


def _summaries(session: Session, *, name: SpaceName | None = None) -> list[SpaceSummary]:
    query = select(SpaceRow.table, CommitRow.time).join(
        CommitRow.table, (CommitRow.space == SpaceRow.name) & (CommitRow.number == SpaceRow.head)
    )
    if name is not None:
        query = query.where(SpaceRow.name == name)
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
            max_dependents=row.max_dependents,
            require=row.require,
            tasks=row.live,
            commits=row.head,
            time=datetime.fromisoformat(row.time),
            bytes_added=row.added_bytes,
            raw_bytes=row.raw_bytes,
        )
        for row in session.execute(query.order_by(SpaceRow.name))
    ]


def aliases(
    session: Session, *, space: str | None = None, task: str | None = None, at: At | None = None
) -> list[Alias]:
    """List aliases and the versions they stand for, by space, task and name.

    Those of dropped tasks too.

    Args:
        session: A transaction.
        space: One space; None for all.
        task: Only those of this task, `[space/]task`.
        at: As of a commit, tag, date or time.

    Raises:
        InvalidInputError, NotFoundError: the space, the task or `at` leads nowhere.
    """
    where, of_task = None, None
    if task is not None:
        where, of_task = find_named_task(session, task, space=space)
    elif space is not None:
        where = space_of(session, space)
    query = _ALIASES.where(as_of(session, where, at).within(AliasRow))
    if where is not None:
        query = query.where(AliasRow.space == where)
    if of_task is not None:
        query = query.where(AliasRow.task == of_task.task)
    return _listed(session, query)


def aliases_as_known(session: Session, name: str) -> list[Alias]:
    """List the aliases of a name, of every space as the last commit that is known left it."""
    return _listed(session, _ALIASES.where(AliasRow.name == name, AliasRow.until.is_(None)))


def _listed(session: Session, query: Select[Any]) -> list[Alias]:
    return [
        Alias(
            name=row.name,
            task=TaskName(row.task_name),
            version=Version(row.version),
            ref=f"{row.space}/{row.task_name}@v{row.version}",
            number=CommitNumber(row.since),
            time=datetime.fromisoformat(row.time),
        )
        for row in session.execute(query.order_by(AliasRow.space, TaskNameRow.name, AliasRow.name))
    ]


def alias_history(
    session: Session, task: str, alias: str, *, space: str | None = None, at: At | None = None
) -> list[AliasMove]:
    """List the moves of an alias of a task, newest first.

    Args:
        session: A transaction.
        task: The task, `[space/]task`, by any name it had.
        alias: The alias.
        space: The space of a task that names none; None for the only one, or the only one with it.
        at: Only the move that was in force at a commit, tag, date or time; none where the alias
            stood for nothing then.

    Raises:
        InvalidInputError, NotFoundError, RefusedError: the space, task, alias or `at` leads
            nowhere.
    """
    where, of_task = find_named_task(session, task, space=space)
    rows = alias_rows(session, where, of_task, alias)
    if not rows:
        names = select(AliasRow.name).where(AliasRow.space == where, AliasRow.task == of_task.task)
        raise NotFoundError(
            f"task {where}/{of_task.name} never had the alias {alias!r}.",
            hint=near_misses(alias, sorted(set(session.scalars(names)))),
        )
    targets: _Targets = {}
    if at is None:
        lookups.require_newest(session, where)
        targets = {(alias, row.until): None for row in rows if row.until is not None}
    else:
        number = number_at(session, where, at)
        rows = [
            row for row in rows if row.since <= number and (row.until is None or row.until > number)
        ]
    targets |= {(alias, row.since): Version(row.version) for row in rows}
    return _moves(session, where, of_task, targets)


def moves_of_all(
    session: Session, space: SpaceName, task: FoundTask, *, limit: int
) -> list[AliasMove]:
    """List the moves of all aliases of a task, newest first, at most so many."""
    of_task = (AliasRow.space == space) & (AliasRow.task == task.task)
    last = func.coalesce(AliasRow.until, AliasRow.since)
    # a move ends one row and begins another, which comes first
    newest = (last.desc(), AliasRow.since.desc())
    query = select(AliasRow.table).where(of_task).order_by(*newest).limit(2 * limit)
    rows = session.execute(query).all()
    targets: _Targets = {(row.name, row.until): None for row in rows if row.until is not None}
    targets |= {(row.name, row.since): Version(row.version) for row in rows}
    return _moves(session, space, task, targets)[:limit]


def _moves(
    session: Session, space: SpaceName, task: FoundTask, targets: _Targets
) -> list[AliasMove]:
    """Return moves, newest first, with the commits that made them."""
    query = select(CommitRow.table).where(CommitRow.space == space)
    commits = {
        row.number: row
        for piece in pieces(sorted({number for _, number in targets}))
        for row in session.execute(query.where(CommitRow.number.in_(piece)))
    }
    moves = (
        AliasMove(
            name=alias,
            task=task.name,
            version=version,
            ref=None if version is None else f"{space}/{task.name}@v{version}",
            number=CommitNumber(number),
            id=Digest((row := commits[number]).id),
            time=datetime.fromisoformat(row.time),
            author=row.author,
            reason=row.message,
        )
        for (alias, number), version in sorted(targets.items())
    )
    return sorted(moves, key=lambda move: move.number, reverse=True)


def tags(session: Session, *, space: str | None = None) -> list[Tag]:
    """List the tags of a space, or of all, in the order of the commits they name.

    Raises NotFoundError for an unknown space, FormatError.
    """
    lookups.require_newest(session, space)
    query = (
        select(TagRow.table, CommitRow.id, CommitRow.time)
        .join(CommitRow.table, is_commit_of(TagRow, TagRow.number))
        .order_by(TagRow.space, TagRow.number, TagRow.name)
    )
    if space is not None:
        query = query.where(TagRow.space == space_of(session, space))
    return [
        Tag(
            name=row.name,
            space=SpaceName(row.space),
            number=CommitNumber(row.number),
            id=Digest(row.id),
            time=datetime.fromisoformat(row.time),
        )
        for row in session.execute(query)
    ]
