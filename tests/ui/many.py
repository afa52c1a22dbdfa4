"""Many tasks at the cost of one: records that name one stored adapter over and over."""

from collections.abc import Mapping, Sequence
from typing import Any

import share_registry as sr
from share_registry.catalog.queries.resolution import version_of
from share_registry.format.layout import Entry
from share_registry.format.notes import Metric, Note, TaskNote
from share_registry.format.records import AbsorbRecord, parse_record
from share_registry.names import SpaceName
from share_registry.registry.checkout.checkout import read_task_note
from share_registry.registry.commands.publish import publish


def commit_copies(
    registry: sr.Registry,
    ref: str,
    names: Sequence[str],
    *,
    version: int = 1,
    labels: Mapping[str, Mapping[str, str]] | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Commit what a version stores as a version of many tasks, in one commit.

    Args:
        registry: Open for writing.
        ref: A version that a commit of adapters made.
        names: The tasks.
        version: Which version of each it becomes.
        labels, metrics: By task.
    """
    context = registry.context
    with context.reading() as session:
        row = version_of(session, ref, space=registry.scope)
    space = SpaceName(row.space)
    content = context.store.record(space, row.number)
    assert content is not None
    record = parse_record(content)
    assert isinstance(record, AbsorbRecord)
    stored = next(task for task in record.tasks if task.task == row.name)
    said = read_task_note(context, row)
    tasks = [
        stored.model_copy(update={"task": name, "version": version, "added_bytes": 0})
        for name in sorted(names)
    ]

    def note_of(name: str) -> TaskNote:
        update: dict[str, Any] = {
            "task": name,
            "labels": [Entry(name=k, value=v) for k, v in (labels or {}).get(name, {}).items()],
            "metrics": [
                Metric(name=k, value=repr(v)) for k, v in (metrics or {}).get(name, {}).items()
            ],
        }
        return said.model_copy(update=update)

    publish(
        context,
        space,
        lambda _, place: AbsorbRecord(**place, tasks=tasks),
        note=Note(tasks=[note_of(task.task) for task in tasks]),
    )
