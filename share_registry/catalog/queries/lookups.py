"""What writers and readers of a registry ask of its catalog, one question a function.

Every function takes a session and runs a bounded number of indexed statements. Task names may be
older names: they lead to the task. Statements that every commit or checkout asks are put together
once: that takes several times as long as running them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Select,
    bindparam,
    func,
    select,
    tuple_,
)
from sqlalchemy.orm import Session

from share_registry.catalog.sql import pieces
from share_registry.catalog.tables import (
    TABLES,
    TEXT,
    AliasRow,
    CommitRow,
    LabelRow,
    LeaseRow,
    MetricRow,
    ModuleRow,
    SpaceRow,
    TagRow,
    TaskLifeRow,
    TaskNameRow,
    VersionRow,
)
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version

if TYPE_CHECKING:
    from sqlalchemy import Row

    from share_registry.values.task_version import TaskVersion


_OTHERS: Final = VersionRow.table.alias()
"""Versions beside those that are asked for."""
SPACE: Final[BindParameter[str]] = bindparam("space", type_=TEXT)
TASK: Final[BindParameter[str]] = bindparam("task", type_=TEXT)
VERSION: Final[BindParameter[int]] = bindparam("version", type_=BigInteger)
"""What statements that are put together once are asked with."""
EVER: Final = (1 << 63) - 1
"""A commit number behind every other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The newest commit of a space that the catalog knows."""

    number: CommitNumber
    id: Digest
    time: str


def space_names(session: Session) -> list[SpaceName]:
    """Return the names of all spaces, sorted."""
    return [SpaceName(name) for name in session.scalars(_space_names())]


def space_row(session: Session, space: str) -> "Row[Any] | None":
    """Return a space, with the columns of `SpaceRow`."""
    return session.execute(_space_row(), {"space": space}).one_or_none()


def heads(session: Session) -> dict[SpaceName, Head]:
    """Return the head of every space."""
    return {SpaceName(row[0]): _head_of(row) for row in session.execute(_heads())}


def head(session: Session, space: str) -> Head | None:
    """Return the head of a space, None where the catalog knows no commit of it."""
    found = session.execute(_head(), {"space": space}).one_or_none()
    return None if found is None else _head_of(found)


def commit_of_key(session: Session, space: str, key: str) -> CommitNumber | None:
    """Return the commit that was made with an idempotency key."""
    found = session.scalar(_commit_of_key(), {"space": space, "key": key})
    return None if found is None else CommitNumber(found)


def task_names(session: Session, space: str) -> list[TaskName]:
    """Return the present names of all tasks of a space, dropped ones included, sorted."""
    query = (
        select(TaskNameRow.name)
        .where(TaskNameRow.space == space, TaskNameRow.until.is_(None))
        .order_by(TaskNameRow.name)
    )
    return [TaskName(name) for name in session.scalars(query)]


def current_name(session: Session, space: str, name: str) -> TaskName | None:
    """Return the present name of the task that has or had a name."""
    found = session.scalar(_current_name(), {"space": space, "task": name})
    return None if found is None else TaskName(found)


def live_tasks(session: Session, space: str) -> int:
    """Return the number of live tasks of a space."""
    return session.scalar(_live_tasks(), {"space": space}) or 0


def commit_of_adapter(session: Session, space: str, digest: str) -> CommitNumber | None:
    """Return the commit that brought an adapter object into a space."""
    found = session.scalar(_commit_of_adapter(), {"space": space, "digest": digest})
    return None if found is None else CommitNumber(found)


def version_row(session: Session, space: str, task: str, version: int) -> "TaskVersion | None":
    """Return a version of a task."""
    return _one_version(
        session, _version_of_task(), {"space": space, "task": task, "version": version}
    )


def latest_version(session: Session, space: str, task: str) -> "TaskVersion | None":
    """Return the newest version of a task, live or dropped."""
    return _one_version(session, _newest_of_task(), {"space": space, "task": task})


def latest_versions(session: Session, space: str) -> "list[TaskVersion]":
    """Return the newest version of every live task of a space, by task in order of creation."""
    return [_task_version(row) for row in session.execute(_live(space).order_by(VersionRow.task))]


def last_absorbed(session: Session, space: str, count: int) -> "list[TaskVersion]":
    """Return the newest versions of the live tasks that were committed to last, in the order of commits."""
    rows = session.execute(
        _live(space).order_by(VersionRow.number.desc(), VersionRow.task.desc()).limit(count)
    ).all()
    return [_task_version(row) for row in reversed(rows)]


def closest_versions(
    session: Session, space: str, rows: "Sequence[TaskVersion]"
) -> "list[TaskVersion]":
    """Return for each of a space's newest versions the one of the same adapter as handed in that is nearest to it: mostly itself."""
    nearer, named = (
        VersionRow.table.alias(),
        (TaskNameRow.space == space, TaskNameRow.until.is_(None)),
    )
    same = (
        (nearer.c.space == VersionRow.space)
        & (nearer.c.task == VersionRow.task)
        & (nearer.c.source_digest == VersionRow.source_digest)
    )
    joined = TaskNameRow.table.join(
        VersionRow.table,
        (VersionRow.space == TaskNameRow.space) & (VersionRow.task == TaskNameRow.task),
    )
    joined = joined.join(nearer, same & (nearer.c.error < VersionRow.error))
    query = (
        select(TaskNameRow.name, nearer.c.version)
        .select_from(joined)
        .where(*named, VersionRow.version == _latest())
    )
    ordered = session.execute(
        query.order_by(nearer.c.error.desc(), nearer.c.version.desc())
    )  # of a task the last counts: the nearest
    found = {str(name): int(version) for name, version in ordered}
    return [
        row
        if row.task not in found
        else version_row(session, space, row.task, found[row.task]) or row
        for row in rows
    ]


