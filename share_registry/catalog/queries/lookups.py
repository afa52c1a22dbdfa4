"""What writers and readers of a registry ask of its catalog, one question a function.

Every function takes a session and runs a bounded number of indexed statements. Task names may be
older names: they lead to the task. Statements that every commit or checkout asks are put together
once: that takes several times as long as running them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    CompoundSelect,
    FromClause,
    Row,
    Select,
    bindparam,
    func,
    or_,
    select,
    tuple_,
    union_all,
)

from share_registry.catalog.sql import Session, clean, pieces
from share_registry.catalog.tables import (
    TEXT,
    AliasRow,
    CommitRow,
    LabelRow,
    MetricRow,
    ModuleRow,
    ObjectRow,
    SpaceRow,
    TagRow,
    TaskLifeRow,
    TaskNameRow,
    VersionRow,
    is_commit_of,
    names_task_of,
    task_of,
)
from share_registry.errors import ShareRegistryError
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName
from share_registry.values.task_version import TaskVersion

# Versions beside those that are asked for
_OTHERS: Final = VersionRow.table.alias()
SPACE: Final[BindParameter[str]] = bindparam("space", type_=TEXT)
TASK: Final[BindParameter[str]] = bindparam("task", type_=TEXT)
# What statements that are put together once are asked with
VERSION: Final[BindParameter[int]] = bindparam("version", type_=BigInteger)
AT: Final[BindParameter[int]] = bindparam("at", type_=BigInteger)
# Where a transaction holds what `mark_unknown` says
_UNKNOWN: Final = "unknown"
# A commit number behind every other
EVER: Final = (1 << 63) - 1
_SPACE_NAMES: Final = select(SpaceRow.name).order_by(SpaceRow.name)
_SPACE_ROW: Final = select(SpaceRow.table).where(SpaceRow.name == SPACE)
_LIVE_TASKS: Final = select(SpaceRow.live).where(SpaceRow.name == SPACE)
_HEADS: Final = (
    select(SpaceRow.name, SpaceRow.head, SpaceRow.head_id, CommitRow.time)
    # also where somebody took that commit's row away: the head is compared with the store
    .outerjoin(
        CommitRow.table, (CommitRow.space == SpaceRow.name) & (CommitRow.number == SpaceRow.head)
    )
    .order_by(SpaceRow.name)
)
_HEAD: Final = _HEADS.where(SpaceRow.name == SPACE)
_COMMIT_ID: Final = select(CommitRow.id).where(CommitRow.space == SPACE, CommitRow.number == AT)
_POLICY_CHANGE: Final = (
    select(CommitRow.number, CommitRow.id)
    .where(CommitRow.space == SPACE, or_(CommitRow.kind == "create", CommitRow.kind == "policy"))
    .order_by(CommitRow.number.desc())
    .limit(1)
)
_COMMIT_OF_KEY: Final = select(CommitRow.number).where(
    CommitRow.space == SPACE, CommitRow.key == bindparam("key", type_=TEXT)
)
# The task that has or had a name, with its present one
TASK_OF_NAME: Final = select(TaskNameRow.task, TaskNameRow.name).where(
    TaskNameRow.space == SPACE,
    TaskNameRow.task == task_of(SPACE, TASK),
    TaskNameRow.until.is_(None),
)
_COMMIT_OF_ADAPTER: Final = select(func.min(VersionRow.number)).where(
    VersionRow.space == SPACE, VersionRow.adapter_digest == bindparam("digest", type_=TEXT)
)
_BASIS: Final = (
    select(CommitRow.basis, CommitRow.number)
    .where(CommitRow.space == SPACE, CommitRow.basis.is_not(None))
    .where(CommitRow.number <= AT)
    .order_by(CommitRow.number.desc())
    .limit(1)
)
# every space: the key of the table begins with it
_NAMED_OBJECTS: Final = select(ObjectRow.digest).where(
    ObjectRow.space.in_(select(SpaceRow.name)),
    ObjectRow.digest.in_(bindparam("digests", expanding=True, type_=TEXT)),
)
_MODULE_SHAPES: Final = select(ModuleRow.table).where(ModuleRow.space == SPACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The newest commit of a space that the catalog knows."""

    number: CommitNumber
    id: Digest
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NameClaim:
    """A name in the catalog, and what the record must say that gave it.

    Attributes:
        name: The name.
        members: Members of the record, each with what it may be; of the name that a task came with,
            none: the record must make its first version.
        meaning: What the record did, as a phrase.
    """

    space: SpaceName
    number: CommitNumber
    commit_id: Digest
    name: str
    members: Mapping[str, Collection[object]]
    meaning: str


