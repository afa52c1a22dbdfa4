"""Which commit of a space a selector means (spec REF-07 and REF-08)."""

from typing import Final

from sqlalchemy import func, select

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.named_tasks import FoundTask
from share_registry.catalog.sql import Session
from share_registry.catalog.tables import AliasRow, CommitRow
from share_registry.errors import InvalidInputError, NotFoundError, ensure
from share_registry.names import (
    CommitNumber,
    Digest,
    Reference,
    Selector,
    SpaceName,
    near_misses,
    parse_reference,
)
from share_registry.values.references import ResolvedReference

_CANDIDATES: Final = 5
# Sorts behind every hexadecimal digit
_AFTER_HEX: Final = "g"


def number_of(session: Session, at: str, *, space: SpaceName) -> CommitNumber:
    """Return the commit that `c412`, a tag, a date, a time or a commit id means in a space.

    Raises InvalidInputError, NotFoundError.
    """
    asked = parse_reference(at if at.startswith("@") else f"@{at}")
    return state_of(session, space, asked).number


def state_of(session: Session, space: SpaceName, asked: Reference) -> ResolvedReference:
    """Return the state of a space that a reference without a task names.

    Raises InvalidInputError, NotFoundError.
    """
    return _state_at(session, space, commit_of_selector(session, space, asked) - asked.back, asked)


def commit_of_selector(
    session: Session, space: SpaceName, asked: Reference, task: FoundTask | None = None
) -> int:
    """Return the number of the commit that a selector names; LATEST is the head.

    Args:
        session: A transaction.
        space: The space.
        asked: The reference; its steps back are not counted.
        task: The task it is about. Then a commit that is asked for by number must exist.

    Raises:
        InvalidInputError: an ambiguous commit id, or a version.
        NotFoundError: there is no such commit.
    """
    match asked.selector:
        case Selector.LATEST:
            lookups.require_newest(session, space)
            newest = select(func.max(CommitRow.number)).where(CommitRow.space == space)
            return session.scalar(newest) or 0
        case Selector.COMMIT:
            number = int(asked.value)
            return number if task is None else _state_at(session, space, number, asked).number
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


def _state_at(
    session: Session, space: SpaceName, number: int, asked: Reference
) -> ResolvedReference:
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
