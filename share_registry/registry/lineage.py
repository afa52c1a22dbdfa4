"""Lineage: the versions a task version came from.

Edges are the version before it in its task ("version"), the versions its commit declares it derived from ("derived"), and for a restored version the one it repeats ("restored").
"""

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import BigInteger, literal, select, union_all
from sqlalchemy.orm import Session

from share_registry.catalog.models import CommitRow, ParentRow, SpaceRow, TaskNameRow, VersionRow
from share_registry.catalog.queries import task_of
from share_registry.names import CommitNumber, Digest, Reference, SpaceName
from share_registry.registry.commits import moment
from share_registry.registry.resolve import resolve_version
from share_registry.registry.results import Lineage, LineageNode

if TYPE_CHECKING:
    from sqlalchemy import CTE, Row, Subquery

_Place: TypeAlias = tuple[int, int]
"""Task and version."""
_Edges: TypeAlias = dict[_Place, list[tuple[str, _Place]]]
_ORDER: Final = {"restored": 0, "version": 1, "derived": 2}


def lineage(session: Session, ref: str | Reference, *, space: str | None = None) -> Lineage:
    """Return a task version and its ancestors, depth first, each once and where it is first met.

    Raises:
        InvalidInput: the reference is malformed or of a whole space.
        NotFound, Refused: it leads to no version.
    """
    asked = resolve_version(session, ref, space=space)
    reached = _reached(asked.space, str(asked.task), int(asked.version or 0))
    nodes = _nodes(session, asked.space, reached)
    base = session.execute(select(SpaceRow.base_model, SpaceRow.base_revision).where(SpaceRow.name == asked.space)).one()
    start = next(place for place, node in nodes.items() if node.ref == asked.ref)
    return Lineage(ref=asked.ref, base_model=base[0], base_revision=base[1], nodes=_walk(start, nodes, _edges(session, asked.space, reached)))


def _walk(start: _Place, nodes: dict[_Place, LineageNode], edges: _Edges) -> tuple[LineageNode, ...]:
    waiting = [("", start, 0)]
    seen: set[_Place] = set()
    found = []
    while waiting:
        via, place, depth = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        found.append(replace(nodes[place], via=via, depth=depth))
        waiting += [(kind, parent, depth + 1) for kind, parent in reversed(edges[place])]
    return tuple(found)


def _steps(space: SpaceName) -> "Subquery":
    """Return every edge of a space: (task, version) came from (parent_task, parent_version) in some way."""
    place = (VersionRow.task, VersionRow.version)
    restored = select(
        *place,
        literal("restored").label("via"),
        literal(0).label("position"),
        VersionRow.task.label("parent_task"),
        VersionRow.restored_from.label("parent_version"),
    )
    before = select(*place, literal("version"), literal(0), VersionRow.task, VersionRow.version - 1)
    derived = select(ParentRow.task, ParentRow.version, literal("derived"), ParentRow.position, ParentRow.parent_task, ParentRow.parent_version)
    return union_all(
        restored.where(VersionRow.space == space, VersionRow.restored_from.is_not(None)),
        before.where(VersionRow.space == space, VersionRow.restored_from.is_(None), VersionRow.version > 1),
        derived.where(ParentRow.space == space),
    ).subquery("steps")


def _reached(space: SpaceName, task: str, version: int) -> "CTE":
    """Return the places that lie behind a version, itself included."""
    steps = _steps(space)
    reached = select(task_of(space, task).label("task"), literal(version, BigInteger).label("version")).cte("reached", recursive=True)
    here = (steps.c.task == reached.c.task) & (steps.c.version == reached.c.version)
    return reached.union(select(steps.c.parent_task, steps.c.parent_version).join(reached, here))


def _edges(session: Session, space: SpaceName, reached: "CTE") -> _Edges:
    steps = _steps(space)
    here = (steps.c.task == reached.c.task) & (steps.c.version == reached.c.version)
    found: _Edges = defaultdict(list)
    for task, version, via, _, parent_task, parent_version in sorted(session.execute(select(steps).join(reached, here)), key=_by_kind):
        found[(task, version)].append((via, (parent_task, parent_version)))
    return found


def _by_kind(row: Any) -> tuple[int, int]:
    return _ORDER[row.via], row.position


def _nodes(session: Session, space: SpaceName, reached: "CTE") -> dict[_Place, LineageNode]:
    here = (VersionRow.task == reached.c.task) & (VersionRow.version == reached.c.version)
    named = (TaskNameRow.space == VersionRow.space) & (TaskNameRow.task == VersionRow.task) & TaskNameRow.until.is_(None)
    made = (CommitRow.space == VersionRow.space) & (CommitRow.number == VersionRow.number)
    said = (CommitRow.id, CommitRow.kind, CommitRow.time, CommitRow.author, CommitRow.message)
    joined = VersionRow.table.join(reached, here).join(TaskNameRow.table, named).join(CommitRow.table, made)
    query = select(VersionRow.table, TaskNameRow.name.label("task_name"), *said).select_from(joined).where(VersionRow.space == space)
    return {(row.task, row.version): _node(row) for row in session.execute(query)}


def _node(row: "Row[Any]") -> LineageNode:
    revision = f"@{row.source_revision}" if row.source_revision else ""
    return LineageNode(
        ref=f"{row.space}/{row.task_name}@v{row.version}",
        number=CommitNumber(row.number),
        id=Digest(row.id),
        kind=row.kind,
        time=moment(row.time),
        author=row.author,
        message=row.message,
        source=f"{row.source_location or ''}{revision}",
        error=row.error,
        via="",
        depth=0,
    )
