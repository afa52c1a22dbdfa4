"""Versions of tasks: by number, the newest, by content, and what may be coded against."""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Final, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    FromClause,
    Row,
    Select,
    bindparam,
    func,
    select,
    tuple_,
    union_all,
)

from share_registry.catalog.queries.lookups import AT, EVER, SPACE, TASK, VERSION, require_newest
from share_registry.catalog.sql import Session, clean, pieces
from share_registry.catalog.tables import (
    TEXT,
    CommitRow,
    TaskLifeRow,
    TaskNameRow,
    VersionRow,
    is_commit_of,
    names_task_of,
    task_of,
)
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.values.task_version import TaskVersion

# Versions beside those that are asked for
_OTHERS: Final = VersionRow.table.alias()
_COMMIT_OF_ADAPTER: Final = select(func.min(VersionRow.number)).where(
    VersionRow.space == SPACE, VersionRow.adapter_digest == bindparam("digest", type_=TEXT)
)


def commit_of_adapter(session: Session, space: str, digest: str) -> CommitNumber | None:
    """Return the commit that brought an adapter object into a space."""
    return cast(
        "CommitNumber | None",
        session.scalar(_COMMIT_OF_ADAPTER, {"space": space, "digest": digest}),
    )


def version_row(session: Session, space: str, task: str, version: int) -> TaskVersion | None:
    """Return a version of a task."""
    return _one_version(
        session, _version_of_task(), {"space": space, "task": task, "version": version}
    )


def latest_version(
    session: Session, space: str, task: str, *, at: int | None = None
) -> TaskVersion | None:
    """Return the newest version of a task, now or after a commit, live or dropped."""
    asked = {"space": space, "task": task, "at": EVER if at is None else at}
    return _one_version(session, _newest_of_task(), asked)


def latest_versions(session: Session, space: str) -> list[TaskVersion]:
    """Return the newest version of every live task of a space, by task in order of creation.

    Raises FormatError as `require_newest`.
    """
    require_newest(session, space)
    return [_task_version(row) for row in session.execute(_live(space).order_by(VersionRow.task))]


def last_absorbed(session: Session, space: str, count: int) -> list[TaskVersion]:
    """Return the newest versions of the live tasks committed to last, in the order of commits."""
    last = _live(space).order_by(VersionRow.number.desc(), VersionRow.task.desc()).limit(count)
    return [_task_version(row) for row in reversed(session.execute(last).all())]


def closest_versions(
    session: Session, space: str, rows: Sequence[TaskVersion]
) -> list[TaskVersion]:
    """Return for each newest version of a space the one nearest to the adapter it was made of.

    That is the version of the same source with the smallest error: mostly the newest itself.
    """
    nearer = VersionRow.table.alias()
    of_task = (VersionRow.space == TaskNameRow.space) & (VersionRow.task == TaskNameRow.task)
    is_nearer = (
        (nearer.c.space == VersionRow.space)
        & (nearer.c.task == VersionRow.task)
        & (nearer.c.source_digest == VersionRow.source_digest)
        & (nearer.c.error < VersionRow.error)
        & nearer.c.removed.is_(None)
    )
    query = (
        select(TaskNameRow.name, nearer.c.version)
        .select_from(TaskNameRow.table.join(VersionRow.table, of_task).join(nearer, is_nearer))
        .where(TaskNameRow.space == space, TaskNameRow.until.is_(None))
        .where(VersionRow.version == _latest(VersionRow.table))
        .order_by(nearer.c.error.desc(), nearer.c.version.desc())
    )
    # of a task the last row counts: the nearest
    nearest = {str(name): int(version) for name, version in session.execute(query)}
    return [
        row
        if row.task not in nearest
        else version_row(session, space, row.task, nearest[row.task]) or row
        for row in rows
    ]


def version_rows(
    session: Session, space: str, places: Collection[tuple[int, int | None]]
) -> dict[tuple[int, int | None], TaskVersion]:
    """Return versions by the task's number and the version, None for its newest one.

    Those that are not there are left out.
    """
    query = (
        _versions()
        .add_columns(VersionRow.task.label("task_number"))
        .where(VersionRow.space == space)
    )
    newest = query.where(VersionRow.version == _latest(VersionRow.table))
    rows: dict[tuple[int, int | None], TaskVersion] = {}
    for piece in pieces(sorted(task for task, version in places if version is None)):
        for row in session.execute(newest.where(VersionRow.task.in_(piece))):
            rows[row.task_number, None] = _task_version(row)
    for pairs in pieces(sorted((task, version) for task, version in places if version is not None)):
        numbered = query.where(tuple_(VersionRow.task, VersionRow.version).in_(pairs))
        for row in session.execute(numbered):
            rows[row.task_number, row.version] = _task_version(row)
    return rows


