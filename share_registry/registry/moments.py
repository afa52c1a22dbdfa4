"""Moments: what a caller may give where a time or a state of a space is asked."""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, TypeAlias

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from share_registry.catalog.models import CommitRow, SpaceRow
from share_registry.errors import InvalidInput
from share_registry.names import CommitNumber, Selector, SpaceName, beginning_of, end_of, parse_reference, timestamp
from share_registry.registry.resolve import number_of

if TYPE_CHECKING:
    from sqlalchemy import Subquery

At: TypeAlias = str | date | int
"""A commit (`c412`, 412, a tag, an id) or a moment (a date or time, as text or as such)."""


def instant(value: str | date, *, end: bool) -> str:
    """Return a date or time as records write it; a date, minute or second is its end, or its beginning. Raises InvalidInput."""
    text = _text(value)
    return end_of(text) if end else beginning_of(text)


def number_at(session: Session, space: SpaceName, at: At) -> CommitNumber:
    """Return the commit of a space that a moment means: the last one made by then. Raises InvalidInput, NotFound."""
    return number_of(session, _text(at), space=space)


def as_of(session: Session, space: SpaceName | None, at: At | None) -> "Subquery":
    """Return (space, number): the commit of a space, or of every space, that a moment means; None is now.

    Raises:
        InvalidInput: malformed, or a commit, tag or id without a space.
        NotFound: the space has no such commit.
    """
    if at is None:
        now = select(SpaceRow.name.label("space"), SpaceRow.head.label("number"))
        return (now if space is None else now.where(SpaceRow.name == space)).subquery("then")
    if space is not None:
        number = number_at(session, space, at)
        return select(CommitRow.space, CommitRow.number).where(CommitRow.space == space, CommitRow.number == number).subquery("then")
    asked = parse_reference(f"@{_text(at)}")
    if asked.selector is not Selector.TIME:
        raise InvalidInput(f"{_text(at)!r} is a commit of one space, and none is named.", hint="Name the space, or give a date or time.")
    newest = select(CommitRow.space, func.max(CommitRow.number).label("number")).where(CommitRow.time <= asked.value)
    return newest.group_by(CommitRow.space).subquery("then")


def _text(at: At) -> str:
    if isinstance(at, datetime):
        return timestamp(at if at.tzinfo else at.replace(tzinfo=UTC))
    if isinstance(at, date):
        return at.isoformat()
    return f"c{at}" if isinstance(at, int) else at
