"""From what a user types to a task version or a state of a space (spec REF-01 to REF-09).

The grammar is in `names`; here is what exists. A task is found by any name it ever had, and printed
under the present one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, NoReturn

from sqlalchemy import BigInteger, BindParameter, Select, bindparam, func, select
from sqlalchemy.orm import Session

from share_registry.catalog.queries import lookups
from share_registry.catalog.sql import pieces
from share_registry.catalog.tables import (
    AliasRow,
    CommitRow,
    TaskLifeRow,
    TaskNameRow,
    VersionRow,
    holds,
)
from share_registry.errors import InvalidInputError, NotFoundError, RefusedError
from share_registry.names import (
    CommitNumber,
    Digest,
    Reference,
    Selector,
    SpaceName,
    TaskName,
    Version,
    near_misses,
    parse_reference,
    space_name,
)
from share_registry.values.references import ResolvedReference

if TYPE_CHECKING:
    from share_registry.values.task_version import TaskVersion

if TYPE_CHECKING:
    from share_registry.values.task_version import TaskVersion

_CANDIDATES: Final = 5
_AFTER_HEX: Final = "g"
"""Sorts behind every hexadecimal digit."""
_TASK: Final[BindParameter[int]] = bindparam("task_number", type_=BigInteger)
_AT: Final[BindParameter[int]] = bindparam("at", type_=BigInteger)


def resolve(
    session: Session, ref: str | Reference, *, space: str | None = None
) -> ResolvedReference:
    """Resolve a reference.

    Args:
        session: A transaction.
        ref: What was typed, or a reference parsed before.
        space: The space of a reference that names none; None for the only one.

    Raises:
        InvalidInputError: malformed, an ambiguous commit id, or a version of a whole space.
        NotFoundError: it names something that is not there, or was dropped.
        RefusedError: no space is named and there is not exactly one.
    """
    asked = parse_reference(ref) if isinstance(ref, str) else ref
    where = space_of(session, asked.space if asked.space is not None else space)
    if asked.task is None:
        return _state(session, where, _number(session, where, asked) - asked.back, asked)
    return _of_task(session, where, asked, find_task(session, where, asked.task))


def resolve_version(
    session: Session, ref: str | Reference, *, space: str | None = None
) -> ResolvedReference:
    """Resolve a reference of a task version.

    Raises InvalidInputError for one of a whole space, and what `resolve` raises.
    """
    found = resolve(session, ref, space=space)
    if found.task is None:
        raise InvalidInputError(
            f"{found.ref} is a whole space, expected a version of a task.",
            hint="Name the task: cola@c412.",
        )
    return found


def version_of(
    session: Session, ref: str | Reference, *, space: str | None = None
) -> "TaskVersion":
    """Return what is known of the task version that a reference names.

    In one statement for the newest and for a numbered one. Raises what `resolve_version`
    raises.
    """
    asked = parse_reference(ref) if isinstance(ref, str) else ref
    row = _plain(session, asked, space)
    if row is None:
        found = resolve_version(session, asked, space=space)
        row = lookups.version_row(session, found.space, str(found.task), found.version or 0)
        if row is None:
            raise NotFoundError(f"{found.ref} is not in the catalog.", hint="Run `rebuild`.")
    return row


def _plain(session: Session, asked: Reference, space: str | None) -> "TaskVersion | None":
    if (
        asked.task is None
        or asked.back
        or asked.selector not in (Selector.LATEST, Selector.VERSION)
    ):
        return None
    where = space_of(session, asked.space if asked.space is not None else space)
    if asked.selector is Selector.VERSION:
        return lookups.version_row(session, where, asked.task, int(asked.value))
    newest = lookups.latest_version(session, where, asked.task)
    return newest if newest is not None and newest.live else None


def resolve_task(session: Session, text: str, *, space: str | None = None) -> ResolvedReference:
    """Return the newest version of a task, live or dropped.

    Raises InvalidInputError where the text says more than a task, NotFoundError.
    """
    asked = parse_reference(text)
    if asked.task is None or asked.selector is not Selector.LATEST or asked.back:
        raise InvalidInputError(
            f"{text!r} is not the name of a task.", hint="Give [space/]task, without a version."
        )
    where = space_of(session, asked.space if asked.space is not None else space)
    task = find_task(session, where, asked.task)
    return _version(session, where, task, _newest(session, where, task, None), asked)


def space_of(session: Session, name: str | None) -> SpaceName:
    """Return the space that is named, or the only one.

    Raises:
        InvalidInputError: malformed name.
        NotFoundError: there is no such space.
        RefusedError: none is named and there are several, or none.
    """
    known = lookups.space_names(session)
    if name is not None:
        if space_name(name) not in known:
            raise NotFoundError(
                f"space {name!r} does not exist.", hint=near_misses(name, list(known))
            )
        return SpaceName(name)
    if len(known) != 1:
        found = f"there are {len(known)}: {', '.join(known[:8])}" if known else "there are none yet"
        raise RefusedError(
            f"no space is named and {found}.",
            hint="Name one with space=, -s or $SHARE_REGISTRY_SPACE.",
        )
    return known[0]


def spaces_in_scope(session: Session, name: str | None) -> list[SpaceName]:
    """Return the space that is named, or all of them, sorted. Raises as `space_of`."""
    return lookups.space_names(session) if name is None else [space_of(session, name)]


def number_of(session: Session, at: str, *, space: SpaceName) -> CommitNumber:
    """Return the commit that `c412`, a tag, a date, a time or a commit id means in a space.

    Raises InvalidInputError, NotFoundError.
    """
    asked = parse_reference(at if at.startswith("@") else f"@{at}")
    return _state(session, space, _number(session, space, asked) - asked.back, asked).number


@dataclass(frozen=True, slots=True)
class FoundTask:
    """A task that was found by a name: its number in the catalog and its present name."""

    task: int
    name: TaskName


def find_task(session: Session, space: SpaceName, name: str) -> FoundTask:
    """Return the task that has or had a name. Raises NotFoundError with the nearest names."""
    found = session.execute(_named(), {"space": space, "task": name}).one_or_none()
    if found is None:
        raise NotFoundError(
            f"task {space}/{name} does not exist.",
            hint=near_misses(name, list(lookups.task_names(session, space))),
        )
    return FoundTask(found[0], TaskName(found[1]))


def previous_targets(rows: Iterable[tuple[int, int, int | None]]) -> list[int | None]:
    """Return what an alias stood for, now first: None now where it is removed.

    Then distinct earlier targets, removals left out.

    Args:
        rows: (version, since, until) in the order of `since`.
    """
    history = list(rows)
    if not history:
        return []
    found: list[int | None] = [None] if history[-1][2] is not None else []
    for version, _, _ in reversed(history):
        if not found or found[-1] != version:
            found.append(version)
    return found


def _of_task(
    session: Session, space: SpaceName, asked: Reference, task: FoundTask
) -> ResolvedReference:
    if asked.selector is Selector.VERSION:
        return _version(session, space, task, int(asked.value) - asked.back, asked)
    if asked.selector is Selector.NAME and (rows := _alias_rows(session, space, task, asked.value)):
        return _version(session, space, task, _target(rows, space, task, asked), asked)
    number = None if asked.selector is Selector.LATEST else _number(session, space, asked, task)
    at = lookups.EVER if number is None else number
    found = session.execute(
        _standing(), {"space": space, "task_number": task.task, "at": at}
    ).one_or_none()
    if found is None or asked.back:
        _check_live(session, space, task, number)
        return _version(
            session, space, task, _newest(session, space, task, number) - asked.back, asked
        )
    return _resolved(space, task, *found)


def _alias_rows(
    session: Session, space: SpaceName, task: FoundTask, alias: str
) -> list[tuple[int, int, int | None]]:
    query = select(AliasRow.version, AliasRow.since, AliasRow.until).where(
        AliasRow.space == space, AliasRow.task == task.task, AliasRow.name == alias
    )
    return [
        (version, since, until)
        for version, since, until in session.execute(query.order_by(AliasRow.since))
    ]


def _target(
    rows: list[tuple[int, int, int | None]], space: SpaceName, task: FoundTask, asked: Reference
) -> int:
    targets = previous_targets(rows)
    if asked.back >= len(targets):
        raise NotFoundError(
            f"{asked.text!r}: alias {asked.value!r} of {space}/{task.name} has had {_targets(len([t for t in targets if t]))}.",
            hint="List them with `alias-history`.",
        )
    found = targets[asked.back]
    if found is None:
        raise NotFoundError(
            f"alias {asked.value!r} of {space}/{task.name} was removed in c{rows[-1][2]}.",
            hint=f"It was at v{rows[-1][0]}: {task.name}@{asked.value}~1.",
        )
    return found


def _targets(count: int) -> str:
    return f"{count} target{'' if count == 1 else 's'}"


def _number(
    session: Session, space: SpaceName, asked: Reference, task: FoundTask | None = None
) -> int:
    """Return the commit that a selector names; LATEST is the head."""
    match asked.selector:
        case Selector.LATEST:
            return (
                session.scalars(
                    select(func.max(CommitRow.number)).where(CommitRow.space == space)
                ).one()
                or 0
            )
        case Selector.COMMIT:
            return (
                int(asked.value)
                if task is None
                else _state(session, space, int(asked.value), asked).number
            )
        case Selector.TIME:
            return _at_time(session, space, asked)
        case Selector.DIGEST:
            return _of_id(session, space, asked)
        case Selector.NAME:
            return _tagged(session, space, asked, task)
        case Selector.VERSION:
            raise InvalidInputError(
                f"{asked.text!r} asks for a version of a whole space.",
                hint="Name the task: cola@v3. A commit of the space is @c412.",
            )


def _at_time(session: Session, space: SpaceName, asked: Reference) -> int:
    by_then = select(CommitRow.number).where(
        CommitRow.space == space, CommitRow.time <= asked.value
    )
    found = session.scalar(
        by_then.order_by(CommitRow.time.desc(), CommitRow.number.desc()).limit(1)
    )
    if found is None:
        first = session.scalar(select(func.min(CommitRow.time)).where(CommitRow.space == space))
        raise NotFoundError(
            f"{asked.text!r}: space {space} begins later, at {first}.", hint="Ask for a later time."
        )
    return found


def _of_id(session: Session, space: SpaceName, asked: Reference) -> int:
    query = select(CommitRow.number, CommitRow.id).where(
        CommitRow.space == space,
        CommitRow.id >= asked.value,
        CommitRow.id < asked.value + _AFTER_HEX,
    )
    found = sorted(session.execute(query.order_by(CommitRow.id).limit(_CANDIDATES + 1)).all())
    if not found:
        raise NotFoundError(
            f"{asked.text!r}: no commit of space {space} has an id that begins with {asked.value}.",
            hint="Ids are listed by `log`.",
        )
    if len(found) > 1:
        shown = ", ".join(
            f"c{number} {commit_id[:16]}" for number, commit_id in found[:_CANDIDATES]
        )
        raise InvalidInputError(
            f"{asked.text!r} is ambiguous: {shown}{' ...' if len(found) > _CANDIDATES else ''}.",
            hint="Give more digits, or the number.",
        )
    return int(found[0][0])


def _tagged(session: Session, space: SpaceName, asked: Reference, task: FoundTask | None) -> int:
    tag = lookups.tag_target(session, space, asked.value)
    if tag is not None:
        return int(tag.number)
    tags = sorted(lookups.tag_names(session, space))
    if task is None:
        raise NotFoundError(
            f"{asked.text!r}: space {space} has no tag {asked.value!r}.",
            hint=near_misses(asked.value, tags),
        )
    query = (
        select(AliasRow.name)
        .where(AliasRow.space == space, AliasRow.task == task.task, AliasRow.until.is_(None))
        .distinct()
    )
    known = sorted({*session.scalars(query), *tags})
    raise NotFoundError(
        f"{asked.text!r}: {space}/{task.name} has no alias and the space no tag {asked.value!r}.",
        hint=near_misses(asked.value, known),
    )


def _check_live(session: Session, space: SpaceName, task: FoundTask, number: int | None) -> None:
    """Raise NotFoundError where a task was dropped by a commit (None: by now)."""
    if (
        session.scalar(
            _life(),
            {
                "space": space,
                "task_number": task.task,
                "at": lookups.EVER if number is None else number,
            },
        )
        is not None
    ):
        return
    of_task = (TaskLifeRow.space == space) & (TaskLifeRow.task == task.task)
    before = of_task if number is None else of_task & (TaskLifeRow.until <= number)
    dropped = session.scalar(select(func.max(TaskLifeRow.until)).where(before))
    if dropped is not None:
        newest = _newest(session, space, task, dropped)
        raise NotFoundError(
            f"task {space}/{task.name} was dropped in c{dropped}.",
            hint=f"Its versions stay: {task.name}@v{newest}; `restore {task.name}@v{newest}` brings it back.",
        )


def _newest(session: Session, space: SpaceName, task: FoundTask, number: int | None) -> int:
    """Return the newest version of a task at a commit (None: now).

    Raises NotFoundError where it had none yet.
    """
    found = session.scalar(
        _last_version(),
        {
            "space": space,
            "task_number": task.task,
            "at": lookups.EVER if number is None else number,
        },
    )
    if found is None:
        first = session.scalar(
            select(func.min(VersionRow.number)).where(
                VersionRow.space == space, VersionRow.task == task.task
            )
        )
        raise NotFoundError(
            f"task {space}/{task.name} did not exist at c{number}; it begins with c{first}.",
            hint=f"Ask for c{first} or later.",
        )
    return found


def _version(
    session: Session, space: SpaceName, task: FoundTask, version: int, asked: Reference
) -> ResolvedReference:
    found = session.execute(
        _made(), {"space": space, "task_number": task.task, "version": version}
    ).one_or_none()
    if found is None:
        newest = _newest(session, space, task, None)
        if asked.back:
            count = f"{newest} version{'' if newest == 1 else 's'}"
            raise NotFoundError(
                f"{asked.text!r}: task {space}/{task.name} has {count}, so there is none so far back.",
                hint="List them with `log --task`.",
            )
        raise NotFoundError(
            f"{asked.text!r}: task {space}/{task.name} has no v{version}, its versions are v1 to v{newest}.",
            hint="List them with `log --task`.",
        )
    return _resolved(space, task, *found)


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


@cache
def _named() -> Select[int, str]:
    found = lookups.task_of(lookups.SPACE, lookups.TASK)
    return select(TaskNameRow.task, TaskNameRow.name).where(
        TaskNameRow.space == lookups.SPACE, TaskNameRow.task == found, TaskNameRow.until.is_(None)
    )


@cache
def _life() -> Select[int]:
    return select(TaskLifeRow.since).where(
        TaskLifeRow.space == lookups.SPACE, TaskLifeRow.task == _TASK, holds(TaskLifeRow, _AT)
    )


@cache
def _last_version() -> Select[int]:
    query = select(VersionRow.version).where(
        VersionRow.space == lookups.SPACE, VersionRow.task == _TASK, VersionRow.number <= _AT
    )
    return query.order_by(VersionRow.number.desc()).limit(1)


@cache
def _made() -> Select[int, int, str]:
    return _commits_of_versions().where(VersionRow.version == lookups.VERSION)


@cache
def _standing() -> Select[int, int, str]:
    """Return what selects the newest version of a task at a commit, if the task was live then."""
    return (
        _commits_of_versions()
        .where(VersionRow.number <= _AT, _life().exists())
        .order_by(VersionRow.number.desc())
        .limit(1)
    )


@cache
def _commits_of_versions() -> Select[int, int, str]:
    made = (CommitRow.space == VersionRow.space) & (CommitRow.number == VersionRow.number)
    query = select(VersionRow.version, CommitRow.number, CommitRow.id).join_from(
        VersionRow.table, CommitRow.table, made
    )
    return query.where(VersionRow.space == lookups.SPACE, VersionRow.task == _TASK)


def _state(session: Session, space: SpaceName, number: int, asked: Reference) -> ResolvedReference:
    commit_id = session.scalar(
        select(CommitRow.id).where(CommitRow.space == space, CommitRow.number == number)
    )
    if commit_id is None:
        _no_commit(session, space, number, asked)
    return ResolvedReference(
        ref=f"{space}/@c{number}", space=space, number=CommitNumber(number), id=Digest(commit_id)
    )


def _no_commit(session: Session, space: SpaceName, number: int, asked: Reference) -> NoReturn:
    head = lookups.head(session, space)
    raise NotFoundError(
        f"{asked.text!r}: space {space} has no c{number}, its commits are c1 to c{head.number if head else 0}.",
        hint="List them with `log`.",
    )


_USUAL = frozenset({Selector.LATEST, Selector.VERSION, Selector.NAME})


def versions_of(
    session: Session, refs: Iterable[str], *, space: str | None
) -> "dict[str, TaskVersion]":
    """Return the task version that each reference means now. Raises as `resolve_version`."""
    asked = {ref: parse_reference(ref) for ref in refs}
    known = lookups.space_names(session)
    default = space if space is not None else known[0] if len(known) == 1 else None
    by_space: dict[str, list[Reference]] = {}
    for reference in asked.values():
        where = reference.space if reference.space is not None else default
        if (
            where in known
            and reference.task is not None
            and reference.selector in _USUAL
            and not reference.back
        ):
            by_space.setdefault(where, []).append(reference)
    found = {
        ref: row
        for where, usual in by_space.items()
        for ref, row in _usual(session, where, usual).items()
    }
    return {
        ref: found[ref] if ref in found else version_of(session, reference, space=space)
        for ref, reference in asked.items()
    }


def _usual(
    session: Session, space: str, references: Sequence[Reference]
) -> "dict[str, TaskVersion]":
    """Return those that are found without a question about dates, tags or what was dropped."""
    tasks = _task_numbers(session, space, sorted({str(reference.task) for reference in references}))
    targets = _alias_targets(
        session,
        space,
        sorted(set(tasks.values())),
        sorted({ref.value for ref in references if ref.selector is Selector.NAME}),
    )
    wanted: dict[str, tuple[int, int | None]] = {}
    for reference in references:
        task = tasks.get(str(reference.task))
        if task is not None and reference.selector is Selector.LATEST:
            wanted[reference.text] = task, None
        elif task is not None and reference.selector is Selector.VERSION:
            wanted[reference.text] = task, int(reference.value)
        elif task is not None and (task, reference.value) in targets:
            wanted[reference.text] = task, targets[task, reference.value]
    rows = lookups.version_rows(session, space, set(wanted.values()))
    return {
        text: rows[key]
        for text, key in wanted.items()
        if key in rows and (key[1] is not None or rows[key].live)
    }


def _task_numbers(session: Session, space: str, names: Sequence[str]) -> dict[str, int]:
    query = select(TaskNameRow.name, TaskNameRow.task).where(TaskNameRow.space == space)
    return {
        name: task
        for piece in pieces(names)
        for name, task in session.execute(query.where(TaskNameRow.name.in_(piece)))
    }


def _alias_targets(
    session: Session, space: str, tasks: Sequence[int], names: Sequence[str]
) -> Mapping[tuple[int, str], int]:
    if not names:
        return {}
    query = select(AliasRow.task, AliasRow.name, AliasRow.version).where(
        AliasRow.space == space, AliasRow.until.is_(None), AliasRow.name.in_(names)
    )
    rows = (
        row
        for piece in pieces(tasks)
        for row in session.execute(query.where(AliasRow.task.in_(piece)))
    )
    return {(task, name): version for task, name, version in rows}
