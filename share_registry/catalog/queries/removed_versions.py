"""Which versions of a space were removed, and by which commits."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, select

from share_registry.catalog.queries.lookups import SPACE
from share_registry.catalog.sql import Session, pieces
from share_registry.catalog.tables import CommitRow, VersionRow
from share_registry.names import CommitNumber, Digest

_REMOVALS: Final = (
    select(CommitRow.number, CommitRow.id, CommitRow.kind)
    .where(CommitRow.space == SPACE, CommitRow.kind.in_(("expire", "purge")))
    .order_by(CommitRow.number)
)


def kept_adapters(session: Session, space: str, digests: Collection[Digest]) -> set[Digest]:
    """Return those of some adapter objects that are of versions that were not removed."""
    return _adapters(session, digests, VersionRow.space == space, VersionRow.removed.is_(None))


def removed_adapters(session: Session, space: str, digests: Collection[Digest]) -> set[Digest]:
    """Return those of some adapter objects that are of removed versions alone."""
    removed = _adapters(
        session, digests, VersionRow.space == space, VersionRow.removed.is_not(None)
    )
    return removed - kept_adapters(session, space, removed)


def named_bases(session: Session, space: str, digests: Collection[Digest]) -> set[Digest]:
    """Return those of some objects that are a basis which a commit brought."""
    query = select(CommitRow.basis).where(CommitRow.space == space)
    return {
        Digest(digest)
        for piece in pieces(sorted(digests))
        for digest in session.scalars(query.where(CommitRow.basis.in_(piece)))
        if digest is not None
    }


def _adapters(
    session: Session, digests: Collection[Digest], *conditions: ColumnElement[bool]
) -> set[Digest]:
    query = select(VersionRow.adapter_digest).where(*conditions).distinct()
    return {
        Digest(digest)
        for piece in pieces(sorted(digests))
        for digest in session.scalars(query.where(VersionRow.adapter_digest.in_(piece)))
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A commit that removed versions: by expiry, or a whole task."""

    number: CommitNumber
    id: Digest
    kind: str


def removals(session: Session, space: str) -> list[Removal]:
    """Return every commit of a space that removed versions, in the order of the log."""
    rows = session.execute(_REMOVALS, {"space": space})
    return [
        Removal(number=CommitNumber(row.number), id=Digest(row.id), kind=row.kind) for row in rows
    ]
