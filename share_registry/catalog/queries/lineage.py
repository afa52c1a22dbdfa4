"""Lineage: the versions a task version came from.

Edges are the version before it in its task ("version"), the versions its commit declares it derived
from ("derived") or was merged of ("merged" with the weight), and for a restored version the one it
repeats ("restored").
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import datetime
from typing import Any, Final, TypeAlias

from sqlalchemy import BigInteger, Row, Select, literal, select
from sqlalchemy.orm import Session

from share_registry.catalog.queries.named_tasks import find_task
from share_registry.catalog.queries.resolution import resolve_version
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
from share_registry.values.tasks import Lineage, LineageEdge, LineageNode

# Task and version
_Place: TypeAlias = tuple[int, int]
# How one version came from another, and from which
_Edge: TypeAlias = tuple[str, _Place]
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
    task = find_task(session, asked.space, str(asked.task)).task
    ancestors = _ancestors(asked.space, task)
    versions = _versions(session, asked.space, ancestors)
    edges = _edges(session, asked.space, ancestors, versions)
    base = session.execute(
        select(SpaceRow.base_model, SpaceRow.base_revision).where(SpaceRow.name == asked.space)
    ).one()
    nodes = tuple(_walk((task, int(asked.version or 0)), versions, edges))
    return Lineage(
        ref=asked.ref,
        base_model=base[0],
        base_revision=base[1],
        nodes=nodes,
        edges=tuple(_edges_of({node.ref for node in nodes}, versions, edges)),
    )


def _walk(
    start: _Place, versions: Mapping[_Place, Row[Any]], edges: Mapping[_Place, Sequence[_Edge]]
) -> Iterator[LineageNode]:
    """Yield every ancestor, depth first; only parents of a merge come again."""
    waiting = [("", start, 0)]
    seen: set[_Place] = set()
    while waiting:
        via, place, depth = waiting.pop()
        is_new = place not in seen
        if is_new or via.startswith(_MERGED):
            yield _node(versions[place], via, depth)
        if is_new:
            seen.add(place)
            waiting += [(via, parent, depth + 1) for via, parent in reversed(edges[place])]


def _edges_of(
    refs: Set[str], versions: Mapping[_Place, Row[Any]], edges: Mapping[_Place, Sequence[_Edge]]
) -> Iterator[LineageEdge]:
    """Yield every edge among some versions."""
    for place, row in versions.items():
        if _ref(row) in refs:
            for via, parent in edges[place]:
                yield LineageEdge(ref=_ref(row), parent=_ref(versions[parent]), via=via)


def _edges(
    session: Session,
    space: SpaceName,
    ancestors: Select[int],
    versions: Mapping[_Place, Row[Any]],
) -> Mapping[_Place, Sequence[_Edge]]:
    edges: dict[_Place, list[_Edge]] = {place: [] for place in versions}
    for (task, version), row in versions.items():
        if row.restored_from is not None:
            edges[task, version].append(("restored", (task, row.restored_from)))
        elif version > 1:
            edges[task, version].append(("version", (task, version - 1)))
    parents = (
        select(ParentRow.table)
        .where(ParentRow.space == space, ParentRow.task.in_(ancestors))
        .order_by(ParentRow.task, ParentRow.version, ParentRow.position)
    )
    for row in session.execute(parents):
        via = "derived" if row.weight is None else f"{_MERGED}{row.weight}"
        # on PostgreSQL a version may have come since the others were read: nothing leads to it
        further = edges.get((row.task, row.version), [])
        further.append((via, (row.parent_task, row.parent_version)))
    return edges


def _ancestors(space: SpaceName, task: int) -> Select[int]:
    reached = select(literal(task, BigInteger).label("task")).cte("ancestors", recursive=True)
    is_child = (ParentRow.space == space) & (ParentRow.task == reached.c.task)
    further = select(ParentRow.parent_task).join(reached, is_child)
    return select(reached.union(further).c.task)


def _versions(session: Session, space: SpaceName, tasks: Select[int]) -> Mapping[_Place, Row[Any]]:
    query = (
        select(VersionRow.table, TaskNameRow.name.label("task_name"))
        .add_columns(
            CommitRow.id, CommitRow.kind, CommitRow.time, CommitRow.author, CommitRow.message
        )
        .select_from(VersionRow.table)
        .join(TaskNameRow.table, names_task_of(VersionRow))
        .join(CommitRow.table, is_commit_of(VersionRow, VersionRow.number))
        .where(VersionRow.space == space, VersionRow.task.in_(tasks))
    )
    return {(row.task, row.version): row for row in session.execute(query)}


def _node(row: Row[Any], via: str, depth: int) -> LineageNode:
    revision = f"@{row.source_revision}" if row.source_revision else ""
    return LineageNode(
        ref=_ref(row),
        number=CommitNumber(row.number),
        id=Digest(row.id),
        kind=row.kind,
        time=datetime.fromisoformat(row.time),
        author=row.author,
        message=row.message,
        source=f"{row.source_location or ''}{revision}",
        error=row.error,
        bound=row.bound,
        via=via,
        depth=depth,
        removed=row.removed,
    )


def _ref(row: Row[Any]) -> str:
    return f"{row.space}/{row.task_name}@v{row.version}"
