"""What a commit says of its adapters: the note, the record's entries, the preview of a dry run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from share_registry.catalog.queries import lookups
from share_registry.format.records import AbsorbedTask, Note, TaskVersionRef, decimal
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.registry.commands.annotate import annotations
from share_registry.registry.commands.encode import EncodedAdapter, NewBasis
from share_registry.registry.commands.preconditions import CommitOptions
from share_registry.registry.context import Context
from share_registry.values.commits import Commit


def note_for(
    encoded: Mapping[TaskName, EncodedAdapter],
    options: CommitOptions,
    labels: Mapping[str, str],
    remarks: Mapping[TaskName, tuple[str, ...]],
) -> Note:
    """Return the note of a commit.

    Args:
        encoded: Its adapters.
        options: What the caller says.
        labels: The caller's, with those of its environment.
        remarks: What is worth knowing of a task besides what its adapter says.
    """
    tasks = []
    for task, item in encoded.items():
        members: dict[str, Any] = {"remarks": [*remarks[task], *item.adapter.remarks]}
        members |= annotations(labels, options.metrics)
        tasks.append(item.note.model_copy(update=members))
    return Note(author=options.author or None, message=options.message or None, tasks=tasks)


def record_entry(
    task: TaskName, version: Version, item: EncodedAdapter, parents: Sequence[TaskVersionRef] = ()
) -> AbsorbedTask:
    """Return what a record says of a stored adapter that becomes a version."""
    report = item.report
    return AbsorbedTask(
        task=task,
        version=version,
        adapter=item.digest,
        layout=item.layout_digest,
        tensors=item.tensors_digest,
        source=item.adapter.source_digest,
        budget=None if report.budget is None else decimal(report.budget),
        error=decimal(report.error),
        norm=decimal(item.norm),
        before=None if report.before is None else decimal(report.before),
        bound=report.bound or None,
        raw_bytes=report.raw_bytes,
        added_bytes=item.added_bytes,
        derived_from=list(parents),
    )


def preview_commit(
    context: Context,
    space: SpaceName,
    encoded: Mapping[TaskName, EncodedAdapter],
    note: Note,
    *,
    kind: str,
    labels: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    basis: NewBasis | None = None,
) -> Commit:
    """Return what a commit, merge or refit would be: no id, and `created` is False."""
    counted: set[Digest] = set()
    reports = {}
    for task, item in encoded.items():
        new = [digest for digest in item.objects if not context.store.has(digest)]
        size_bytes = sum(len(item.objects[digest]) for digest in new if digest not in counted)
        counted.update(new)
        remarks = tuple(note.of(task).remarks)
        reports[str(task)] = replace(item.report, bytes_added=size_bytes, notes=remarks)
    with context.catalog.begin() as session:
        head = lookups.head(session, space)
        versions: dict[str, Version] = {}
        for task in encoded:
            latest = lookups.latest_version(session, space, task) if head else None
            versions[task] = Version((latest.version if latest else 0) + 1)
    return Commit(
        number=CommitNumber((head.number if head else 1) + 1),
        id=Digest(""),
        parent=head.id if head else Digest(""),
        kind=kind,
        space=space,
        time=context.outside.now(),
        key="",
        author=note.author,
        message=note.message or "",
        refs={task: f"{space}/{task}@v{version}" for task, version in versions.items()},
        versions=versions,
        reports=reports,
        labels=dict(labels or {}),
        metrics=dict(metrics or {}),
        detail="dry run: nothing was written",
        basis=basis.report if basis is not None else None,
        created=False,
    )
