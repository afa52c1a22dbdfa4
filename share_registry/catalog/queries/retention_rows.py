"""The rows of the forgetting matrix: versions, lives, names and metrics of a space's tasks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from share_registry.catalog.queries.commit_rows import moment
from share_registry.catalog.tables import CommitRow, MetricRow, TaskLifeRow, TaskNameRow, VersionRow
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName
from share_registry.values.analyses import RetentionCommit

if TYPE_CHECKING:
    from sqlalchemy import Row
    from sqlalchemy.orm import Session


Lives = Mapping[int, Sequence[tuple[int, int | None]]]


def changing_commits(session: "Session", space: SpaceName) -> tuple[RetentionCommit, ...]:
    """Return the commits that made a version or dropped a task."""
    made = select(VersionRow.number).where(VersionRow.space == space)
    dropped = select(TaskLifeRow.until).where(
        TaskLifeRow.space == space, TaskLifeRow.until.is_not(None)
    )
    chosen = (CommitRow.space == space) & (
        CommitRow.number.in_(made) | CommitRow.number.in_(dropped)
    )
    found = session.execute(
        select(CommitRow.number, CommitRow.id, CommitRow.kind, CommitRow.time)
        .where(chosen)
        .order_by(CommitRow.number)
    )
    return tuple(
        RetentionCommit(number=CommitNumber(number), id=Digest(id_), kind=kind, time=moment(time))
        for number, id_, kind, time in found
    )


def versions_by_task(session: "Session", space: SpaceName) -> "dict[int, list[Row[Any]]]":
    """Return the versions of every task, by number."""
    found: dict[int, list[Row[Any]]] = defaultdict(list)
    query = (
        select(VersionRow.table)
        .where(VersionRow.space == space)
        .order_by(VersionRow.task, VersionRow.version)
    )
    for row in session.execute(query):
        found[row.task].append(row)
    return dict(found)


def lives_by_task(session: "Session", space: SpaceName) -> Lives:
    """Return from and until which commit every task was live; None: it still is."""
    found: dict[int, list[tuple[int, int | None]]] = defaultdict(list)
    for task, since, until in session.execute(
        select(TaskLifeRow.task, TaskLifeRow.since, TaskLifeRow.until).where(
            TaskLifeRow.space == space
        )
    ):
        found[task].append((since, until))
    return found


def present_names(session: "Session", space: SpaceName) -> dict[int, TaskName]:
    """Return the name that every task has now."""
    query = select(TaskNameRow.task, TaskNameRow.name).where(
        TaskNameRow.space == space, TaskNameRow.until.is_(None)
    )
    return {task: TaskName(name) for task, name in session.execute(query)}


def metric_values(session: "Session", space: SpaceName, metric: str) -> dict[int, dict[int, float]]:
    """Return task -> version -> the metric as it is recorded now."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    query = select(MetricRow.task, MetricRow.version, MetricRow.value).where(
        MetricRow.space == space, MetricRow.name == metric, MetricRow.until.is_(None)
    )
    for task, version, value in session.execute(query):
        if isfinite(float(value)):
            found[task][version] = float(value)
    return found


def metric_names(session: "Session", space: SpaceName) -> list[str]:
    """Return the names of the metrics that versions of a space have now, sorted."""
    query = select(MetricRow.name).where(MetricRow.space == space, MetricRow.until.is_(None))
    return sorted(session.scalars(query.distinct()))
