"""New task versions: what absorb and restore records do to the rows."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Select, bindparam, func, select

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
from share_registry.errors import IntegrityError
from share_registry.format.layout import module_shapes_of

if TYPE_CHECKING:
    from sqlalchemy import Row

    from share_registry.format.layout import Layout
    from share_registry.format.records import (
        AbsorbedTask,
        AbsorbRecord,
        MergeRecord,
        Note,
        RefitRecord,
        RestoreRecord,
        TaskNote,
    )
    from share_registry.names import Digest

_COPIED = (
    "adapter_digest",
    "layout_digest",
    "tensors_digest",
    "source_digest",
    "budget",
    "error",
    "norm",
    "before",
    "bound",
    "raw_bytes",
    "config_digest",
    "note_digest",
    "note_task",
    "source_kind",
    "source_location",
    "source_revision",
    "remarks",
)
_INHERITED = (
    "config_digest",
    "note_digest",
    "note_task",
    "source_kind",
    "source_location",
    "source_revision",
    "remarks",
)
"""What a version that a refit made has from the version before."""
_Earlier: TypeAlias = "dict[int, Row[Any]]"
"""Rows of versions that are re-expressed, by number of task."""


def refit(
    step: RecordWriter,
    record: "RefitRecord",
    note: "Note | None",
    layouts: "Mapping[Digest, Layout]",
) -> None:
    """Add one version for each task that was re-expressed.

    With the note and labels of the version before; metrics were measured on other tensors.
    """
    known = step.known(entry.task for entry in record.tasks)
    earlier = _newest(step, known.values())
    for entry in record.tasks:
        task = step.checked(known.get(entry.task), entry.task)
        if not task.live:
            raise IntegrityError(
                f"{step.what} re-expresses {entry.task!r}, which is dropped by then."
            )
        if entry.before is None:
            raise IntegrityError(
                f"{step.what} re-expresses {entry.task!r} without the error it had before."
            )
        if earlier[task.task].source_digest != entry.source:
            raise IntegrityError(
                f"{step.what} re-expresses {entry.task!r} of the source {entry.source[:12]}, expected {earlier[task.task].source_digest[:12]}."
            )
    _add(step, record, note, layouts, earlier)


def merge(
    step: RecordWriter,
    record: "MergeRecord",
    note: "Note | None",
    layouts: "Mapping[Digest, Layout]",
) -> None:
    """Add the version that was merged, with its parents and their weights."""
    parents = record.tasks[0].derived_from
    if len(parents) != len(record.weights):
        raise IntegrityError(
            f"{step.what} has {len(record.weights)} weights for {len(parents)} parents."
        )
    absorb(step, record, note, layouts)


def absorb(
    step: RecordWriter,
    record: "AbsorbRecord | MergeRecord",
    note: "Note | None",
    layouts: "Mapping[Digest, Layout]",
) -> None:
    """Add one version for each task of the record, and the tasks that are new."""
    odd = next((entry.task for entry in record.tasks if entry.before is not None), None)
    if odd is not None:
        raise IntegrityError(
            f"{step.what} ({record.kind}) gives {odd!r} an error before, which only a refit has."
        )
    _add(step, record, note, layouts, {})


def _add(
    step: RecordWriter,
    record: "AbsorbRecord | RefitRecord | MergeRecord",
    note: "Note | None",
    layouts: "Mapping[Digest, Layout]",
    earlier: "_Earlier",
) -> None:
    """Add the versions of a record.

    Those of tasks that have an earlier row take from it what was said of them.
    """
    names = [absorbed.task for absorbed in record.tasks]
    if names != sorted(set(names)):
        raise IntegrityError(f"{step.what} does not list its tasks sorted and once each.")
    parents = {parent.task for absorbed in record.tasks for parent in absorbed.derived_from}
    known = step.known({*names, *parents})
    of_note = {said.task: said for said in note.tasks} if note and not earlier else {}
    _check_versions(step, record.tasks, known)
    _learn_modules(step, record.tasks, layouts)
    tasks = known | _create_tasks(step, [name for name in names if name not in known])
    _revive(step, [tasks[name] for name in names])
    made = [
        _version(step, absorbed, tasks[absorbed.task], of_note.get(absorbed.task), record.note)
        for absorbed in record.tasks
    ]
    step.add(
        VersionRow,
        [
            values | _inherited(earlier.get(tasks[absorbed.task].task))
            for values, absorbed in zip(made, record.tasks, strict=True)
        ],
    )
    weights = record.weights if record.kind == "merge" else None
    step.add(
        ParentRow,
        [
            row
            for absorbed in record.tasks
            for row in _parents(step, absorbed, tasks[absorbed.task], known, weights)
        ],
    )
    step.touch({tasks[absorbed.task].task: absorbed.version for absorbed in record.tasks})
    said = [
        (tasks[absorbed.task].task, absorbed.version, of_note[absorbed.task])
        for absorbed in record.tasks
        if absorbed.task in of_note
    ]
    step.add(
        LabelRow,
        [
            row
            for task, version, spoken in said
            for row in annotations.rows(step, task, version, spoken.labels)
        ],
    )
    step.add(
        MetricRow,
        [
            row
            for task, version, spoken in said
            for row in annotations.metrics(step, task, version, spoken.metrics)
        ],
    )
    annotations.repeat(
        step, {task: (row.version + 1, row.version) for task, row in earlier.items()}, metrics=False
    )


def restore(step: RecordWriter, record: "RestoreRecord", note: "Note | None") -> None:
    """Repeat an earlier version as the newest one, with the labels and metrics it has now."""
    known = step.task(record.task)
    step.check_version(known, record.of)
    _check_next(step, record.task, record.version, known.latest)
    place = (
        (VersionRow.space == step.space)
        & (VersionRow.task == known.task)
        & (VersionRow.version == record.of)
    )
    earlier = step.session.execute(select(VersionRow.table).where(place)).one()
    _revive(step, [known])
    copied = {name: getattr(earlier, name) for name in _COPIED}
    own = {
        "task": known.task,
        "version": record.version,
        "number": step.number,
        "name": record.task,
        "added_bytes": 0,
        "restored_from": record.of,
    }
    step.add(VersionRow, [copied | own])
    step.touch({known.task: record.version})
    annotations.repeat(step, {known.task: (record.version, record.of)}, metrics=True)
    annotations.change(step, known.task, record.version, note.of(record.task) if note else None)


def _newest(step: RecordWriter, tasks: "Iterable[KnownTask]") -> "_Earlier":
    """Return the newest version's row of each task, by its number."""
    newest = {known.task: known.latest for known in tasks}
    query = select(VersionRow.table).where(
        VersionRow.space == step.space, VersionRow.version.in_(sorted(set(newest.values())))
    )
    rows = (
        row
        for piece in pieces(sorted(newest))
        for row in step.session.execute(query.where(VersionRow.task.in_(piece)))
    )
    return {row.task: row for row in rows if row.version == newest[row.task]}


