"""Moments: what a caller may give where a time or a state of a space is asked for."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, TypeAlias

from sqlalchemy import ColumnElement, literal, select
from sqlalchemy.orm import Session

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.commit_selectors import number_of
from share_registry.catalog.tables import CommitRow, SpaceRow, Temporal, holds
from share_registry.errors import InvalidInputError, ensure
from share_registry.names import CommitNumber, Selector, SpaceName, parse_reference
from share_registry.times import beginning_of, end_of, instant_of

# A commit (`c412`, 412, a tag, an id) or a moment (a date or time, as text or as such)
At: TypeAlias = str | date | int


def instant(value: str | date, *, end: bool) -> str:
    """Return a date or time as records write it.

    A date, minute or second is its end, or its beginning. Raises InvalidInputError.
    """
    return (end_of if end else beginning_of)(_text(value))


def number_at(session: Session, space: SpaceName, at: At) -> CommitNumber:
    """Return the commit of a space that a moment means: the last one made by then.

    Raises InvalidInputError, NotFoundError.
    """
    return number_of(session, _text(at), space=space)


@dataclass(frozen=True, slots=True)
class Then:
    """A state of one space or of every space.

    After commit `number`, after what was made by `time`, or now where both are missing.
    """

    number: CommitNumber | None = None
    time: str | None = None

    def within(self, row: type[Temporal]) -> ColumnElement[bool]:
        """Return the condition that a row holds then."""
        return row.until.is_(None) if self == _NOW else holds(row, self.of(row.space))

    def of(self, space: ColumnElement[str]) -> ColumnElement[int]:
        """Return the commit that ends the state of a space; NULL where the space begins later."""
        if self.number is not None:
            return literal(self.number)
        if self.time is not None:
            return last_by(space, self.time)
        return select(_SPACES.c.head).where(_SPACES.c.name == space).scalar_subquery()


_SPACES: Final = SpaceRow.table.alias()
_COMMITS: Final = CommitRow.table.alias()
_NOW: Final = Then()


def last_by(
    space: ColumnElement[str] | str, time: str, *, strictly: bool = False
) -> ColumnElement[int]:
    """Return the number of the last commit of a space made by a time (or before it).

    NULL where there is none: times of a space never go back.
    """
    by = _COMMITS.c.time < time if strictly else _COMMITS.c.time <= time
    return (
        select(_COMMITS.c.number)
        .where(_COMMITS.c.space == space, by)
        .order_by(_COMMITS.c.time.desc(), _COMMITS.c.number.desc())
        .limit(1)
        .scalar_subquery()
    )


def last_commit_by(
    session: Session, space: SpaceName, time: str, *, strictly: bool
) -> CommitNumber:
    """Return the last commit of a space made by a time, or before it; 0 where there is none."""
    return CommitNumber(session.scalar(select(last_by(space, time, strictly=strictly))) or 0)


def is_time(at: At) -> bool:
    """Tell whether a moment is a date or time, not a state. Raises InvalidInputError."""
    return parse_reference(f"@{_text(at).removeprefix('@')}").selector is Selector.TIME


def first_from(space: ColumnElement[str] | str, time: str) -> ColumnElement[int]:
    """Return the number of the first commit of a space made at a time or after it, or NULL."""
    return (
        select(_COMMITS.c.number)
        .where(_COMMITS.c.space == space, _COMMITS.c.time >= time)
        .order_by(_COMMITS.c.time, _COMMITS.c.number)
        .limit(1)
        .scalar_subquery()
    )


def as_of(session: Session, space: SpaceName | None, at: At | None) -> Then:
    """Return the state of a space, or of every space, that a moment means; None is now.

    Raises:
        InvalidInputError: malformed, or a commit, tag or id without a space.
        NotFoundError: the space has no such commit.
    """
    if at is None:
        lookups.require_newest(session, space)
        return _NOW
    if space is not None:
        return Then(number=number_at(session, space, at))
    asked = parse_reference(f"@{_text(at)}")
    ensure(
        asked.selector is Selector.TIME,
        InvalidInputError(
            f"{_text(at)!r} is a commit of one space, and none is named.",
            hint="Name the space, or give a date or time.",
        ),
    )
    lookups.require_newest(session, None)
    return Then(time=asked.value)


def _text(at: At) -> str:
    if isinstance(at, datetime):
        return instant_of(at)
    if isinstance(at, date):
        return at.isoformat()
    return f"c{at}" if isinstance(at, int) else at
