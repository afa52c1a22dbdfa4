"""Which space and which task a name means (spec REF-02 and REF-03).

A space is the one that is named, or the only one, or the only one with the task. A task is found by
any name it ever had.
"""

from typing import TypeAlias

from sqlalchemy import Row

from share_registry.catalog.queries import lookups
from share_registry.catalog.sql import Session
from share_registry.errors import NotFoundError, RefusedError, ensure
from share_registry.names import (
    Reference,
    SpaceName,
    is_state,
    near_misses,
    space_name,
    split_task,
)

# A task that a name leads to: `task` is its number in the catalog, `name` its present name
FoundTask: TypeAlias = Row[int, str]


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
