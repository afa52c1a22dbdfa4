"""The rows of the forgetting matrix: versions, lives, names and metrics of a space's tasks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from math import isfinite
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select
from sqlalchemy.orm import Session

from share_registry.catalog.tables import (
    CommitRow,
    MetricRow,
    TaskLifeRow,
    TaskNameRow,
    VersionRow,
    names_task_of,
)
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.values.analyses import RetentionCommit

Lives = Mapping[int, Sequence[tuple[int, int | None]]]


def changing_commits(session: Session, space: SpaceName) -> tuple[RetentionCommit, ...]:
    """Return the commits that made a version or dropped a task."""
    query = select(CommitRow.table).where(CommitRow.space == space, _changed_a_task(space))
    return tuple(
        RetentionCommit(
            number=CommitNumber(row.number),
            id=Digest(row.id),
            kind=row.kind,
            time=datetime.fromisoformat(row.time),
        )
        for row in session.execute(query.order_by(CommitRow.number))
    )


def size_of_matrix(session: Session, space: SpaceName) -> tuple[int, int]:
    """Return how many tasks and commits the whole matrix has."""
    tasks = select(func.count(VersionRow.task.distinct())).where(VersionRow.space == space)
    commits = select(func.count()).where(CommitRow.space == space, _changed_a_task(space))
    return session.scalar(tasks) or 0, session.scalar(commits) or 0


def versions_by_task(session: Session, space: SpaceName) -> dict[int, list[Row[Any]]]:
    """Return the versions of every task, by number; `task_name` is the name that it has now."""
    query = (
        select(VersionRow.table, TaskNameRow.name.label("task_name"))
        .join(TaskNameRow.table, names_task_of(VersionRow))
        .where(VersionRow.space == space)
        .order_by(VersionRow.task, VersionRow.version)
    )
    return {
        task: list(rows) for task, rows in groupby(session.execute(query), key=attrgetter("task"))
    }


def lives_by_task(session: Session, space: SpaceName) -> Lives:
    """Return from and until which commit every task was live; None: it still is."""
    query = select(TaskLifeRow.task, TaskLifeRow.since, TaskLifeRow.until).where(
        TaskLifeRow.space == space
    )
    lives: dict[int, list[tuple[int, int | None]]] = defaultdict(list)
    for task, since, until in session.execute(query):
        lives[task].append((since, until))
    return lives


def metric_values(session: Session, space: SpaceName, metric: str) -> dict[int, dict[int, float]]:
    """Return task -> version -> the metric as it is recorded now."""
    query = select(MetricRow.task, MetricRow.version, MetricRow.value).where(
        MetricRow.space == space, MetricRow.name == metric, MetricRow.until.is_(None)
    )
    values: dict[int, dict[int, float]] = defaultdict(dict)
    for task, version, value in session.execute(query):
        if isfinite(float(value)):
            values[task][version] = float(value)
    return values


def metric_names(session: Session, space: SpaceName) -> list[str]:
    """Return the names of the metrics that versions of a space have now, sorted."""
    query = select(MetricRow.name).where(MetricRow.space == space, MetricRow.until.is_(None))
    return sorted(session.scalars(query.distinct()))


def _changed_a_task(space: SpaceName) -> ColumnElement[bool]:
    versions = select(VersionRow.number).where(VersionRow.space == space)
    drops = select(TaskLifeRow.until).where(
        TaskLifeRow.space == space, TaskLifeRow.until.is_not(None)
    )
    return CommitRow.number.in_(versions) | CommitRow.number.in_(drops)
