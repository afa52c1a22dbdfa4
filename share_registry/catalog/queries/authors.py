"""Who committed about which tasks, between two states of a space."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import BigInteger, bindparam, select

from share_registry.catalog.queries import lookups
from share_registry.catalog.sql import Session
from share_registry.catalog.tables import (
    CommitRow,
    TaskNameRow,
    TouchRow,
    is_commit_of,
    names_task_of,
)
from share_registry.names import CommitNumber, SpaceName, TaskName

_COMMITS: Final = (
    select(TaskNameRow.name, CommitRow.author, CommitRow.time)
    .join(TouchRow.table, names_task_of(TouchRow))
    .join(CommitRow.table, is_commit_of(TouchRow, TouchRow.number))
    .where(
        TouchRow.space == lookups.SPACE,
        TouchRow.number > bindparam("first", type_=BigInteger),
        TouchRow.number <= bindparam("last", type_=BigInteger),
    )
    .order_by(TouchRow.number)
)


@dataclass(slots=True)
class TaskCommits:
    """The commits about one task: who made them, each author once, and when the last one was."""

    count: int = 0
    authors: dict[str, None] = field(default_factory=dict)
    last: datetime | None = None


def commits_by_task(
    session: Session, space: SpaceName, first: CommitNumber, last: CommitNumber
) -> Mapping[TaskName, TaskCommits]:
    """Return what was committed behind one commit and up to another, by a task's present name."""
    commits: dict[TaskName, TaskCommits] = defaultdict(TaskCommits)
    asked = {"space": space, "first": first, "last": last}
    for name, author, time in session.execute(_COMMITS, asked):
        task = commits[TaskName(name)]
        task.count += 1
        task.authors |= {author: None} if author else {}
        task.last = datetime.fromisoformat(time)
    return commits