def names_of_task(session: Session, space: str, task: str) -> list[NameClaim]:
    """Return every name that a task has or had, in the order in which it got them."""
    query = (
        select(TaskNameRow.name, CommitRow.number, CommitRow.id)
        .join_from(TaskNameRow.table, CommitRow.table, is_commit_of(TaskNameRow, TaskNameRow.since))
        .where(TaskNameRow.space == space, TaskNameRow.task == task_of(space, task))
        .order_by(TaskNameRow.since)
    )
    namings: list[NameClaim] = []
    before: str | None = None
    for name, number, commit_id in session.execute(query):
        renames = {"kind": ("rename",), "task": (before,), "name": (name,)}
        namings.append(
            NameClaim(
                space=SpaceName(space),
                number=CommitNumber(number),
                commit_id=Digest(commit_id),
                name=name,
                members={} if before is None else renames,
                meaning=f"gave a task the name {name!r}",
            )
        )
        before = str(name)
    return namings


def space_names(session: Session) -> list[SpaceName]:
    """Return the names of all spaces, sorted."""
    return [SpaceName(name) for name in session.scalars(_SPACE_NAMES)]


def mark_unknown(session: Session, unknown: Mapping[SpaceName, ShareRegistryError]) -> None:
    """Say for a transaction in which spaces the log goes on with what cannot be read."""
    session.info[_UNKNOWN] = unknown


def unknown_newest(session: Session) -> Mapping[SpaceName, ShareRegistryError]:
    """Return why the newest state of a space is not known, by space; see `require_newest`."""
    unknown: Mapping[SpaceName, ShareRegistryError] = session.info.get(_UNKNOWN, {})
    return unknown


def require_newest(session: Session, space: str | None, *, after: int | None = None) -> None:
    """Check that the newest state of a space, or of every space, can be known.

    Args:
        session: A transaction.
        space: The space; None for all.
        after: Refuse only where this is the last commit that is known.

    Raises FormatError where records of a later release follow those that the catalog has (spec
    EVO-05), IntegrityError or StoreError where damaged ones do (spec COM-10).
    """
    unknown = unknown_newest(session)
    for name in unknown if space is None else unknown.keys() & {space}:
        last = None if after is None else head(session, name)
        if last is None or after == last.number:
            raise unknown[name]


def space_row(session: Session, space: str) -> Row[Any] | None:
    """Return a space, with the columns of `SpaceRow`."""
    return session.execute(_SPACE_ROW, {"space": space}).one_or_none()


def heads(session: Session) -> dict[SpaceName, Head]:
    """Return the head of every space."""
    return {SpaceName(row[0]): _head_of(row) for row in session.execute(_HEADS)}


def head(session: Session, space: str) -> Head | None:
    """Return the head of a space, None where the catalog knows no commit of it."""
    row = session.execute(_HEAD, {"space": space}).one_or_none()
    return None if row is None else _head_of(row)


def commit_id(session: Session, space: str, number: int) -> Digest | None:
    """Return the id of a commit, None where there is none."""
    asked = {"space": space, "at": number}
    return cast("Digest | None", session.scalar(_COMMIT_ID, asked))


def commit_of_key(session: Session, space: str, key: str) -> CommitNumber | None:
    """Return the commit that was made with an idempotency key."""
    return cast("CommitNumber | None", session.scalar(_COMMIT_OF_KEY, {"space": space, "key": key}))


def task_names(session: Session, space: str) -> list[TaskName]:
    """Return the present names of all tasks of a space, dropped ones included, sorted."""
    query = select(TaskNameRow.name).where(TaskNameRow.space == space, TaskNameRow.until.is_(None))
    return [TaskName(name) for name in session.scalars(query.order_by(TaskNameRow.name))]


def spaces_with_task(session: Session, task: str, spaces: Sequence[SpaceName]) -> list[SpaceName]:
    """Return those of some spaces that have or had a task of this name, sorted."""
    query = select(TaskNameRow.space).where(TaskNameRow.name == clean(task))
    having = {
        space
        for piece in pieces(spaces)
        for space in session.scalars(query.where(TaskNameRow.space.in_(piece)))
    }
    return sorted(map(SpaceName, having))


