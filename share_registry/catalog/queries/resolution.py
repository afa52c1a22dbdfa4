"""From a reference to the task version or the state that it means (spec REF-01 to REF-09).

The grammar is in `names`; which space and task a name means is in `named_tasks`, which commit a
selector means in `commit_selectors`. A task is printed under its present name.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

from sqlalchemy import BigInteger, BindParameter, Row, bindparam, func, select

from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.queries.commit_selectors import commit_of_selector, state_of
from share_registry.catalog.queries.named_tasks import FoundTask, find_task, space_of_reference
from share_registry.catalog.sql import Session, pieces
from share_registry.catalog.tables import (
    AliasRow,
    CommitRow,
    TaskLifeRow,
    VersionRow,
    holds,
    is_commit_of,
)
from share_registry.errors import InvalidInputError, NotFoundError, ensure
from share_registry.look.units import count
from share_registry.names import (
    CommitNumber,
    Digest,
    Reference,
    Selector,
    SpaceName,
    Version,
    parse_reference,
)
from share_registry.values.references import ResolvedReference
from share_registry.values.task_version import TaskVersion

_TASK: Final[BindParameter[int]] = bindparam("task_number", type_=BigInteger)
_AT: Final[BindParameter[int]] = bindparam("at", type_=BigInteger)
# Selectors that are answered for many references at once
_USUAL: Final = frozenset({Selector.LATEST, Selector.VERSION, Selector.NAME})
_LIFE: Final = select(TaskLifeRow.since).where(
    TaskLifeRow.space == lookups.SPACE, TaskLifeRow.task == _TASK, holds(TaskLifeRow, _AT)
)
_LAST_VERSION: Final = (
    select(VersionRow.version)
    .where(VersionRow.space == lookups.SPACE, VersionRow.task == _TASK, VersionRow.number <= _AT)
    .order_by(VersionRow.number.desc())
    .limit(1)
)
_COMMITS_OF_VERSIONS: Final = (
    select(VersionRow.version, CommitRow.number, CommitRow.id)
    .join_from(VersionRow.table, CommitRow.table, is_commit_of(VersionRow, VersionRow.number))
    .where(VersionRow.space == lookups.SPACE, VersionRow.task == _TASK)
)
_COMMIT_OF_VERSION: Final = _COMMITS_OF_VERSIONS.where(VersionRow.version == lookups.VERSION)
_DROPPED: Final = select(func.max(TaskLifeRow.until)).where(
    TaskLifeRow.space == lookups.SPACE, TaskLifeRow.task == _TASK, TaskLifeRow.until <= _AT
)
# The newest version of a task at a commit, if the task was live then
_STANDING: Final = (
    _COMMITS_OF_VERSIONS.where(VersionRow.number <= _AT, _LIFE.exists())
    .order_by(VersionRow.number.desc())
    .limit(1)
)


def resolve(
    session: Session, ref: str | Reference, *, space: str | None = None
) -> ResolvedReference:
    """Resolve a reference.

    Args:
        session: A transaction.
        ref: What was typed, or a reference parsed before.
        space: The space of a reference that names none; None for the only one, or the only one
            with its task.

    Raises:
        InvalidInputError: malformed, an ambiguous commit id, or a version of a whole space.
        NotFoundError: it names something that is not there, or was dropped.
        FormatError: what it names may have been changed by a later release.
        RefusedError: no space is named, there are several, and more than one has the task.
    """
    asked = parse_reference(ref) if isinstance(ref, str) else ref
    where = space_of_reference(session, asked, space)
    try:
        if asked.task is None:
            return state_of(session, where, asked)
        return _of_task(session, where, asked, find_task(session, where, asked.task))
    except NotFoundError:
        # it may be in what a later release has added
        lookups.require_newest(session, where)
        raise


def resolve_version(
    session: Session, ref: str | Reference, *, space: str | None = None
) -> ResolvedReference:
    """Resolve a reference of a task version.

    Raises InvalidInputError for one of a whole space, and what `resolve` raises.
    """
    target = resolve(session, ref, space=space)
    ensure(
        target.task is not None,
        InvalidInputError(
            f"{target.ref} is a whole space, expected a version of a task.",
            hint="Name the task: cola@c412.",
        ),
    )
    return target


def version_of(session: Session, ref: str | Reference, *, space: str | None = None) -> TaskVersion:
    """Return the task version that a reference names.

    The newest and a numbered one take one statement. Raises what `resolve_version` raises.
    """
    asked = parse_reference(ref) if isinstance(ref, str) else ref
    row = _plain_version(session, asked, space)
    if row is None:
        target = resolve_version(session, asked, space=space)
        row = version_lookups.version_row(
            session, target.space, str(target.task), target.version or 0
        )
        if row is None:
            raise NotFoundError(
                f"{target.ref} is not in the catalog.", hint="Run `share-registry rebuild`."
            )
    return row


def _plain_version(session: Session, asked: Reference, space: str | None) -> TaskVersion | None:
    """Return the version of a reference that names the newest or a numbered one, if it is there."""
    is_plain = asked.selector in (Selector.LATEST, Selector.VERSION) and not asked.back
    if asked.task is None or not is_plain:
        return None
    where = space_of_reference(session, asked, space)
    if asked.selector is Selector.VERSION:
        return version_lookups.version_row(session, where, asked.task, int(asked.value))
    lookups.require_newest(session, where)
    newest = version_lookups.latest_version(session, where, asked.task)
    return newest if newest is not None and newest.live else None


def versions_of(
    session: Session, refs: Iterable[str], *, space: str | None
) -> dict[str, TaskVersion]:
    """Return the task version that each reference means now. Raises as `resolve_version`."""
    asked = {ref: parse_reference(ref) for ref in refs}
    spaces = lookups.space_names(session)
    default = spaces[0] if space is None and len(spaces) == 1 else space
    by_space: dict[str, list[Reference]] = defaultdict(list)
    for reference in asked.values():
        where = reference.space if reference.space is not None else default
        is_usual = reference.selector in _USUAL and not reference.back
        if where in spaces and reference.task is not None and is_usual:
            if reference.selector is not Selector.VERSION:
                lookups.require_newest(session, where)
            by_space[where].append(reference)
    versions: dict[str, TaskVersion] = {}
    for where, references in by_space.items():
        versions |= _usual_versions(session, where, references)
    return {
        ref: versions[ref] if ref in versions else version_of(session, reference, space=space)
        for ref, reference in asked.items()
    }


def resolve_task(session: Session, text: str, *, space: str | None = None) -> ResolvedReference:
    """Return the newest version of a task, live or dropped.

    Raises InvalidInputError where the text says more than a task, NotFoundError.
    """
    asked = parse_reference(text)
    if asked.task is None or asked.selector is not Selector.LATEST or asked.back:
        raise InvalidInputError(
            f"{text!r} is not the name of a task.",
            hint=f"Give the name alone: {asked.task or '[space/]task'}.",
        )
    where = space_of_reference(session, asked, space)
    lookups.require_newest(session, where)
    task = find_task(session, where, asked.task)
    return _version(session, where, task, _newest(session, where, task, None), asked)


def alias_rows(
    session: Session, space: SpaceName, task: FoundTask, alias: str
) -> Sequence[Row[int, int, int | None]]:
    """Return (version, since, until) of what an alias of a task stood for, in order of `since`."""
    return session.execute(
        select(AliasRow.version, AliasRow.since, AliasRow.until)
        .where(AliasRow.space == space, AliasRow.task == task.task, AliasRow.name == alias)
        .order_by(AliasRow.since)
    ).all()


def alias_version(
    rows: Sequence[Row[int, int, int | None]], space: SpaceName, task: FoundTask, asked: Reference
) -> int:
    """Return the version an alias stands for, or stood for so many distinct targets ago.

    Args:
        rows: What `alias_rows` returns. Where the last has ended, the alias is removed: that counts
            as its present target.
        space: The space.
        task: The task.
        asked: The reference.

    Raises:
        NotFoundError: it is removed, or has not had so many targets.
    """
    removed: list[int | None] = [] if rows[-1][2] is None else [None]
    targets = removed + [version for version, _ in groupby(row[0] for row in reversed(rows))]
    if asked.back >= len(targets):
        past = sum(target is not None for target in targets)
        raise NotFoundError(
            f"{asked.text!r}: alias {asked.value!r} of {space}/{task.name} has had "
            f"{count(past, 'target')}.",
            hint=f"List them: alias_history('{space}/{task.name}', {asked.value!r}).",
        )
    target = targets[asked.back]
    if target is None:
        raise NotFoundError(
            f"alias {asked.value!r} of {space}/{task.name} was removed in c{rows[-1][2]}.",
            hint=f"It was at v{rows[-1][0]}: {task.name}@{asked.value}~1.",
        )
    return target


def _of_task(
    session: Session, space: SpaceName, asked: Reference, task: FoundTask
) -> ResolvedReference:
    if asked.selector is Selector.VERSION:
        return _version(session, space, task, int(asked.value) - asked.back, asked)
    if asked.selector is Selector.NAME and (rows := alias_rows(session, space, task, asked.value)):
        lookups.require_newest(session, space)
        return _version(session, space, task, alias_version(rows, space, task, asked), asked)
    number = None
    if asked.selector is Selector.LATEST:
        lookups.require_newest(session, space)
    else:
        number = commit_of_selector(session, space, asked, task)
    row = session.execute(_STANDING, _place(space, task, number)).one_or_none()
    if row is None or asked.back:
        _check_live(session, space, task, number)
        version = _newest(session, space, task, number) - asked.back
        return _version(session, space, task, version, asked)
    return _resolved(space, task, *row)


def _place(space: SpaceName, task: FoundTask, number: int | None) -> dict[str, object]:
    at = lookups.EVER if number is None else number
    return {"space": space, "task_number": task.task, "at": at}


def _check_live(session: Session, space: SpaceName, task: FoundTask, number: int | None) -> None:
    """Raise NotFoundError where a task was dropped by a commit (None: by now)."""
    place = _place(space, task, number)
    if session.scalar(_LIFE, place) is not None:
        return
    dropped = session.scalar(_DROPPED, place)
    if dropped is not None:
        newest = version_lookups.latest_version(session, space, task.name, at=dropped)
        is_removed = newest is None or newest.removed is not None
        ref = "" if newest is None else newest.ref
        raise NotFoundError(
            f"task {space}/{task.name} was dropped in c{dropped}.",
            hint="Its newest version was removed too: commit it again."
            if is_removed
            else f"Its versions stay: {ref}; restore({ref!r}) brings it back.",
        )


def _newest(session: Session, space: SpaceName, task: FoundTask, number: int | None) -> int:
    """Return the newest version of a task at a commit (None: now).

    Raises NotFoundError where it had none yet.
    """
    version = session.scalar(_LAST_VERSION, _place(space, task, number))
    if version is None:
        first = session.scalar(
            select(func.min(VersionRow.number)).where(
                VersionRow.space == space, VersionRow.task == task.task
            )
        )
        raise NotFoundError(
            f"task {space}/{task.name} did not exist at c{number}; it begins with c{first}.",
            hint=f"Ask for c{first} or later.",
        )
    return version


def _version(
    session: Session, space: SpaceName, task: FoundTask, version: int, asked: Reference
) -> ResolvedReference:
    row = session.execute(
        _COMMIT_OF_VERSION, {"space": space, "task_number": task.task, "version": version}
    ).one_or_none()
    if row is not None:
        return _resolved(space, task, *row)
    newest = _newest(session, space, task, None)
    reason = f"has no v{version}, its versions are v1 to v{newest}"
    if asked.back:
        reason = f"has {count(newest, 'version')}, so there is none so far back"
    raise NotFoundError(
        f"{asked.text!r}: task {space}/{task.name} {reason}.",
        hint=f"List them: log(task='{space}/{task.name}').",
    )


def _resolved(
    space: SpaceName, task: FoundTask, version: int, number: int, commit_id: str
) -> ResolvedReference:
    return ResolvedReference(
        ref=f"{space}/{task.name}@v{version}",
        space=space,
        number=CommitNumber(number),
        id=Digest(commit_id),
        task=task.name,
        version=Version(version),
    )


def _usual_versions(
    session: Session, space: str, references: Sequence[Reference]
) -> dict[str, TaskVersion]:
    """Return the versions that no date, tag or drop has to be looked up for, by reference."""
    named = {str(reference.task) for reference in references}
    tasks = lookups.task_numbers(session, space, named)
    aliases = sorted({ref.value for ref in references if ref.selector is Selector.NAME})
    standing = select(AliasRow.task, AliasRow.name, AliasRow.version).where(
        AliasRow.space == space, AliasRow.until.is_(None), AliasRow.name.in_(aliases)
    )
    targets = {
        (task, name): version
        for piece in pieces(sorted(set(tasks.values())) if aliases else ())
        for task, name, version in session.execute(standing.where(AliasRow.task.in_(piece)))
    }
    places: dict[str, tuple[int, int | None]] = {}
    for reference in references:
        task = tasks.get(str(reference.task))
        if task is None:
            continue
        if reference.selector is Selector.LATEST:
            places[reference.text] = task, None
        elif reference.selector is Selector.VERSION:
            places[reference.text] = task, int(reference.value)
        elif (task, reference.value) in targets:
            places[reference.text] = task, targets[task, reference.value]
    rows = version_lookups.version_rows(session, space, set(places.values()))
    return {
        text: rows[place]
        for text, place in places.items()
        if place in rows and (place[1] is not None or rows[place].live)
    }
