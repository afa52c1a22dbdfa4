"""Names as claims: what a record must say, and which, for a name to lead where the catalog says.

Of a task every name that it ever had, of a reference the names that it is resolved by. Whoever
reads for somebody else compares these with the log.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.named_tasks import find_task, space_of_reference
from share_registry.catalog.queries.resolution import alias_rows, alias_version
from share_registry.catalog.sql import Session, pieces
from share_registry.catalog.tables import CommitRow, TaskNameRow, is_commit_of, task_of
from share_registry.names import (
    CommitNumber,
    Digest,
    Reference,
    Selector,
    SpaceName,
    parse_reference,
)
from share_registry.values.references import Alias

# Every name of tasks, with the commits that gave them
_NAMINGS: Final = (
    select(TaskNameRow.name, CommitRow.number, CommitRow.id, TaskNameRow.task)
    .join_from(TaskNameRow.table, CommitRow.table, is_commit_of(TaskNameRow, TaskNameRow.since))
    .order_by(TaskNameRow.since)
)


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


def claims_of_reference(
    session: Session, ref: str | Reference, *, space: str | None, present: str | None = None
) -> list[NameClaim]:
    """Return the names that a reference is resolved by: older ones of the task, an alias, a tag.

    None where the task has the name that it came with.

    Args:
        session: A transaction.
        ref: The reference.
        space: The space of one that names none.
        present: The present name of its task, where that is known.

    Raises what `resolve` raises.
    """
    asked = parse_reference(ref) if isinstance(ref, str) else ref
    if asked.selector is not Selector.NAME and asked.task in (None, present):
        return []
    where = space_of_reference(session, asked, space)
    task = None if asked.task is None else find_task(session, where, asked.task)
    names = [] if task is None else claims_of_task(session, where, task.name)
    called = {claim.name for claim in names}
    claims = names if called != {asked.task} else []
    if asked.selector is not Selector.NAME:
        return claims
    rows = [] if task is None else alias_rows(session, where, task, asked.value)
    if task is None or not rows:
        return [*claims, *_claim_of_tag(session, where, asked.value)]
    version = alias_version(rows, where, task, asked)
    since = max(row.since for row in rows if row.version == version)
    alias = _alias_claim(
        where,
        asked.value,
        task=task.name,
        version=version,
        number=since,
        commit_id=lookups.commit_id(session, where, since),
        called=called,
    )
    return [*claims, alias]


def claims_of_aliases(session: Session, named: Sequence[Alias]) -> list[list[NameClaim]]:
    """Return the names by which aliases as they stand now are resolved, those of each.

    As `claims_of_reference` of `space/task@alias`, in a few statements a space.
    """
    by_space: dict[str, list[Alias]] = defaultdict(list)
    for alias in named:
        by_space[alias.space].append(alias)
    names, ids = {}, {}
    for space, its in by_space.items():
        names[space] = claims_of_tasks(session, space, {alias.task for alias in its})
        ids[space] = lookups.commit_ids(session, space, {alias.number for alias in its})
    claims: list[list[NameClaim]] = []
    for alias in named:
        of_task = names[alias.space].get(alias.task, [])
        called = {claim.name for claim in of_task}
        claim = _alias_claim(
            alias.space,
            alias.name,
            task=of_task[-1].name if of_task else alias.task,
            version=alias.version,
            number=alias.number,
            commit_id=ids[alias.space].get(alias.number),
            called=called,
        )
        claims.append([*(of_task if called != {alias.task} else ()), claim])
    return claims


def claims_of_task(session: Session, space: str, task: str) -> list[NameClaim]:
    """Return every name that a task has or had, in the order in which it got them."""
    query = _NAMINGS.where(TaskNameRow.space == space, TaskNameRow.task == task_of(space, task))
    return _name_claims(SpaceName(space), session.execute(query))


def claims_of_tasks(
    session: Session, space: str, names: Collection[str]
) -> dict[str, list[NameClaim]]:
    """Return `claims_of_task` by names that tasks have or had, in a few statements for all."""
    tasks = lookups.task_numbers(session, space, names)
    query = _NAMINGS.where(TaskNameRow.space == space)
    by_task: dict[int, list[Sequence[Any]]] = defaultdict(list)
    for piece in pieces(sorted(set(tasks.values()))):
        for row in session.execute(query.where(TaskNameRow.task.in_(piece))):
            by_task[row.task].append(row)
    claims = {task: _name_claims(SpaceName(space), rows) for task, rows in by_task.items()}
    return {name: claims[task] for name, task in tasks.items()}


def _name_claims(space: SpaceName, rows: Iterable[Sequence[Any]]) -> list[NameClaim]:
    claims: list[NameClaim] = []
    before: str | None = None
    for name, number, commit_id, _ in rows:
        renames = {"kind": ("rename",), "task": (before,), "name": (name,)}
        claims.append(
            NameClaim(
                space=space,
                number=CommitNumber(number),
                commit_id=Digest(commit_id),
                name=name,
                members={} if before is None else renames,
                meaning=f"gave a task the name {name!r}",
            )
        )
        before = str(name)
    return claims


def _alias_claim(
    space: SpaceName,
    name: str,
    *,
    task: str,
    version: int,
    number: int,
    commit_id: Digest | None,
    called: Collection[str],
) -> NameClaim:
    """Return the claim that a commit put an alias of a task, called so or so, to a version."""
    return NameClaim(
        space=space,
        number=CommitNumber(number),
        commit_id=commit_id or Digest(""),
        name=name,
        members={"kind": ("alias",), "alias": (name,), "version": (version,), "task": called},
        meaning=f"put alias {name!r} of task {task} to v{version}",
    )


def _claim_of_tag(session: Session, space: SpaceName, name: str) -> list[NameClaim]:
    tag = lookups.tag_target(session, space, name)
    if tag is None:
        return []
    return [
        NameClaim(
            space=space,
            number=CommitNumber(tag.since),
            commit_id=lookups.commit_id(session, space, tag.since) or Digest(""),
            name=name,
            members={"kind": ("tag",), "tag": (name,), "commit": (tag.number,)},
            meaning=f"gave c{tag.number} the tag {name!r}",
        )
    ]
