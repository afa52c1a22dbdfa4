"""Lineage: the versions a task version came from.

Edges are the version before it in its task ("version"), the versions its commit declares it derived
from ("derived") or was merged of ("merged" with the weight), and for a restored version the one it
repeats ("restored").
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeAlias

from sqlalchemy import BigInteger, Row, Select, literal, select
from sqlalchemy.orm import Session

from share_registry.catalog.queries.resolution import find_task, resolve_version
from share_registry.catalog.sql import pieces
from share_registry.catalog.tables import (
    CommitRow,
    ParentRow,
    SpaceRow,
    TaskNameRow,
    VersionRow,
    is_commit_of,
    names_task_of,
)
from share_registry.names import CommitNumber, Digest, Reference, SpaceName
from share_registry.values.tasks import Lineage, LineageNode

# Task and version
_Place: TypeAlias = tuple[int, int]
# How an edge to a parent of a merge begins: its weight follows
_MERGED: Final = "merged, "


def lineage(session: Session, ref: str | Reference, *, space: str | None = None) -> Lineage:
    """Return a task version and its ancestors, depth first, each once and where it is first met.

    Parents of a merge also below it, with their weights.

    Raises:
        InvalidInputError: the reference is malformed or of a whole space.
        NotFoundError, RefusedError: it leads to no version.
    """
    asked = resolve_version(session, ref, space=space)
    start = (find_task(session, asked.space, str(asked.task)).task, int(asked.version or 0))
    steps = _walk(start, _origins(session, asked.space, start[0]))
    nodes = _nodes(session, asked.space, {step.place for step in steps})
    base = session.execute(
        select(SpaceRow.base_model, SpaceRow.base_revision).where(SpaceRow.name == asked.space)
    ).one()
    return Lineage(
        ref=asked.ref,
        base_model=base[0],
        base_revision=base[1],
        nodes=tuple(replace(nodes[step.place], via=step.via, depth=step.depth) for step in steps),
    )


@dataclass(frozen=True, slots=True)
class _LineageStep:
    via: str
    place: _Place
    depth: int


@dataclass(frozen=True, slots=True)
class _Origins:
    """What the versions of some tasks came from, apart from the version before."""

    restored: dict[_Place, _Place]
    derived: dict[_Place, list[tuple[str, _Place]]]

    def of(self, place: _Place) -> list[tuple[str, _Place]]:
        """Return the edges from a place, nearest first."""
        task, version = place
        if place in self.restored:
            return [("restored", self.restored[place])]
        before = [("version", (task, version - 1))] if version > 1 else []
        return before + self.derived.get(place, [])


def _walk(start: _Place, origins: _Origins) -> list[_LineageStep]:
    """Return the steps to every ancestor, depth first; only parents of a merge come again."""
    waiting = [_LineageStep("", start, 0)]
    seen: set[_Place] = set()
    steps = []
    while waiting:
        step = waiting.pop()
        is_new = step.place not in seen
        if is_new or step.via.startswith(_MERGED):
            steps.append(step)
        if is_new:
            seen.add(step.place)
            waiting += [
                _LineageStep(via, parent, step.depth + 1)
                for via, parent in reversed(origins.of(step.place))
            ]
    return steps


def _origins(session: Session, space: SpaceName, start: int) -> _Origins:
    """Return the origins of a task's versions and of those of every task it descends from."""
    ancestors = _ancestors(space, start)
    repeats = select(VersionRow.task, VersionRow.version, VersionRow.restored_from).where(
        VersionRow.space == space,
        VersionRow.task.in_(ancestors),
        VersionRow.restored_from.is_not(None),
    )
    parents = (
        select(ParentRow.table)
        .where(ParentRow.space == space, ParentRow.task.in_(ancestors))
        .order_by(ParentRow.task, ParentRow.version, ParentRow.position)
    )
    derived: dict[_Place, list[tuple[str, _Place]]] = defaultdict(list)
    for row in session.execute(parents):
        via = "derived" if row.weight is None else f"{_MERGED}{row.weight}"
        derived[(row.task, row.version)].append((via, (row.parent_task, row.parent_version)))
    restored = {(task, version): (task, of or 0) for task, version, of in session.execute(repeats)}
    return _Origins(restored, derived)


def _ancestors(space: SpaceName, task: int) -> Select[int]:
    """Return the numbers of a task and of the tasks it descends from."""
    reached = select(literal(task, BigInteger).label("task")).cte("ancestors", recursive=True)
    further = select(ParentRow.parent_task).join(
        reached, (ParentRow.space == space) & (ParentRow.task == reached.c.task)
    )
    return select(reached.union(further).c.task)


def _nodes(session: Session, space: SpaceName, places: set[_Place]) -> dict[_Place, LineageNode]:
    of_commit = (CommitRow.id, CommitRow.kind, CommitRow.time, CommitRow.author, CommitRow.message)
    query = (
        select(VersionRow.table, TaskNameRow.name.label("task_name"), *of_commit)
        .select_from(VersionRow.table)
        .join(TaskNameRow.table, names_task_of(VersionRow))
        .join(CommitRow.table, is_commit_of(VersionRow, VersionRow.number))
        .where(VersionRow.space == space)
    )
    return {
        (row.task, row.version): _node(row)
        for piece in pieces(sorted({task for task, _ in places}))
        for row in session.execute(query.where(VersionRow.task.in_(piece)))
        if (row.task, row.version) in places
    }


def _node(row: Row[Any]) -> LineageNode:
    revision = f"@{row.source_revision}" if row.source_revision else ""
    return LineageNode(
        ref=f"{row.space}/{row.task_name}@v{row.version}",
        number=CommitNumber(row.number),
        id=Digest(row.id),
        kind=row.kind,
        time=datetime.fromisoformat(row.time),
        author=row.author,
        message=row.message,
        source=f"{row.source_location or ''}{revision}",
        error=row.error,
        bound=row.bound,
        via="",
        depth=0,
    )
