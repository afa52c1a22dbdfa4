"""New task versions: what records that bring or repeat one do to the rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, TypeAlias

from sqlalchemy import Row, bindparam, func, select

from share_registry.catalog.projection import annotations
from share_registry.catalog.projection.writer import KnownTask, RecordWriter
from share_registry.catalog.queries.lookups import SPACE
from share_registry.catalog.sql import clean, pieces
from share_registry.catalog.tables import (
    TEXT,
    LabelRow,
    MetricRow,
    ModuleRow,
    ParentRow,
    TaskLifeRow,
    TaskNameRow,
    TaskRow,
    VersionRow,
)
from share_registry.errors import IntegrityError, ensure
from share_registry.format.layout import Layout, learn_shapes
from share_registry.format.notes import Note, TaskNote
from share_registry.format.records import (
    AbsorbedTask,
    AbsorbRecord,
    MergeRecord,
    RefitRecord,
    RestoreRecord,
)
from share_registry.names import Digest
from share_registry.values.task_version import REPEATED

# What a version that a refit made has from the version before
_INHERITED: Final = (
    "config_digest",
    "note_digest",
    "note_task",
    "source_kind",
    "source_location",
    "source_revision",
    "remarks",
)
# What a restored version has from the version that it repeats
_COPIED: Final = (*REPEATED, *_INHERITED)
# Rows of versions that are re-expressed, by number of task
_Earlier: TypeAlias = dict[int, Row[Any]]
_LAST_TASK: Final = select(func.max(TaskRow.task)).where(TaskRow.space == SPACE)
_SHAPES: Final = select(ModuleRow.module, ModuleRow.out, ModuleRow.width, ModuleRow.experts).where(
    ModuleRow.space == SPACE,
    ModuleRow.module.in_(bindparam("modules", expanding=True, type_=TEXT)),
)


def refit(
    writer: RecordWriter,
    record: RefitRecord,
    note: Note,
    layouts: Mapping[Digest, Layout],
) -> None:
    """Add one version for each task that was re-expressed.

    It has the note and labels of the version before; metrics were measured on other tensors.
    """
    tasks = writer.tasks(entry.task for entry in record.tasks)
    earlier = _newest(writer, tasks.values())
    for entry in record.tasks:
        subject = f"{writer.subject} re-expresses {entry.task!r}"
        task = writer.require_name(tasks.get(entry.task), entry.task)
        ensure(task.live, IntegrityError(f"{subject}, which is dropped by then."))
        for member, told, expected in _carried(entry, earlier[task.task]):
            ensure(
                told == expected,
                IntegrityError(f"{subject} with the {member} {told}, expected {expected}."),
            )
    _add(writer, record, note, layouts, earlier)


def merge(
    writer: RecordWriter,
    record: MergeRecord,
    note: Note,
    layouts: Mapping[Digest, Layout],
) -> None:
    """Add the version that was merged, with its parents and their weights."""
    weights, parents = len(record.weights), len(record.tasks[0].derived_from)
    ensure(
        weights == parents,
        IntegrityError(f"{writer.subject} has {weights} weights for {parents} parents."),
    )
    absorb(writer, record, note, layouts)


def absorb(
    writer: RecordWriter,
    record: AbsorbRecord | MergeRecord,
    note: Note,
    layouts: Mapping[Digest, Layout],
) -> None:
    """Add one version for each task of the record, and the tasks that are new."""
    odd = next((entry.task for entry in record.tasks if entry.before is not None), None)
    if odd is not None:
        raise IntegrityError(
            f"{writer.subject} ({record.kind}) gives {odd!r} an error before, "
            "which only a refit has."
        )
    _add(writer, record, note, layouts, {})


def restore(writer: RecordWriter, record: RestoreRecord, note: Note) -> None:
    """Repeat an earlier version as the newest one, with the labels and metrics it has now."""
    task = writer.task(record.task)
    writer.check_kept(task, record.of)
    _check_next(writer, record.task, record.version, task)
    repeated = writer.session.execute(
        select(VersionRow.table).where(
            VersionRow.space == writer.space,
            VersionRow.task == task.task,
            VersionRow.version == record.of,
        )
    ).one()
    _revive(writer, [task])
    version = {
        "task": task.task,
        "version": record.version,
        "number": writer.number,
        "name": record.task,
        "added_bytes": 0,
        "restored_from": record.of,
        **{name: getattr(repeated, name) for name in _COPIED},
    }
    writer.add_versions([version])
    writer.touch({task.task: record.version})
    annotations.repeat(writer, {task.task: (record.version, record.of)}, metrics=True)
    annotations.change(writer, task.task, record.version, note.of(record.task))


def _add(
    writer: RecordWriter,
    record: AbsorbRecord | RefitRecord | MergeRecord,
    note: Note,
    layouts: Mapping[Digest, Layout],
    earlier: _Earlier,
) -> None:
    """Add the versions of a record.

    Those of tasks that have an earlier row take from it what was said of them.
    """
    names = [entry.task for entry in record.tasks]
    ensure(
        names == sorted(set(names)),
        IntegrityError(f"{writer.subject} does not list its tasks sorted and once each."),
    )
    parents = {parent.task for entry in record.tasks for parent in entry.derived_from}
    before = writer.tasks({*names, *parents})
    for entry in record.tasks:
        _check_next(writer, entry.task, entry.version, before.get(entry.task))
    _learn_modules(writer, record.tasks, layouts)
    tasks = before | _create_tasks(writer, [name for name in names if name not in before])
    _revive(writer, [tasks[name] for name in names])
    notes = {} if earlier else {said.task: said for said in note.tasks}
    numbered = [(tasks[entry.task].task, entry) for entry in record.tasks]
    writer.add_versions(
        [
            _version_row(writer, task, entry, notes.get(entry.task), record.note, earlier.get(task))
            for task, entry in numbered
        ]
    )
    writer.add(
        ParentRow,
        [
            row
            for task, entry in numbered
            for row in _parent_rows(writer, record, task, entry, before)
        ],
    )
    writer.touch({task: entry.version for task, entry in numbered})
    for row in (LabelRow, MetricRow):
        writer.add(
            row,
            [
                values
                for task, entry in numbered
                if entry.task in notes
                for values in annotations.new_rows(
                    writer, row, task, entry.version, notes[entry.task]
                )
            ],
        )
    annotations.repeat(
        writer,
        {task: (row.version + 1, row.version) for task, row in earlier.items()},
        metrics=False,
    )


def _carried(entry: AbsorbedTask, row: Row[Any]) -> Iterator[tuple[str, object, object]]:
    """Yield what a re-expressed version says and has to, of the version before (spec REC-16)."""
    yield "error before", None if entry.before is None else float(entry.before), row.error
    yield "source", entry.source, row.source_digest
    yield "layout", entry.layout, row.layout_digest
    if row.norm:
        # a catalog upgraded from its first schema does not know it
        yield "norm", float(entry.norm), row.norm
    yield "size", entry.raw_bytes, row.raw_bytes


def _newest(writer: RecordWriter, tasks: Iterable[KnownTask]) -> _Earlier:
    newest = {task.task: task.latest for task in tasks}
    query = select(VersionRow.table).where(
        VersionRow.space == writer.space, VersionRow.version.in_(sorted(set(newest.values())))
    )
    return {
        row.task: row
        for piece in pieces(sorted(newest))
        for row in writer.session.execute(query.where(VersionRow.task.in_(piece)))
        if row.version == newest[row.task]
    }


def _check_next(writer: RecordWriter, name: str, version: int, task: KnownTask | None) -> None:
    latest = 0 if task is None else writer.require_name(task, name).latest
    ensure(
        version == latest + 1,
        IntegrityError(f"{writer.subject} makes {name}@v{version}, expected v{latest + 1}."),
    )


def _create_tasks(writer: RecordWriter, names: Sequence[str]) -> dict[str, KnownTask]:
    if not names:
        return {}
    last = writer.session.scalar(_LAST_TASK, {"space": writer.space}) or 0
    numbers = {name: last + place for place, name in enumerate(names, start=1)}
    writer.add(TaskRow, [{"task": task, "since": writer.number} for task in numbers.values()])
    writer.add(
        TaskNameRow,
        [{"name": name, "since": writer.number, "task": task} for name, task in numbers.items()],
    )
    return {
        name: KnownTask(task=task, name=name, live=False, latest=0)
        for name, task in numbers.items()
    }


def _revive(writer: RecordWriter, tasks: Sequence[KnownTask]) -> None:
    dead = [task for task in tasks if not task.live]
    writer.add(TaskLifeRow, [{"task": task.task, "since": writer.number} for task in dead])
    writer.count(len(dead))


def _version_row(
    writer: RecordWriter,
    task: int,
    entry: AbsorbedTask,
    note: TaskNote | None,
    note_digest: Digest | None,
    before: Row[Any] | None,
) -> dict[str, object]:
    source = note.source if note else None
    inherited = {name: getattr(before, name) for name in _INHERITED} if before is not None else {}
    return {
        "task": task,
        "version": entry.version,
        "number": writer.number,
        "name": entry.task,
        "adapter_digest": writer.read_for(entry.adapter),
        "layout_digest": entry.layout,
        "tensors_digest": entry.tensors,
        "source_digest": entry.source,
        "budget": None if entry.budget is None else float(entry.budget),
        "error": float(entry.error),
        "norm": float(entry.norm),
        "before": None if entry.before is None else float(entry.before),
        "bound": bool(entry.bound),
        "raw_bytes": entry.raw_bytes,
        "added_bytes": entry.added_bytes,
        "config_digest": note.config if note else None,
        "note_digest": writer.read_for(note_digest),
        "note_task": entry.task,
        "source_kind": source.kind if source else None,
        "source_location": clean(source.location) if source else None,
        "source_revision": clean(source.revision) if source and source.revision else None,
        "remarks": tuple(map(clean, note.notes)) if note else (),
        "removed": None,
        **inherited,
    }


def _parent_rows(
    writer: RecordWriter,
    record: AbsorbRecord | RefitRecord | MergeRecord,
    task: int,
    entry: AbsorbedTask,
    tasks: Mapping[str, KnownTask],
) -> Iterator[dict[str, object]]:
    for position, of in enumerate(entry.derived_from):
        parent = writer.require_name(tasks.get(of.task), of.task)
        writer.check_version(parent, of.version)
        yield {
            "task": task,
            "version": entry.version,
            "position": position,
            "parent_task": parent.task,
            "parent_version": of.version,
            "weight": record.weights[position] if record.kind == "merge" else None,
        }


def _learn_modules(
    writer: RecordWriter, entries: Sequence[AbsorbedTask], layouts: Mapping[Digest, Layout]
) -> None:
    """Add the module shapes that layouts new to the space bring.

    Raises IntegrityError where a module has one that cannot be of the same module.
    """
    named = [
        layouts[digest]
        for digest in dict.fromkeys(entry.layout for entry in entries)
        if digest in layouts
    ]
    modules = sorted({factor.module for layout in named for factor in layout.factors})
    present = {
        row.module: (row.out, row.width, row.experts)
        for piece in pieces(modules)
        for row in writer.session.execute(_SHAPES, {"space": writer.space, "modules": piece})
    }
    shapes = dict(present)
    for unlike in chain.from_iterable(learn_shapes(layout, shapes) for layout in named):
        ensure(
            unlike.may_be_same,
            IntegrityError(
                f"{writer.subject} gives module {unlike.module!r} the shape {unlike.shape}, "
                f"the space has {unlike.first}."
            ),
        )
    writer.add(
        ModuleRow,
        [
            {"module": name, "out": out, "width": width, "experts": experts, "since": writer.number}
            for name, (out, width, experts) in shapes.items()
            if name not in present
        ],
    )
