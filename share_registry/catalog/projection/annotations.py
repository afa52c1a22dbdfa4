"""Labels and metrics of task versions: what notes say, as rows."""

from collections.abc import Mapping
from typing import TypeAlias

from sqlalchemy import select, update

from share_registry.catalog.projection.writer import RecordWriter
from share_registry.catalog.sql import clean, pieces
from share_registry.catalog.tables import LabelRow, MetricRow, VersionRow
from share_registry.format.notes import TaskNote
from share_registry.format.records import AbsorbRecord, AnnotateRecord, MergeRecord, Record

AnnotationRow: TypeAlias = type[LabelRow] | type[MetricRow]


def new_rows(
    writer: RecordWriter, row: AnnotationRow, task: int, version: int, note: TaskNote
) -> list[dict[str, object]]:
    """Return the labels or metrics that hold from this record on.

    Of a name that is given twice the last holds.
    """
    entries = note.labels if row is LabelRow else note.metrics
    values = {clean(entry.name): clean(entry.value) for entry in entries}
    return [
        {"task": task, "version": version, "name": name, "since": writer.number, "value": value}
        for name, value in sorted(values.items())
    ]


def change(writer: RecordWriter, task: int, version: int, note: TaskNote) -> None:
    """Set and remove labels and metrics of a version as a note says."""
    for row in (LabelRow, MetricRow):
        rows = new_rows(writer, row, task, version, note)
        ended = {*map(clean, note.removed), *(str(values["name"]) for values in rows)}
        if ended:
            writer.end(row, row.task == task, row.version == version, row.name.in_(sorted(ended)))
        writer.add(row, rows)


def repeat(writer: RecordWriter, versions: Mapping[int, tuple[int, int]], *, metrics: bool) -> None:
    """Give versions the labels that other versions of their tasks have now.

    Args:
        writer: The record.
        versions: By task: the version that gets them, and the one that has them.
        metrics: Give the metrics too, where both decode to the same tensors.
    """
    for row in (LabelRow, MetricRow) if metrics else (LabelRow,):
        query = (
            select(row.task, row.version, row.name, row.value)
            .where(row.space == writer.space, row.until.is_(None))
            .order_by(row.task, row.name)
        )
        for piece in pieces(sorted(versions)):
            sources = sorted({versions[task][1] for task in piece})
            annotated = writer.session.execute(
                query.where(row.task.in_(piece), row.version.in_(sources))
            )
            writer.add(
                row,
                [
                    {
                        "task": task,
                        "version": versions[task][0],
                        "name": name,
                        "since": writer.number,
                        "value": value,
                    }
                    for task, version, name, value in annotated
                    if version == versions[task][1]
                ],
            )


def forget(writer: RecordWriter, record: Record, reason: str) -> None:
    """Make unknown what the note of a record said that is not there any more (spec NOT-06).

    What was said before must not be taken for it.
    """
    if isinstance(record, AnnotateRecord):
        task, said = writer.task(record.task).task, "labels and metrics"
        for row in (LabelRow, MetricRow):
            writer.end(row, row.task == task, row.version == record.version)
        versions = [VersionRow.task == task, VersionRow.version == record.version]
    elif isinstance(record, AbsorbRecord | MergeRecord):
        said = "source, config, other files, labels and metrics"
        versions = [VersionRow.number == writer.number]
    else:
        return
    remark = f"{said} are not known from c{writer.number} on: {reason}."
    here = VersionRow.space == writer.space
    rows = select(VersionRow.task, VersionRow.version, VersionRow.remarks).where(here, *versions)
    for number, version, remarks in writer.session.execute(rows).all():
        writer.session.execute(
            update(VersionRow.table)
            .where(here, VersionRow.task == number, VersionRow.version == version)
            .values(remarks=(*remarks, remark))
        )
