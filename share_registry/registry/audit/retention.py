"""Retention: what every commit of a space did to every task, the forgetting matrix.

Versions never change, so by default a row stays flat until somebody commits the task again. Where a
refit re-expresses tasks, the rows show what that cost them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.named_tasks import space_of
from share_registry.catalog.queries.retention_rows import (
    changing_commits,
    lives_by_task,
    metric_names,
    metric_values,
    versions_by_task,
)
from share_registry.catalog.sql import Row
from share_registry.errors import NotFoundError
from share_registry.names import SpaceName, TaskName, Version
from share_registry.registry.context import Context
from share_registry.values.analyses import Retention, RetentionCell, RetentionCommit, RetentionRow


def retention(
    context: Context,
    space: str | None,
    *,
    metric: str | None = None,
    most: tuple[int, int] | None = None,
) -> Retention:
    """Return the forgetting matrix of a space.

    It has the recorded error of every task at every commit that changed a task, and a metric where
    one is asked for.

    Args:
        context: The registry.
        space: The space; None for the default or only one.
        metric: Name of a recorded metric.
        most: So many tasks and commits at most: the newest commits, and of the tasks that these
            changed those that changed last. None for all.

    Raises:
        NotFoundError: the space is not there, or no version has the metric.
        RefusedError: there are several spaces, and none is named.
    """
    with context.reading() as session:
        where = space_of(session, space)
        lookups.require_newest(session, where)
        commits = changing_commits(session, where)
        versions = versions_by_task(session, where)
        lives = lives_by_task(session, where)
        if most is not None and commits:
            commits = commits[-most[1] :]
            last = sorted(versions, key=lambda task: versions[task][-1].number)[-most[0] :]
            first = commits[0].number
            versions = {task: versions[task] for task in last if versions[task][-1].number >= first}
        measured = metric_values(session, where, metric) if metric is not None else {}
        if metric is not None and not measured:
            recorded = ", ".join(metric_names(session, where)[:10])
            raise NotFoundError(
                f"no version of space {where!r} has a metric {metric!r}.",
                hint=f"There is {recorded or 'none yet: give metrics= to commit'}.",
            )
    rows = tuple(
        _row(where, rows, lives.get(task, ()), commits, measured.get(task, {}))
        for task, rows in sorted(versions.items())
    )
    transfers = [row.metric_transfer for row in rows if row.metric_transfer is not None]
    return Retention(
        space=where,
        metric=metric,
        commits=commits,
        rows=rows,
        mean=_mean([row.last for row in rows]),
        worst=max((row.worst for row in rows), default=0.0),
        transfer=_mean([row.transfer for row in rows]),
        metric_transfer=_mean(transfers) if transfers else None,
    )


def _row(
    space: SpaceName,
    versions: Sequence[Row[Any]],
    lives: Sequence[tuple[int, int | None]],
    commits: Sequence[RetentionCommit],
    measured: Mapping[int, float],
) -> RetentionRow:
    cells = tuple(_cell(space, versions, lives, commit.number, measured) for commit in commits)
    last = versions[-1]
    first = next(row for row in versions if row.source_digest == last.source_digest)
    metrics = [measured[row.version] for row in versions if row.version in measured]
    return RetentionRow(
        task=TaskName(last.task_name),
        cells=cells,
        first=first.error,
        last=last.error,
        worst=max((cell.error for cell in cells if cell is not None), default=last.error),
        transfer=last.error - first.error,
        metric_transfer=metrics[-1] - metrics[0] if len(metrics) > 1 else None,
    )


def _cell(
    space: SpaceName,
    versions: Sequence[Row[Any]],
    lives: Sequence[tuple[int, int | None]],
    number: int,
    measured: Mapping[int, float],
) -> RetentionCell | None:
    if not any(since <= number and (until is None or number < until) for since, until in lives):
        return None
    row = next((row for row in reversed(versions) if row.number <= number), None)
    if row is None:
        return None
    return RetentionCell(
        ref=f"{space}/{row.task_name}@v{row.version}",
        version=Version(row.version),
        error=row.error,
        bound=row.bound,
        made=row.number == number,
        metric=measured.get(row.version),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
