"""Leases: an advisory sign that somebody is about to write to a space.

A writer that holds one spares others a lost race; one that does not is not kept from writing, and a
lease ends by its time if its holder vanishes.
"""

from typing import cast

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.orm import Session

from share_registry.catalog.tables import LeaseRow


def take(session: Session, *, space: str, holder: str, now: str, expires: str) -> bool:
    """Take or prolong the lease of a space; tell whether it is the holder's.

    Args:
        session: A transaction that writes.
        space: The space.
        holder: Who asks, a token.
        now: The time; a lease that has expired by it is free.
        expires: Until when it shall be held.
    """
    statement = (
        update(LeaseRow.table)
        .where(LeaseRow.space == space)
        .where((LeaseRow.holder == holder) | (LeaseRow.expires <= now))
        .values(holder=holder, expires=expires)
    )
    if cast("CursorResult[object]", session.execute(statement)).rowcount == 1:
        return True
    if session.scalar(select(LeaseRow.holder).where(LeaseRow.space == space)) is not None:
        return False
    session.execute(
        LeaseRow.table.insert(), [{"space": space, "holder": holder, "expires": expires}]
    )
    return True


def release(session: Session, *, space: str, holder: str) -> None:
    """Give a lease back; another holder's stays."""
    session.execute(
        delete(LeaseRow.table).where(LeaseRow.space == space, LeaseRow.holder == holder)
    )