def tasks_of_all_spaces(session: Session) -> list[str]:
    """Return `space/task` of every task, under their present names, sorted."""
    query = select(TaskNameRow.space, TaskNameRow.name).where(TaskNameRow.until.is_(None))
    return sorted(f"{space}/{name}" for space, name in session.execute(query))


def current_name(session: Session, space: str, name: str) -> TaskName | None:
    """Return the present name of the task that has or had a name."""
    task = session.execute(TASK_OF_NAME, {"space": space, "task": name}).one_or_none()
    return None if task is None else TaskName(task.name)


def live_tasks(session: Session, space: str) -> int:
    """Return the number of live tasks of a space."""
    return session.scalar(_LIVE_TASKS, {"space": space}) or 0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBasis:
    """The basis of a space: its object, and the commit that brought it."""

    digest: Digest
    number: CommitNumber


def current_basis(session: Session, space: str, *, at: int | None = None) -> KnownBasis | None:
    """Return the basis that a space has, now or after a commit; None where it has none.

    Raises FormatError as `require_newest`.
    """
    if at is None:
        require_newest(session, space)
    asked = {"space": space, "at": EVER if at is None else at}
    row = session.execute(_BASIS, asked).one_or_none()
    if row is None:
        return None
    return KnownBasis(digest=Digest(str(row[0])), number=CommitNumber(row[1]))


def commit_of_basis(session: Session, space: str, digest: str) -> CommitNumber | None:
    """Return the commit that brought a basis object into a space."""
    query = select(func.min(CommitRow.number)).where(CommitRow.space == space)
    return cast("CommitNumber | None", session.scalar(query.where(CommitRow.basis == digest)))


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

    Distinct ones, in the order in which they first came; now, or after a commit.
    """
    asked = {"space": space, "task": task, "count": count, "at": EVER if at is None else at}
    return set(map(Digest, session.scalars(_latest_of_task(), asked)))


def named_objects(session: Session, digests: Collection[Digest]) -> set[Digest]:
    """Return those of some objects that a record or a note names."""
    return {
        Digest(digest)
        for piece in pieces(sorted(digests))
        for digest in session.scalars(_NAMED_OBJECTS, {"digests": piece})
    }


def object_digests(session: Session) -> set[Digest]:
    """Return every object that a record or a note names, but for files of removed versions.

    Where any version was removed, that leaves out the files of all but their configs: which of them
    are named by others too, the notes alone say.
    """
    query = select(ObjectRow.digest).distinct()
    if session.scalar(select(VersionRow.removed).where(VersionRow.removed.is_not(None)).limit(1)):
        query = query.where(ObjectRow.role.not_in(("attachment", "original")))
    return set(map(Digest, session.scalars(query)))


def module_shapes(session: Session, space: str) -> dict[str, tuple[int, int, int]]:
    """Return (out, in, experts) of every factored module of a space."""
    return {
        row.module: (row.out, row.width, row.experts)
        for row in session.execute(_MODULE_SHAPES, {"space": space})
    }


def alias_target(session: Session, space: str, task: str, alias: str) -> Row[Any] | None:
    """Return an alias of a task: `version` is the one it is at, `since` the commit that put it."""
    return session.execute(
        select(AliasRow.table).where(
            AliasRow.space == space,
            AliasRow.task == task_of(space, task),
            AliasRow.name == alias,
            AliasRow.until.is_(None),
        )
    ).one_or_none()


def is_alias(session: Session, space: str, name: str) -> bool:
    """Tell whether a name is or was an alias in a space."""
    query = select(AliasRow.name).where(AliasRow.space == space, AliasRow.name == name).limit(1)
    return session.scalar(query) is not None


def tag_names(session: Session, space: str) -> set[str]:
    """Return the tags of a space."""
    return set(session.scalars(select(TagRow.name).where(TagRow.space == space)))


def tag_target(session: Session, space: str, tag: str) -> Row[Any] | None:
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


def policy_change(session: Session, space: str) -> tuple[CommitNumber, Digest]:
    """Return number and id of the commit that set the policy a space has now."""
    row = session.execute(_POLICY_CHANGE, {"space": space}).one()
    return CommitNumber(row[0]), Digest(row[1])


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


def _head_of(row: Row[str, int, str, str]) -> Head:
    return Head(number=CommitNumber(row[1]), id=Digest(row[2]), time=row[3] or "")


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