def _inherited(earlier: "Row[Any] | None") -> dict[str, object]:
    """Return what a re-expressed version has from the one before; nothing for any other."""
    return {} if earlier is None else {name: getattr(earlier, name) for name in _INHERITED}


def _check_versions(
    step: RecordWriter, tasks: "Sequence[AbsorbedTask]", known: Mapping[str, KnownTask]
) -> None:
    for absorbed in tasks:
        before = known.get(absorbed.task)
        if before is not None:
            step.checked(before, absorbed.task)
        _check_next(step, absorbed.task, absorbed.version, before.latest if before else 0)


def _check_next(step: RecordWriter, name: str, version: int, latest: int) -> None:
    if version != latest + 1:
        raise IntegrityError(f"{step.what} makes {name}@v{version}, expected v{latest + 1}.")


def _create_tasks(step: RecordWriter, names: Sequence[str]) -> dict[str, KnownTask]:
    if not names:
        return {}
    last = step.session.scalar(_last_task(), {"space": step.space}) or 0
    made = {
        name: KnownTask(task=last + place, name=name, live=False, latest=0)
        for place, name in enumerate(names, start=1)
    }
    step.add(TaskRow, [{"task": known.task, "since": step.number} for known in made.values()])
    step.add(
        TaskNameRow,
        [{"name": name, "since": step.number, "task": known.task} for name, known in made.items()],
    )
    return made