def version_rows(
    session: Session, space: str, wanted: "Collection[tuple[int, int | None]]"
) -> "dict[tuple[int, int | None], TaskVersion]":
    """Return versions by the task's number and the version, None for its newest one.

    Those that are not there are left out.
    """
    query = (
        _versions()
        .add_columns(VersionRow.task.label("task_number"))
        .where(VersionRow.space == space)
    )
    found: dict[tuple[int, int | None], TaskVersion] = {}
    for piece in pieces(sorted(task for task, version in wanted if version is None)):
        for row in session.execute(
            query.where(VersionRow.task.in_(piece), VersionRow.version == _latest())
        ):
            found[row.task_number, None] = _task_version(row)
    for pairs in pieces(sorted((task, version) for task, version in wanted if version is not None)):
        for row in session.execute(
            query.where(tuple_(VersionRow.task, VersionRow.version).in_(pairs))
        ):
            found[row.task_number, row.version] = _task_version(row)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBasis:
    """The basis of a space: its object, and the commit that brought it."""

    digest: Digest
    number: CommitNumber


def current_basis(session: Session, space: str, *, at: int | None = None) -> KnownBasis | None:
    """Return the basis that a space has, now or after a commit; None where it has none."""
    found = session.execute(
        _basis(), {"space": space, "at": EVER if at is None else at}
    ).one_or_none()
    return (
        None
        if found is None
        else KnownBasis(digest=Digest(str(found[0])), number=CommitNumber(found[1]))
    )


def commit_of_basis(session: Session, space: str, digest: str) -> CommitNumber | None:
    """Return the commit that brought a basis object into a space."""
    found = session.scalar(
        select(func.min(CommitRow.number)).where(
            CommitRow.space == space, CommitRow.basis == digest
        )
    )
    return None if found is None else CommitNumber(found)


def candidate_adapters(session: Session, space: str, *, first: int, latest: int) -> list[Digest]:
    """Return the first and the latest few distinct adapters absorbed into a space.

    Earliest first, then latest first.
    """
    early, late = (
        session.scalars(query, {"space": space, "count": count}).all()
        for query, count in zip(_absorbed(), (first, latest), strict=True)
    )
    return [Digest(digest) for digest in dict.fromkeys([*early, *late])]


def module_shapes(session: Session, space: str) -> dict[str, tuple[int, int, int]]:
    """Return (out, in, experts) of every factored module of a space."""
    return {
        row.module: (row.out, row.width, row.experts)
        for row in session.execute(_module_shapes(), {"space": space})
    }


