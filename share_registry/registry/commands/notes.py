"""What a commit says of its adapters: the note, the record's entry, and the preview of a dry run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from share_registry.catalog.queries import lookups
from share_registry.format.layout import Entry
from share_registry.format.records import AbsorbedTask, Note, TaskNote, TaskVersionRef, decimal
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.registry.commands.encode import EncodedAdapter, NewBasis
from share_registry.registry.commands.preconditions import CommitOptions
from share_registry.registry.context import Context
from share_registry.values.commits import Commit

if TYPE_CHECKING:
    pass


def note_for(
    prepared: Mapping[TaskName, EncodedAdapter],
    options: CommitOptions,
    labels: Mapping[str, str],
    remarks: Mapping[TaskName, tuple[str, ...]],
) -> Note:
    """Return the note of a commit.

    What the caller said, with the labels of its environment, and of every task its files and
    remarks.
    """
    tasks = [
        TaskNote(
            task=task,
            labels=entries(labels),
            metrics=entries({name: repr(float(value)) for name, value in options.metrics.items()}),
            source=item.adapter.source,
            config=item.config,
            attachments=list(item.attachments),
            original=list(item.original),
            remarks=[*remarks[task], *item.remarks],
        )
        for task, item in prepared.items()
    ]
    return Note(author=options.author or None, message=options.message or None, tasks=tasks)


def entries(values: Mapping[str, str]) -> list[Entry]:
    """Return names and values as sorted entries."""
    return [Entry(name=name, value=value) for name, value in sorted(values.items())]


def absorbed(
    task: TaskName,
    version: Version,
    item: EncodedAdapter,
    added: int,
    parents: Sequence[TaskVersionRef],
) -> AbsorbedTask:
    """Return what a record says of an adapter that becomes a version."""
    return AbsorbedTask(
        task=task,
        version=version,
        adapter=item.adapter_digest,
        layout=item.layout_digest,
        tensors=item.tensors_digest,
        source=item.adapter.source_digest,
        budget=None if item.budget is None else decimal(item.budget),
        error=decimal(item.error),
        norm=decimal(item.norm),
        raw_bytes=item.adapter.raw_bytes,
        added_bytes=added,
        derived_from=list(parents),
    )


def rehearsed(
    context: Context,
    space: SpaceName,
    prepared: Mapping[TaskName, EncodedAdapter],
    options: CommitOptions,
    note: Note,
    *,
    kind: str = "absorb",
    fitted: NewBasis | None = None,
) -> Commit:
    """Return what a commit would be: no id, and `created` is False."""
    told: set[Digest] = set()
    added = {}
    for task, item in prepared.items():
        added[task] = sum(
            len(content)
            for digest, content in item.objects.items()
            if digest not in told and not context.store.has(digest)
        )
        told |= item.objects.keys()
    with context.catalog.begin() as session:
        known = lookups.head(session, space)
        versions: dict[str, Version] = {}
        for task in prepared:
            latest = lookups.latest_version(session, space, task) if known else None
            versions[task] = Version((latest.version if latest else 0) + 1)
    return Commit(
        number=CommitNumber((known.number if known else 1) + 1),
        id=Digest(""),
        parent=known.id if known else Digest(""),
        kind=kind,
        space=space,
        time=context.outside.now(),
        key="",
        author=options.author,
        message=options.message,
        refs={task: f"{space}/{task}@v{version}" for task, version in versions.items()},
        versions=versions,
        reports={
            task: replace(item.report, bytes_added=added[task], notes=tuple(note.of(task).remarks))
            for task, item in prepared.items()
        },
        labels=dict(options.labels),
        metrics=dict(options.metrics),
        detail="dry run: nothing was written",
        basis=fitted.report if fitted is not None else None,
        created=False,
    )
