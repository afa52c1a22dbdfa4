"""Provenance: which commit moved an alias or set a policy, and where a task came from."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from share_registry.catalog.sql import clean
from share_registry.catalog.tables import AliasRow, CommitRow, VersionRow, task_of
from share_registry.names import CommitNumber, SpaceName, TaskName


def alias_move(session: Session, space: SpaceName, task: TaskName, alias: str) -> CommitNumber:
    """Return the commit that put an alias, which is set, where it is."""
    query = select(AliasRow.since).where(
        AliasRow.space == space,
        AliasRow.task == task_of(space, task),
        AliasRow.name == alias,
        AliasRow.until.is_(None),
    )
    return CommitNumber(session.execute(query).scalar_one())


def policy_change(session: Session, space: SpaceName) -> CommitNumber:
    """Return the commit that set the policy a space has now."""
    query = select(func.max(CommitRow.number)).where(
        CommitRow.space == space, CommitRow.kind.in_(("create", "policy"))
    )
    return CommitNumber(session.execute(query).scalar_one())


def came_from(session: Session, space: SpaceName, task: TaskName, location: str) -> bool:
    """Tell whether any version of a task came from a place; the newest are looked at first."""
    query = select(VersionRow.version).where(
        VersionRow.space == space,
        VersionRow.task == task_of(space, task),
        VersionRow.source_location == clean(location),
    )
    return session.scalar(query.order_by(VersionRow.version.desc()).limit(1)) is not None


def sources_of_commit(session: Session, space: SpaceName, number: CommitNumber) -> dict[str, str]:
    """Return the source digest of every task that a commit made a version of, by name."""
    query = select(VersionRow.name, VersionRow.source_digest).where(
        VersionRow.space == space, VersionRow.number == number
    )
    return {
        str(name): str(digest) for name, digest in session.execute(query.order_by(VersionRow.name))
    }