def alias_target(session: Session, space: str, task: str, alias: str) -> Version | None:
    """Return the version an alias of a task is at now."""
    query = select(AliasRow.version).where(
        AliasRow.space == space,
        AliasRow.task == task_of(space, task),
        AliasRow.name == alias,
        AliasRow.until.is_(None),
    )
    found = session.scalar(query)
    return None if found is None else Version(found)


def alias_names(session: Session, space: str) -> set[str]:
    """Return every alias name ever used in a space."""
    return set(session.scalars(select(AliasRow.name).where(AliasRow.space == space).distinct()))


def tag_names(session: Session, space: str) -> set[str]:
    """Return the tags of a space."""
    return set(session.scalars(select(TagRow.name).where(TagRow.space == space)))


def tag_target(session: Session, space: str, tag: str) -> "Row[Any] | None":
    """Return a tag: `number` is the commit it names, `since` the one that gave it."""
    return session.execute(
        select(TagRow.table).where(TagRow.space == space, TagRow.name == tag)
    ).one_or_none()


def labels_of(session: Session, space: str, task: str, version: int) -> dict[str, str]:
    """Return the labels a task version has now, sorted by name."""
    return dict(_annotations(session, LabelRow, space, task, version))


def metrics_of(session: Session, space: str, task: str, version: int) -> dict[str, float]:
    """Return the metrics a task version has now, sorted by name."""
    return {
        name: float(value) for name, value in _annotations(session, MetricRow, space, task, version)
    }


def annotation_names(session: Session, space: str, task: str, version: int) -> set[str]:
    """Return the names of the labels and metrics a task version has now."""
    return {
        name
        for row in (LabelRow, MetricRow)
        for name, _ in _annotations(session, row, space, task, version)
    }


def dump(session: Session) -> dict[str, list[tuple[object, ...]]]:
    """Return every row that follows from the records, sorted.

    Equal for equal catalogs, whatever database they are in.
    """
    tables = [table for table in TABLES.sorted_tables if table is not LeaseRow.table]
    return {
        table.name: sorted((tuple(row) for row in session.execute(select(table))), key=repr)
        for table in tables
    }


def task_of(space: str | BindParameter[str], name: str | BindParameter[str]) -> ColumnElement[int]:
    """Return the number of the task that has or had a name, as a scalar subquery."""
    return (
        select(TaskNameRow.task)
        .where(TaskNameRow.space == space, TaskNameRow.name == name)
        .limit(1)
        .scalar_subquery()
    )


def _annotations(
    session: Session, row: type[LabelRow | MetricRow], space: str, task: str, version: int
) -> list[tuple[str, str]]:
    query = select(row.name, row.value).where(
        row.space == space,
        row.task == task_of(space, task),
        row.version == version,
        row.until.is_(None),
    )
    return [(name, value) for name, value in session.execute(query.order_by(row.name))]


@cache
def _space_names() -> Select[str]:
    return select(SpaceRow.name).order_by(SpaceRow.name)


@cache
def _space_row() -> "Select[Any]":
    return select(SpaceRow.table).where(SpaceRow.name == SPACE)


@cache
def _live_tasks() -> Select[int]:
    return select(SpaceRow.live).where(SpaceRow.name == SPACE)


@cache
def _heads() -> Select[str, int, str, str]:
    newest = (CommitRow.space == SpaceRow.name) & (CommitRow.number == SpaceRow.head)
    return (
        select(SpaceRow.name, SpaceRow.head, SpaceRow.head_id, CommitRow.time)
        .join(CommitRow.table, newest)
        .order_by(SpaceRow.name)
    )


@cache
def _head() -> Select[str, int, str, str]:
    return _heads().where(SpaceRow.name == SPACE)


def _head_of(row: "Row[str, int, str, str]") -> Head:
    return Head(number=CommitNumber(row[1]), id=Digest(row[2]), time=row[3])


@cache
def _commit_of_key() -> Select[int]:
    return select(CommitRow.number).where(
        CommitRow.space == SPACE, CommitRow.key == bindparam("key", type_=TEXT)
    )


@cache
def _current_name() -> Select[str]:
    return select(TaskNameRow.name).where(
        TaskNameRow.space == SPACE,
        TaskNameRow.task == task_of(SPACE, TASK),
        TaskNameRow.until.is_(None),
    )


