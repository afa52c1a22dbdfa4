"""What a commit says of encoded adapters: in its record and its note, or in its preview."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.sql import Session
from share_registry.errors import RefusedError, ensure
from share_registry.exchange.grown_vocabulary import is_same_module
from share_registry.format.fields import decimal
from share_registry.format.layout import Layout, UnlikeShape, learn_shapes
from share_registry.format.notes import Note
from share_registry.format.records import (
    COMMIT_CHECKS,
    FLOAT_HEADS,
    MODULE_SHAPES,
    AbsorbedTask,
    TaskVersionRef,
)
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.registry.arguments import CommitOptions
from share_registry.registry.commands.encode import EncodedAdapter, NewBasis
from share_registry.registry.context import Context
from share_registry.values.commits import Commit
from share_registry.values.text_table import shorten

# Letters of a remark: what a config says may stand in it, and that has no end.
_MAX_REMARK: Final = 4096
_OTHER_BASE: Final = "It was trained on another base model: commit it to another space."


def check_shapes(
    session: Session,
    space: SpaceName,
    layouts: Mapping[TaskName, Layout],
    *,
    present: Mapping[str, tuple[int, int, int]] | None = None,
) -> dict[TaskName, list[UnlikeShape]]:
    """Check that every module is of the base model of the space, and of the other layouts.

    Args:
        session: A transaction.
        space: The space.
        layouts: By task.
        present: The shapes of the space's modules, where they were asked for before.

    Returns:
        For each task its modules of another shape than the space first had: those of a grown
        vocabulary, and experts' that lie transposed.

    Raises:
        RefusedError: a module has a shape that another base model must have.
    """
    shapes = dict(lookups.module_shapes(session, space) if present is None else present)
    unlike = {task: learn_shapes(layout, shapes) for task, layout in sorted(layouts.items())}
    for each in chain.from_iterable(unlike.values()):
        ensure(
            is_same_module(each),
            RefusedError(
                f"module {each.module!r} is {_shape_text(each.shape)}, in space {space!r} it is "
                f"{_shape_text(each.first)}.",
                hint=_OTHER_BASE,
            ),
        )
    return unlike


def required_features(
    encoded: Iterable[EncodedAdapter],
    unlike: Mapping[TaskName, Sequence[UnlikeShape]] | None = None,
) -> list[str]:
    """Return what a reader must know of a record.

    Args:
        encoded: Its adapters: floats of some may be split (spec REC-21), some have passed checks
            (spec COM-14).
        unlike: Its modules of another shape than the space first had (spec REC-15).
    """
    encoded = list(encoded)
    features = {
        COMMIT_CHECKS: any(item.note.checks for item in encoded),
        FLOAT_HEADS: any(item.heads for item in encoded),
        MODULE_SHAPES: any((unlike or {}).values()),
    }
    return [feature for feature, is_used in features.items() if is_used]


def note_for(
    context: Context,
    encoded: Mapping[TaskName, EncodedAdapter],
    options: CommitOptions,
    remarks: Mapping[TaskName, tuple[str, ...]],
) -> Note:
    """Return the note of a commit.

    Args:
        context: The registry.
        encoded: Its adapters.
        options: What the caller says.
        remarks: What is worth knowing of a task besides what its adapter says.
    """
    tasks = [
        item.note.model_copy(
            update={
                # an adapter that was checked out brings some of them along
                "remarks": [
                    shorten(remark, _MAX_REMARK)
                    for remark in dict.fromkeys([*remarks[task], *item.adapter.remarks])
                ],
            }
        )
        for task, item in encoded.items()
    ]
    return Note(
        author=context.author_of(options.author), message=options.message or None, tasks=tasks
    )


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


def count_added(
    session: Session, stored: Mapping[TaskName, EncodedAdapter]
) -> dict[TaskName, EncodedAdapter]:
    """Return the adapters of a commit with the bytes of what no record or note named before.

    What a commit that failed, or an adapter that was never published, left in the store is new.
    """
    digests = {digest for item in stored.values() for digest in item.sizes}
    counted = lookups.named_objects(session, digests)
    adapters = {}
    for task, item in stored.items():
        new = item.sizes.keys() - counted
        counted |= new
        added_bytes = item.tensor_bytes + sum(item.sizes[digest] for digest in new)
        adapters[task] = replace(item, added_bytes=added_bytes)
    return adapters


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
        reports[str(task)] = replace(
            item.report,
            bytes_added=sum(len(item.objects[digest]) for digest in new if digest not in counted),
            notes=note.of(task).notes,
        )
        counted.update(new)
    with context.catalog.begin() as session:
        head = lookups.head(session, space)
        latest = {task: version_lookups.latest_version(session, space, task) for task in encoded}
    versions = {
        str(task): Version((row.version if row is not None else 0) + 1)
        for task, row in latest.items()
    }
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


def _shape_text(shape: tuple[int, int, int]) -> str:
    out, width, experts = shape
    return f"{out} x {width}" if experts == 1 else f"{experts} experts of {out} x {width}"
