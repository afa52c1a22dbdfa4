"""Retention: what every commit of a space did to every task, the forgetting matrix.

Versions never change, so by default a row stays flat until somebody commits the task again. Where a
refit re-expresses tasks, the rows show what that cost them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from share_registry.catalog.models import CommitRow, MetricRow, TaskLifeRow, TaskNameRow, VersionRow
from share_registry.errors import NotFound
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.registry.commits import moment
from share_registry.registry.insight_results import (
    Retention,
    RetentionCell,
    RetentionCommit,
    RetentionRow,
)
from share_registry.registry.resolve import space_of

if TYPE_CHECKING:
    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    from share_registry.registry.home import Home

_Lives = Mapping[int, Sequence[tuple[int, int | None]]]


def retention(home: "Home", space: str | None, *, metric: str | None = None) -> Retention:
    """Return the forgetting matrix of a space.

    The recorded error of every task at every commit that changed one, and a metric where one is
    asked for.

    Args:
        home: The registry.
        space: The space; None for the default or only one.
        metric: Name of a recorded metric.

    Raises:
        NotFound, Refused: the space leads nowhere, or no version has the metric.
    """
    with home.reading() as session:
        where = space_of(session, space if space is not None else home.default_space)
        return _retention(session, where, metric)


def _retention(session: "Session", space: SpaceName, metric: str | None) -> Retention:
    commits = _commits(session, space)
    versions, lives, names = (
        _versions(session, space),
        _lives(session, space),
        _names(session, space),
    )
    measured = _metrics(session, space, metric) if metric is not None else {}
    if metric is not None and not measured:
        known = sorted(
            set(
                session.scalars(
                    select(MetricRow.name)
                    .where(MetricRow.space == space, MetricRow.until.is_(None))
                    .distinct()
                )
            )
        )
        raise NotFound(
            f"no version of space {space!r} has a metric {metric!r}.",
            hint=f"There is {', '.join(known[:10]) or 'none yet: give metrics= to commit'}.",
        )
    rows = tuple(
        _row(names[task], space, found, lives.get(task, ()), commits, measured.get(task, {}))
        for task, found in sorted(versions.items())
    )
    moved = [row.metric_transfer for row in rows if row.metric_transfer is not None]
    return Retention(
        space=space,
        metric=metric,
        commits=commits,
        rows=rows,
        mean=_mean(row.last for row in rows),
        worst=max((row.worst for row in rows), default=0.0),
        transfer=_mean(row.transfer for row in rows),
        metric_transfer=_mean(moved) if moved else None,
    )


def _row(
    name: TaskName,
    space: SpaceName,
    versions: "Sequence[Row[Any]]",
    lives: Sequence[tuple[int, int | None]],
    commits: Sequence[RetentionCommit],
    measured: Mapping[int, float],
) -> RetentionRow:
    cells = tuple(
        _cell(name, space, versions, lives, commit.number, measured) for commit in commits
    )
    there = [cell for cell in cells if cell is not None]
    last = versions[-1]
    first = next(row for row in versions if row.source_digest == last.source_digest)
    told = [measured[row.version] for row in versions if row.version in measured]
    return RetentionRow(
        task=name,
        cells=cells,
        first=first.error,
        last=last.error,
        worst=max((cell.error for cell in there), default=last.error),
        transfer=last.error - first.error,
        metric_transfer=told[-1] - told[0] if len(told) > 1 else None,
    )


def _cell(
    name: TaskName,
    space: SpaceName,
    versions: "Sequence[Row[Any]]",
    lives: Sequence[tuple[int, int | None]],
    number: int,
    measured: Mapping[int, float],
) -> RetentionCell | None:
    """Return the newest version at a commit, None where the task was not live."""
    if not any(since <= number and (until is None or number < until) for since, until in lives):
        return None
    row = next((row for row in reversed(versions) if row.number <= number), None)
    if row is None:
        return None
    return RetentionCell(
        ref=f"{space}/{name}@v{row.version}",
        version=Version(row.version),
        error=row.error,
        bound=row.bound,
        made=row.number == number,
        metric=measured.get(row.version),
    )


def _commits(session: "Session", space: SpaceName) -> tuple[RetentionCommit, ...]:
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


def _versions(session: "Session", space: SpaceName) -> "dict[int, list[Row[Any]]]":
    found: dict[int, list[Row[Any]]] = defaultdict(list)
    query = (
        select(VersionRow.table)
        .where(VersionRow.space == space)
        .order_by(VersionRow.task, VersionRow.version)
    )
    for row in session.execute(query):
        found[row.task].append(row)
    return dict(found)


def _lives(session: "Session", space: SpaceName) -> _Lives:
    found: dict[int, list[tuple[int, int | None]]] = defaultdict(list)
    for task, since, until in session.execute(
        select(TaskLifeRow.task, TaskLifeRow.since, TaskLifeRow.until).where(
            TaskLifeRow.space == space
        )
    ):
        found[task].append((since, until))
    return found


def _names(session: "Session", space: SpaceName) -> dict[int, TaskName]:
    query = select(TaskNameRow.task, TaskNameRow.name).where(
        TaskNameRow.space == space, TaskNameRow.until.is_(None)
    )
    return {task: TaskName(name) for task, name in session.execute(query)}


def _metrics(session: "Session", space: SpaceName, metric: str) -> dict[int, dict[int, float]]:
    """Return task -> version -> the metric as it is recorded now."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    query = select(MetricRow.task, MetricRow.version, MetricRow.value).where(
        MetricRow.space == space, MetricRow.name == metric, MetricRow.until.is_(None)
    )
    for task, version, value in session.execute(query):
        if isfinite(float(value)):
            found[task][version] = float(value)
    return found


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