@cache
def _commit_of_adapter() -> Select[int]:
    return select(func.min(VersionRow.number)).where(
        VersionRow.space == SPACE, VersionRow.adapter_digest == bindparam("digest", type_=TEXT)
    )


@cache
def _basis() -> Select[str | None, int]:
    query = select(CommitRow.basis, CommitRow.number).where(
        CommitRow.space == SPACE, CommitRow.basis.is_not(None)
    )
    return (
        query.where(CommitRow.number <= bindparam("at", type_=BigInteger))
        .order_by(CommitRow.number.desc())
        .limit(1)
    )


@cache
def _absorbed() -> tuple[Select[str], Select[str]]:
    """Return what selects so many distinct adapters of a space: the first and the latest."""
    earlier = tuple_(_OTHERS.c.number, _OTHERS.c.task) < tuple_(VersionRow.number, VersionRow.task)
    repeats = (
        select(_OTHERS.c.task)
        .where(
            _OTHERS.c.space == VersionRow.space,
            _OTHERS.c.adapter_digest == VersionRow.adapter_digest,
            earlier,
        )
        .exists()
    )
    absorbed = (
        select(VersionRow.adapter_digest)
        .where(VersionRow.space == SPACE, ~repeats)
        .limit(bindparam("count", type_=BigInteger))
    )
    return absorbed.order_by(VersionRow.number, VersionRow.task), absorbed.order_by(
        VersionRow.number.desc(), VersionRow.task.desc()
    )


@cache
def _module_shapes() -> "Select[Any]":
    return select(ModuleRow.table).where(ModuleRow.space == SPACE)


@cache
def _version_of_task() -> "Select[Any]":
    return _versions().where(
        VersionRow.space == SPACE,
        VersionRow.task == task_of(SPACE, TASK),
        VersionRow.version == VERSION,
    )


@cache
def _newest_of_task() -> "Select[Any]":
    return (
        _versions()
        .where(VersionRow.space == SPACE, VersionRow.task == task_of(SPACE, TASK))
        .order_by(VersionRow.version.desc())
        .limit(1)
    )


def _one_version(
    session: Session, query: "Select[Any]", asked: dict[str, object]
) -> "TaskVersion | None":
    row = session.execute(query, asked).one_or_none()
    return None if row is None else _task_version(row)


def _live(space: str) -> "Select[Any]":
    lives = TaskLifeRow.table.alias()
    newest = (
        select(func.max(_OTHERS.c.version))
        .where(_OTHERS.c.space == lives.c.space, _OTHERS.c.task == lives.c.task)
        .scalar_subquery()
    )
    version = (
        (VersionRow.space == lives.c.space)
        & (VersionRow.task == lives.c.task)
        & (VersionRow.version == newest)
    )
    return _versions().join(lives, version).where(lives.c.space == space, lives.c.until.is_(None))


def _latest() -> ColumnElement[int]:
    return (
        select(func.max(_OTHERS.c.version))
        .where(_OTHERS.c.space == VersionRow.space, _OTHERS.c.task == VersionRow.task)
        .scalar_subquery()
    )


@cache
def _versions() -> "Select[Any]":
    alive = select(TaskLifeRow.task).where(
        TaskLifeRow.space == VersionRow.space,
        TaskLifeRow.task == VersionRow.task,
        TaskLifeRow.until.is_(None),
    )
    named = (
        (TaskNameRow.space == VersionRow.space)
        & (TaskNameRow.task == VersionRow.task)
        & TaskNameRow.until.is_(None)
    )
    made = (CommitRow.space == VersionRow.space) & (CommitRow.number == VersionRow.number)
    around = (
        TaskNameRow.name.label("present"),
        alive.exists().label("live"),
        _latest().label("latest"),
        CommitRow.id.label("commit_id"),
        CommitRow.time,
    )
    joined = VersionRow.table.join(TaskNameRow.table, named).join(CommitRow.table, made)
    return select(
        *(column for column in VersionRow.table.c if column.key != "task"), *around
    ).select_from(joined)


def _task_version(row: "Row[Any]") -> "TaskVersion":
    from share_registry.values.task_version import TaskVersion

    columns = dict(row._mapping)
    columns.pop("task_number", None)
    return TaskVersion(**columns | {"task": columns.pop("present"), "live": bool(columns["live"])})
