"""Labels and metrics of task versions: what notes say, as rows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select

from share_registry.catalog.projection.writer import RecordWriter
from share_registry.catalog.sql import clean, pieces
from share_registry.catalog.tables import LabelRow, MetricRow
from share_registry.errors import IntegrityError

if TYPE_CHECKING:
    from share_registry.format.layout import Entry
    from share_registry.format.records import TaskNote


def rows(
    step: RecordWriter, task: int, version: int, entries: "list[Entry]"
) -> list[dict[str, object]]:
    """Return the rows of labels or metrics that hold from now on.

    Of a name given twice the last holds.
    """
    values = {clean(entry.name): clean(entry.value) for entry in entries}
    return [
        {"task": task, "version": version, "name": name, "since": step.number, "value": value}
        for name, value in sorted(values.items())
    ]


def metrics(
    step: RecordWriter, task: int, version: int, entries: "list[Entry]"
) -> list[dict[str, object]]:
    """Return the rows of metrics. Raises IntegrityError where a value is not a number."""
    for entry in entries:
        try:
            float(entry.value)
        except ValueError as error:
            raise IntegrityError(
                f"{step.what} gives the metric {entry.name!r} the value {entry.value[:40]!r}, expected a number."
            ) from error
    return rows(step, task, version, entries)


def change(step: RecordWriter, task: int, version: int, said: "TaskNote | None") -> None:
    """Set and remove labels and metrics of a version as a note says."""
    if said is None:
        return
    for row, new in (
        (LabelRow, rows(step, task, version, said.labels)),
        (MetricRow, metrics(step, task, version, said.metrics)),
    ):
        gone = sorted(
            {*(clean(name) for name in said.removed), *(str(values["name"]) for values in new)}
        )
        if gone:
            step.end(row, row.task == task, row.version == version, row.name.in_(gone))
        step.add(row, new)


def repeat(step: RecordWriter, versions: Mapping[int, tuple[int, int]], *, metrics: bool) -> None:
    """Give versions the labels, and where they decode to the same tensors the metrics, that other versions of their tasks have now: task -> (to, of)."""
    for row in (LabelRow, MetricRow) if metrics else (LabelRow,):
        held = (
            select(row.task, row.version, row.name, row.value)
            .where(row.space == step.space, row.until.is_(None))
            .order_by(row.task, row.name)
        )
        found = [
            said
            for piece in pieces(sorted(versions))
            for said in step.session.execute(
                held.where(row.task.in_(piece), row.version.in_(_of(versions, piece)))
            )
        ]
        step.add(
            row,
            [
                {
                    "task": task,
                    "version": versions[task][0],
                    "name": name,
                    "since": step.number,
                    "value": value,
                }
                for task, version, name, value in found
                if version == versions[task][1]
            ],
        )


def _of(versions: Mapping[int, tuple[int, int]], tasks: Sequence[int]) -> list[int]:
    return sorted({versions[task][1] for task in tasks})


def phrase(said: "TaskNote | None") -> str:
    """Return which labels and metrics a note changes; the values stand in the rows."""
    if said is None:
        return ""
    groups = (
        ("labels", sorted({e.name for e in said.labels})),
        ("metrics", sorted({e.name for e in said.metrics})),
        ("removed", sorted(set(said.removed))),
    )
    return clean("; ".join(f"{word} {', '.join(names)}" for word, names in groups if names))