def versions_of_content(
    session: Session,
    spaces: Sequence[SpaceName],
    *,
    source: str,
    tensors: str,
    task: str | None = None,
) -> list[TaskVersion]:
    """Return the versions committed from a source, or that decode to these tensors, newest first.

    By space, then by commit; of one task, where one is named.
    """
    asked = {"task": task or "", "source": source, "tensors": tensors}
    query = _of_content(of_task=task is not None)
    versions = []
    for space in spaces:
        rows = session.execute(query, {"space": space, **asked})
        distinct = {(row.task, row.version): row for row in rows}.values()
        newest = sorted(distinct, key=lambda row: (-row.number, row.task))
        versions += [_task_version(row) for row in newest]
    return versions


def candidate_adapters(
    session: Session, space: str, *, first: int, latest: int, at: int | None = None
) -> list[Digest]:
    """Return the first and the latest few distinct adapters of a space, now or after a commit.

    Earliest first, then latest first.
    """
    asked = {"space": space, "at": EVER if at is None else at}
    early, late = (
        session.scalars(query, {**asked, "count": count}).all()
        for query, count in zip(_absorbed(), (first, latest), strict=True)
    )
    return [Digest(digest) for digest in dict.fromkeys([*early, *late])]


def latest_adapters_alone(
    session: Session, space: str, task: str, count: int, *, at: int | None = None
) -> set[Digest]:
    """Return the last few adapters that came to a task, without those that others have too.

    Of distinct ones the last to come first; now, or after a commit.
    """
    asked = {"space": space, "task": task, "count": count, "at": EVER if at is None else at}
    return set(map(Digest, session.scalars(_latest_of_task(), asked)))


def digests_before(session: Session, space: str, task: str, number: int) -> set[str]:
    """Return the source and the tensors of the version that a task had before a commit."""
    query = select(VersionRow.source_digest, VersionRow.tensors_digest).where(
        VersionRow.space == space,
        VersionRow.task == task_of(space, task),
        VersionRow.number < number,
    )
    row = session.execute(query.order_by(VersionRow.number.desc()).limit(1)).one_or_none()
    return set() if row is None else {*row}


def config_digests(session: Session, space: str) -> list[Digest]:
    """Return the distinct configs of the versions of a space, the last used first."""
    digest = VersionRow.config_digest
    query = (
        select(digest)
        .where(VersionRow.space == space, digest.is_not(None))
        .group_by(digest)
        .order_by(func.max(VersionRow.number).desc(), digest)
    )
    return [Digest(config) for config in session.scalars(query) if config is not None]


def all_versions(session: Session, space: str | None = None) -> list[TaskVersion]:
    """Return every version of every task of a space, or of all."""
    query = _versions().order_by(VersionRow.space, VersionRow.task, VersionRow.version)
    if space is not None:
        query = query.where(VersionRow.space == space)
    return [_task_version(row) for row in session.execute(query)]


def came_from(session: Session, space: str, task: str, location: str) -> bool:
    """Tell whether any version of a task came from a place; the newest are looked at first."""
    query = select(VersionRow.version).where(
        VersionRow.space == space,
        VersionRow.task == task_of(space, task),
        VersionRow.source_location == clean(location),
    )
    return session.scalar(query.order_by(VersionRow.version.desc()).limit(1)) is not None


def sources_of_commit(session: Session, space: str, number: int) -> dict[str, str]:
    """Return the source digest of every task that a commit made a version of, by name."""
    query = select(VersionRow.name, VersionRow.source_digest).where(
        VersionRow.space == space, VersionRow.number == number
    )
    return dict(iter(session.execute(query.order_by(VersionRow.name))))


