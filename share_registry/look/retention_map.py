"""The forgetting matrix as a heat map."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from share_registry.look.heat_map import LEAST_SPREAD, HeatCell, HeatMap, draw_heat_map, ends_of
from share_registry.look.units import count, measured, percent, time_text

if TYPE_CHECKING:
    from share_registry.values.analyses import (
        Retention,
        RetentionCell,
        RetentionCommit,
        RetentionRow,
    )

_MOST_ROWS: Final = 60
_MOST_COLUMNS: Final = 60


def retention_map(retention: "Retention") -> str:
    """Draw the error of every task, or its metric, at every commit that changed one.

    Tasks stand in the order in which they came. Of very many those that changed last are drawn,
    and the newest commits.
    """
    columns = range(max(len(retention.commits) - _MOST_COLUMNS, 0), len(retention.commits))
    rows = sorted(retention.rows, key=lambda row: row.first_column)
    rows = sorted(sorted(rows, key=_last_change)[-_MOST_ROWS:], key=lambda row: row.first_column)
    cells = [
        [
            _cell(row, retention.commits[column], row.cells[column], retention.metric)
            for column in columns
        ]
        for row in rows
    ]
    listed = [cell for each in cells for cell in each if cell is not None]
    least = LEAST_SPREAD if retention.metric is None else 0.0
    low, high = ends_of([cell.value for cell in listed] or [0.0], least=least)
    measure = retention.metric or "error"
    return draw_heat_map(
        HeatMap(
            title=f"{measure} of the tasks of {retention.space} over time",
            description=_describe(retention),
            corner="task",
            unit=retention.metric or "% of |dW|, relative error",
            rows=[row.task for row in rows],
            columns=[f"c{retention.commits[column].number}" for column in columns],
            cells=cells,
            low=low,
            high=high,
            ends=(_write(low, retention.metric), _write(high, retention.metric)),
            notes=_notes(retention, listed, len(rows), len(columns)),
        ),
        look="retention",
    )


def _last_change(row: "RetentionRow") -> int:
    """Return the last commit that made a version of a task."""
    return max(
        (column for column, cell in enumerate(row.cells) if cell is not None and cell.made),
        default=-1,
    )


def _cell(
    row: "RetentionRow",
    commit: "RetentionCommit",
    cell: "RetentionCell | None",
    metric: str | None,
) -> HeatCell | None:
    if cell is None:
        return None
    value = cell.error if metric is None else cell.metric
    if value is None:
        return None
    said = measured(value, bound=cell.bound) if metric is None else f"{value:.6g}"
    when = f"c{commit.number} {commit.kind}, {time_text(commit.time)[:10]}"
    return HeatCell(
        value=value,
        text=_write(value, metric),
        tip=f"{row.task}@v{cell.version} at {when}: {metric or 'error'} {said}",
        bound=cell.bound and metric is None,
        marked=cell.made,
    )


def _write(value: float, metric: str | None) -> str:
    if metric is not None:
        return f"{value:.3g}"
    return percent(max(value, 0.0)).removesuffix(" %")


def _describe(retention: "Retention") -> str:
    tasks, commits = count(len(retention.rows), "task"), count(len(retention.commits), "commit")
    return (
        f"{tasks} over {commits} that changed one. Mean error {percent(retention.mean)}, worst "
        f"{percent(retention.worst)}."
    )


def _notes(retention: "Retention", cells: Sequence[HeatCell], rows: int, columns: int) -> list[str]:
    notes = ["framed: this commit made the version"]
    if any(cell.bound for cell in cells):
        notes.append("corner: an upper bound")
    if rows < len(retention.rows):
        notes.append(f"{rows} of {len(retention.rows)} tasks: those that changed last")
    if columns < len(retention.commits):
        notes.append(f"{columns} of {len(retention.commits)} commits: the newest")
    return notes
