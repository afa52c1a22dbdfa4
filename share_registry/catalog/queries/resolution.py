"""From what a user types to a task version or a state of a space (spec REF-01 to REF-09).

The grammar is in `names`; here is what exists. A task is found by any name it ever had, and printed
under the present one.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import Final, TypeAlias

from sqlalchemy import BigInteger, BindParameter, Row, bindparam, func, select

from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.queries.lookups import NameClaim
from share_registry.catalog.sql import Session, pieces
from share_registry.catalog.tables import (
    AliasRow,
    CommitRow,
    TaskLifeRow,
    TaskNameRow,
    VersionRow,
    holds,
    is_commit_of,
)
from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, ensure
from share_registry.look.units import count
from share_registry.names import (
    CommitNumber,
    Digest,
    Reference,
    Selector,
    SpaceName,
    Version,
    is_state,
    near_misses,
    parse_reference,
    space_name,
    split_task,
)
from share_registry.values.references import ResolvedReference
from share_registry.values.task_version import TaskVersion

# A task that a name leads to: `task` is its number in the catalog, `name` its present name
FoundTask: TypeAlias = Row[int, str]
_CANDIDATES: Final = 5
# Sorts behind every hexadecimal digit
_AFTER_HEX: Final = "g"
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
            return _state(session, where, _number(session, where, asked) - asked.back, asked)
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


def namings_of(
    session: Session, ref: str | Reference, *, space: str | None, present: str | None = None
) -> list[NameClaim]:
    """Return the names that a reference is resolved by: older ones of the task, an alias, a tag.

    None where the task has the name that it came with.

    Args:
        session: A transaction.
        ref: The reference.
        space: The space of one that names none.
        present: The present name of its task, where that is known.

    Raises what `resolve` raises.
    """
    asked = parse_reference(ref) if isinstance(ref, str) else ref
    if asked.selector is not Selector.NAME and asked.task in (None, present):
        return []
    where = space_of_reference(session, asked, space)
    task = None if asked.task is None else find_task(session, where, asked.task)
    names = [] if task is None else lookups.names_of_task(session, where, task.name)
    called = {naming.name for naming in names}
    namings = names if called != {asked.task} else []
    if asked.selector is not Selector.NAME:
        return namings
    rows = [] if task is None else alias_rows(session, where, task, asked.value)
    if task is None or not rows:
        return [*namings, *_naming_of_tag(session, where, asked.value)]
    version = _target(rows, where, task, asked)
    since = max(row.since for row in rows if row.version == version)
    alias = alias_claim(
        where,
        asked.value,
        task=task.name,
        version=version,
        number=since,
        commit_id=lookups.commit_id(session, where, since),
        called=called,
    )
    return [*namings, alias]


def alias_claim(
    space: SpaceName,
    name: str,
    *,
    task: str,
    version: int,
    number: int,
    commit_id: Digest | None,
    called: Collection[str],
) -> NameClaim:
    """Return the claim that a commit put an alias of a task, called so or so, to a version."""
    return NameClaim(
        space=space,
        number=CommitNumber(number),
        commit_id=commit_id or Digest(""),
        name=name,
        members={"kind": ("alias",), "alias": (name,), "version": (version,), "task": called},
        meaning=f"put alias {name!r} of task {task} to v{version}",
    )


def _naming_of_tag(session: Session, space: SpaceName, name: str) -> list[NameClaim]:
    tag = lookups.tag_target(session, space, name)
    if tag is None:
        return []
    return [
        NameClaim(
            space=space,
            number=CommitNumber(tag.since),
            commit_id=lookups.commit_id(session, space, tag.since) or Digest(""),
            name=name,
            members={"kind": ("tag",), "tag": (name,), "commit": (tag.number,)},
            meaning=f"gave c{tag.number} the tag {name!r}",
        )
    ]


def space_of(session: Session, name: str | None) -> SpaceName:
    """Return the space that is named, or the only one.

    Raises:
        InvalidInputError: malformed name.
        NotFoundError: there is no such space.
        RefusedError: none is named and there are several, or none.
    """
    spaces = lookups.space_names(session)
    if name is not None:
        if space_name(name) not in spaces:
            lookups.require_newest(session, name)
            raise NotFoundError(
                f"space {name!r} does not exist.", hint=near_misses(name, list(spaces))
            )
        return SpaceName(name)
    ensure(
        spaces,
        RefusedError(
            "there is no space yet.",
            hint="The first commit makes one: `share-registry commit ADAPTER`.",
        ),
    )
    ensure(
        len(spaces) == 1,
        RefusedError(
            f"no space is named and there are {len(spaces)}: {', '.join(spaces[:8])}.",
            hint="Name one with space=, -s or $SHARE_REGISTRY_SPACE.",
        ),
    )
    return spaces[0]


def space_of_reference(session: Session, asked: Reference, space: str | None) -> SpaceName:
    """Return the space that a reference is about.

    The one it names, else `space`, else the only one, else the only one that has or had its task.

    Raises:
        InvalidInputError, NotFoundError: there is no such space, or none with that task.
        RefusedError: neither names one, and several have such a task.
    """
    named = asked.space if asked.space is not None else space
    if named is not None or asked.task is None:
        return space_of(session, named)
    return space_of_task(session, asked.task)


def space_of_task(session: Session, task: str) -> SpaceName:
    """Return the only space, or else the only one that has or had a task of this name.

    Raises as `space_of_reference`.
    """
    if len(lookups.space_names(session)) < 2:
        return space_of(session, None)
    having = spaces_of_task(session, task)
    ensure(
        len(having) == 1,
        RefusedError(
            f"no space is named and several have a task {task!r}.",
            hint=f"Name one of them: {', '.join(f'{space}/{task}' for space in having[:8])}.",
        ),
    )
    return having[0]


def spaces_of_task(session: Session, task: str) -> list[SpaceName]:
    """Return the spaces that have or had a task of this name, sorted.

    Raises NotFoundError where none has, with the nearest of all.
    """
    having = lookups.spaces_with_task(session, task, lookups.space_names(session))
    if not having:
        raise NotFoundError(
            f"no space has a task {task!r}.",
            hint=f"Did you mean @{task} of one space?"
            if is_state(task)
            else near_misses(task, lookups.tasks_of_all_spaces(session)),
        )
    return having


def spaces_in_scope(session: Session, name: str | None) -> list[SpaceName]:
    """Return the space that is named, or all of them, sorted. Raises as `space_of`."""
    return lookups.space_names(session) if name is None else [space_of(session, name)]


def number_of(session: Session, at: str, *, space: SpaceName) -> CommitNumber:
    """Return the commit that `c412`, a tag, a date, a time or a commit id means in a space.

    Raises InvalidInputError, NotFoundError.
    """
    asked = parse_reference(at if at.startswith("@") else f"@{at}")
    return _state(session, space, _number(session, space, asked) - asked.back, asked).number


def find_task(session: Session, space: SpaceName, name: str) -> FoundTask:
    """Return the task that has or had a name. Raises NotFoundError with the nearest names."""
    row = session.execute(lookups.TASK_OF_NAME, {"space": space, "task": name}).one_or_none()
    if row is None:
        raise NotFoundError(
            f"task {space}/{name} does not exist.", hint=_meant(session, space, name)
        )
    return row


def _meant(session: Session, space: SpaceName, name: str) -> str:
    """Return the hint that says what was meant by a name that no task of a space has."""
    if is_state(name) or lookups.tag_target(session, space, name) is not None:
        return f"Did you mean @{name}?"
    elsewhere = lookups.spaces_with_task(session, name, lookups.space_names(session))
    if elsewhere:
        return f"Did you mean {' or '.join(f'{where}/{name}' for where in elsewhere[:3])}?"
    return near_misses(name, lookups.task_names(session, space))


def find_named_task(
    session: Session, text: str, *, space: str | None
) -> tuple[SpaceName, FoundTask]:
    """Return the space and the task that `[space/]task` means.

    Raises NotFoundError, RefusedError.
    """
    named, task = split_task(text)
    if named is None and space is None:
        where = space_of_task(session, task)
    else:
        where = space_of(session, named or space)
    return where, find_task(session, where, task)


def alias_rows(
    session: Session, space: SpaceName, task: FoundTask, alias: str
) -> Sequence[Row[int, int, int | None]]:
    """Return (version, since, until) of what an alias of a task stood for, in order of `since`."""
    return session.execute(
        select(AliasRow.version, AliasRow.since, AliasRow.until)
        .where(AliasRow.space == space, AliasRow.task == task.task, AliasRow.name == alias)
        .order_by(AliasRow.since)
    ).all()


def _of_task(
    session: Session, space: SpaceName, asked: Reference, task: FoundTask
) -> ResolvedReference:
    if asked.selector is Selector.VERSION:
        return _version(session, space, task, int(asked.value) - asked.back, asked)
    if asked.selector is Selector.NAME and (rows := alias_rows(session, space, task, asked.value)):
        lookups.require_newest(session, space)
        return _version(session, space, task, _target(rows, space, task, asked), asked)
    if asked.selector is Selector.LATEST:
        lookups.require_newest(session, space)
    number = None if asked.selector is Selector.LATEST else _number(session, space, asked, task)
    row = session.execute(_STANDING, _place(space, task, number)).one_or_none()
    if row is None or asked.back:
        _check_live(session, space, task, number)
        version = _newest(session, space, task, number) - asked.back
        return _version(session, space, task, version, asked)
    return _resolved(space, task, *row)


def _place(space: SpaceName, task: FoundTask, number: int | None) -> dict[str, object]:
    at = lookups.EVER if number is None else number
    return {"space": space, "task_number": task.task, "at": at}


def _target(
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


def _number(
    session: Session, space: SpaceName, asked: Reference, task: FoundTask | None = None
) -> int:
    """Return the commit that a selector names; LATEST is the head."""
    match asked.selector:
        case Selector.LATEST:
            lookups.require_newest(session, space)
            newest = select(func.max(CommitRow.number)).where(CommitRow.space == space)
            return session.scalar(newest) or 0
        case Selector.COMMIT:
            number = int(asked.value)
            return number if task is None else _state(session, space, number, asked).number
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
    number = session.scalar(
        select(CommitRow.number)
        .where(CommitRow.space == space, CommitRow.time <= asked.value)
        .order_by(CommitRow.time.desc(), CommitRow.number.desc())
        .limit(1)
    )
    if number is None:
        first = session.scalar(select(func.min(CommitRow.time)).where(CommitRow.space == space))
        raise NotFoundError(
            f"{asked.text!r}: space {space} begins later, at {first}.", hint="Ask for a later time."
        )
    # what follows the last that is known may have been made by then
    lookups.require_newest(session, space, after=number)
    return number


def _of_id(session: Session, space: SpaceName, asked: Reference) -> int:
    rows = sorted(
        session.execute(
            select(CommitRow.number, CommitRow.id)
            .where(CommitRow.space == space)
            .where(CommitRow.id >= asked.value, CommitRow.id < asked.value + _AFTER_HEX)
            .order_by(CommitRow.id)
            .limit(_CANDIDATES + 1)
        )
    )
    ensure(
        rows,
        NotFoundError(
            f"{asked.text!r}: no commit of space {space} has an id that begins with {asked.value}.",
            hint="Ids are listed by `log`.",
        ),
    )
    if len(rows) > 1:
        listed = ", ".join(f"c{row.number} {row.id[:16]}" for row in rows[:_CANDIDATES])
        raise InvalidInputError(
            f"{asked.text!r} is ambiguous: {listed}{' ...' if len(rows) > _CANDIDATES else ''}.",
            hint="Give more digits, or the number.",
        )
    return int(rows[0][0])


def _tagged(session: Session, space: SpaceName, asked: Reference, task: FoundTask | None) -> int:
    tag = lookups.tag_target(session, space, asked.value)
    if tag is not None:
        return int(tag.number)
    tags = lookups.tag_names(session, space)
    if task is None:
        raise NotFoundError(
            f"{asked.text!r}: space {space} has no tag {asked.value!r}.",
            hint=near_misses(asked.value, sorted(tags)),
        )
    names = select(AliasRow.name).where(
        AliasRow.space == space, AliasRow.task == task.task, AliasRow.until.is_(None)
    )
    raise NotFoundError(
        f"{asked.text!r}: {space}/{task.name} has no alias and the space no tag {asked.value!r}.",
        hint=near_misses(asked.value, sorted({*session.scalars(names), *tags})),
    )


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


def _state(session: Session, space: SpaceName, number: int, asked: Reference) -> ResolvedReference:
    commit_id = session.scalar(
        select(CommitRow.id).where(CommitRow.space == space, CommitRow.number == number)
    )
    if commit_id is None:
        head = lookups.head(session, space)
        raise NotFoundError(
            f"{asked.text!r}: space {space} has no c{number}, "
            f"its commits are c1 to c{head.number if head else 0}.",
            hint=f"List them: log(space={space!r}).",
        )
    return ResolvedReference(
        ref=f"{space}/@c{number}", space=space, number=CommitNumber(number), id=Digest(commit_id)
    )


def _usual_versions(
    session: Session, space: str, references: Sequence[Reference]
) -> dict[str, TaskVersion]:
    """Return the versions that no date, tag or drop has to be looked up for, by reference."""
    numbers = select(TaskNameRow.name, TaskNameRow.task).where(TaskNameRow.space == space)
    tasks = {
        name: task
        for piece in pieces(sorted({str(reference.task) for reference in references}))
        for name, task in session.execute(numbers.where(TaskNameRow.name.in_(piece)))
    }
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