@cache
def _last_task() -> Select[int]:
    return select(func.max(TaskRow.task)).where(TaskRow.space == SPACE)


def _revive(step: RecordWriter, tasks: Sequence[KnownTask]) -> None:
    dead = [known for known in tasks if not known.live]
    step.add(TaskLifeRow, [{"task": known.task, "since": step.number} for known in dead])
    step.count(len(dead))


def _version(
    step: RecordWriter,
    absorbed: "AbsorbedTask",
    known: KnownTask,
    said: "TaskNote | None",
    note_digest: "Digest | None",
) -> dict[str, object]:
    source = said.source if said else None
    return {
        "task": known.task,
        "version": absorbed.version,
        "number": step.number,
        "name": absorbed.task,
        "adapter_digest": absorbed.adapter,
        "layout_digest": absorbed.layout,
        "tensors_digest": absorbed.tensors,
        "source_digest": absorbed.source,
        "budget": None if absorbed.budget is None else float(absorbed.budget),
        "error": float(absorbed.error),
        "norm": float(absorbed.norm),
        "before": None if absorbed.before is None else float(absorbed.before),
        "bound": bool(absorbed.bound),
        "raw_bytes": absorbed.raw_bytes,
        "added_bytes": absorbed.added_bytes,
        "config_digest": said.config if said else None,
        "note_digest": note_digest,
        "note_task": absorbed.task,
        "source_kind": source.kind if source else None,
        "source_location": clean(source.location) if source else None,
        "source_revision": clean(source.revision) if source and source.revision else None,
        "remarks": tuple(said.remarks) if said else (),
    }


def _parents(
    step: RecordWriter,
    absorbed: "AbsorbedTask",
    child: KnownTask,
    known: Mapping[str, KnownTask],
    weights: "Sequence[str] | None",
) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for position, parent in enumerate(absorbed.derived_from):
        of = step.checked(known.get(parent.task), parent.task)
        step.check_version(of, parent.version)
        values = (
            child.task,
            absorbed.version,
            position,
            of.task,
            parent.version,
            weights[position] if weights else None,
        )
        found.append(
            dict(
                zip(
                    ("task", "version", "position", "parent_task", "parent_version", "weight"),
                    values,
                    strict=True,
                )
            )
        )
    return found


def _learn_modules(
    step: RecordWriter, tasks: "Sequence[AbsorbedTask]", layouts: "Mapping[Digest, Layout]"
) -> None:
    """Add the module shapes that layouts new to the space bring.

    Raises IntegrityError where a shape conflicts.
    """
    shapes: dict[str, tuple[int, int, int]] = {}
    for digest in sorted({absorbed.layout for absorbed in tasks} & layouts.keys()):
        for name, shape in module_shapes_of(layouts[digest]).items():
            if shapes.setdefault(name, shape) != shape:
                raise IntegrityError(
                    f"{step.what} gives module {name!r} two shapes: {shapes[name]} and {shape}."
                )
    known = known_shapes(step, sorted(shapes))
    for name, shape in known.items():
        if shapes[name] != shape:
            raise IntegrityError(
                f"{step.what} gives module {name!r} the shape {shapes[name]}, the space has {shape}."
            )
    new = [name for name in shapes if name not in known]
    step.add(
        ModuleRow,
        [
            {
                "module": name,
                "out": shapes[name][0],
                "width": shapes[name][1],
                "experts": shapes[name][2],
                "since": step.number,
            }
            for name in new
        ],
    )


def known_shapes(step: RecordWriter, modules: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return (out, in, experts) of those of some modules that the space knows."""
    return {
        row.module: (row.out, row.width, row.experts)
        for piece in pieces(modules)
        for row in step.session.execute(_shapes(), {"space": step.space, "modules": piece})
    }


@cache
def _shapes() -> Select[str, int, int, int]:
    query = select(ModuleRow.module, ModuleRow.out, ModuleRow.width, ModuleRow.experts)
    return query.where(
        ModuleRow.space == SPACE,
        ModuleRow.module.in_(bindparam("modules", expanding=True, type_=TEXT)),
    )
