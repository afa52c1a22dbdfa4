"""What writers and readers of a registry ask of its catalog, one question a function.

Every function takes a session and runs a bounded number of indexed statements. Task names may be
older names: they lead to the task. Statements that every commit or checkout asks are put together
once: that takes several times as long as running them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Row,
    bindparam,
    func,
    or_,
    select,
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
    TaskNameRow,
    VersionRow,
    task_of,
)
from share_registry.errors import ShareRegistryError
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName

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


def commit_ids(session: Session, space: str, numbers: Collection[int]) -> dict[int, Digest]:
    """Return the ids of commits by number, in a few statements; of those that are there."""
    query = select(CommitRow.number, CommitRow.id).where(CommitRow.space == space)
    return {
        number: Digest(commit_id)
        for piece in pieces(sorted(numbers))
        for number, commit_id in session.execute(query.where(CommitRow.number.in_(piece)))
    }


def commit_of_key(session: Session, space: str, key: str) -> CommitNumber | None:
    """Return the commit that was made with an idempotency key."""
    return cast("CommitNumber | None", session.scalar(_COMMIT_OF_KEY, {"space": space, "key": key}))


def task_names(session: Session, space: str) -> list[TaskName]:
    """Return the present names of all tasks of a space, dropped ones included, sorted."""
    query = select(TaskNameRow.name).where(TaskNameRow.space == space, TaskNameRow.until.is_(None))
    return [TaskName(name) for name in session.scalars(query.order_by(TaskNameRow.name))]


def task_numbers(session: Session, space: str, names: Collection[str]) -> dict[str, int]:
    """Return the catalog's numbers of the tasks that have or had these names, by these names."""
    query = select(TaskNameRow.name, TaskNameRow.task).where(TaskNameRow.space == space)
    return {
        name: task
        for piece in pieces(sorted(names))
        for name, task in session.execute(query.where(TaskNameRow.name.in_(piece)))
    }


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