@cache
def _absorbed() -> tuple[Select[str], Select[str]]:
    earlier = tuple_(_OTHERS.c.number, _OTHERS.c.task) < tuple_(VersionRow.number, VersionRow.task)
    same = _OTHERS.c.adapter_digest == VersionRow.adapter_digest
    repeats = select(_OTHERS.c.task).where(
        _OTHERS.c.space == VersionRow.space, same, earlier, _OTHERS.c.removed.is_(None)
    )
    absorbed = (
        select(VersionRow.adapter_digest)
        .where(VersionRow.space == SPACE, VersionRow.number <= AT, ~repeats.exists())
        .where(VersionRow.removed.is_(None))
        .limit(bindparam("count", type_=BigInteger))
    )
    return (
        absorbed.order_by(VersionRow.number, VersionRow.task),
        absorbed.order_by(VersionRow.number.desc(), VersionRow.task.desc()),
    )


@cache
def _latest_of_task() -> Select[str]:
    of_task = (VersionRow.space == SPACE, VersionRow.task == task_of(SPACE, TASK))
    came = (
        select(VersionRow.adapter_digest)
        .where(*of_task, VersionRow.number <= AT)
        .group_by(VersionRow.adapter_digest)
        .order_by(func.min(VersionRow.version).desc())
        .limit(bindparam("count", type_=BigInteger))
        .subquery()
    )
    elsewhere = select(_OTHERS.c.task).where(
        _OTHERS.c.space == SPACE,
        _OTHERS.c.adapter_digest == came.c.adapter_digest,
        _OTHERS.c.task != task_of(SPACE, TASK),
    )
    return select(came.c.adapter_digest).where(~elsewhere.exists())


@cache
def _version_of_task() -> Select[Any]:
    return _versions().where(
        VersionRow.space == SPACE,
        VersionRow.task == task_of(SPACE, TASK),
        VersionRow.version == VERSION,
    )


@cache
def _newest_of_task() -> Select[Any]:
    return (
        _versions()
        .where(
            VersionRow.space == SPACE,
            VersionRow.task == task_of(SPACE, TASK),
            VersionRow.number <= AT,
        )
        .order_by(VersionRow.version.desc())
        .limit(1)
    )


def _one_version(
    session: Session, query: Select[Any], place: dict[str, object]
) -> TaskVersion | None:
    row = session.execute(query, place).one_or_none()
    return None if row is None else _task_version(row)


def _live(space: str) -> Select[Any]:
    lives = TaskLifeRow.table.alias()
    version = (
        (VersionRow.space == lives.c.space)
        & (VersionRow.task == lives.c.task)
        & (VersionRow.version == _latest(lives))
    )
    return _versions().join(lives, version).where(lives.c.space == space, lives.c.until.is_(None))


def _latest(of: FromClause) -> ColumnElement[int]:
    return (
        select(func.max(_OTHERS.c.version))
        .where(_OTHERS.c.space == of.c.space, _OTHERS.c.task == of.c.task)
        .scalar_subquery()
    )


@cache
def _of_content(*, of_task: bool) -> CompoundSelect[Any]:
    """Return the question for versions by source, then by tensors, each answered by an index."""
    place = VersionRow.space == SPACE
    if of_task:
        place &= VersionRow.task == task_of(SPACE, TASK)
    digests = {"source": VersionRow.source_digest, "tensors": VersionRow.tensors_digest}
    return union_all(
        *(
            _versions().where(place, digest == bindparam(name, type_=TEXT))
            for name, digest in digests.items()
        )
    )


@cache
def _versions() -> Select[Any]:
    alive = select(TaskLifeRow.task).where(
        TaskLifeRow.space == VersionRow.space,
        TaskLifeRow.task == VersionRow.task,
        TaskLifeRow.until.is_(None),
    )
    return (
        select(
            *(column for column in VersionRow.table.c if column.key != "task"),
            TaskNameRow.name.label("task"),
            alive.exists().label("live"),
            _latest(VersionRow.table).label("latest"),
            CommitRow.id.label("commit_id"),
            CommitRow.time,
        )
        .join_from(VersionRow.table, TaskNameRow.table, names_task_of(VersionRow))
        .join(CommitRow.table, is_commit_of(VersionRow, VersionRow.number))
    )


def _task_version(row: Row[Any]) -> TaskVersion:
    columns = {name: value for name, value in row._mapping.items() if name != "task_number"}
    return TaskVersion(**columns)
