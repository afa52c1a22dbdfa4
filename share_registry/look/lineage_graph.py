"""Where a version came from, as a graph: a row a version, its origins in the rows below it.

Rows are in an order in which every version stands above all that it came from. From a version a
line goes down, its trunk, and every origin branches off there, so that a merge of many has one line
and not many side by side. The version before in the same task goes on in the trunk itself. Long
stretches in which nothing happens but one version after the other are one row.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from share_registry.look.svg import (
    Link,
    drawing,
    element,
    ending,
    label,
    linked_to,
    one_line_html,
    path,
    tipped,
    width_of,
)
from share_registry.look.units import count, measured, time_text

if TYPE_CHECKING:
    from share_registry.values.tasks import Lineage, LineageNode

_ROW: Final = 26.0
_LANE: Final = 18.0
_LEFT: Final = 11.0
_BEND: Final = 8.0
_GAP: Final = 9.0
_LONGEST_NAME: Final = 240.0
# A stretch of one version after the other that is shorter is drawn in full
_LEAST_STRETCH: Final = 8
_ENDS_OF_STRETCH: Final = 2
_MOST_ROWS: Final = 400
_MOST_NAMED: Final = 20
# Edges that go on in the trunk
_STRAIGHT: Final = frozenset({"version", "restored"})


@dataclass(frozen=True, slots=True)
class _Origin:
    """A version that another came from, and how."""

    ref: str
    via: str


@dataclass(frozen=True, slots=True)
class _Graph:
    """Versions and their origins.

    Attributes:
        order: References, each above its origins.
        stretches: The versions that a row of another name stands for, the newest first.
    """

    order: Sequence[str]
    origins: Mapping[str, Sequence[_Origin]]
    nodes: "Mapping[str, LineageNode]"
    stretches: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _RowPlace:
    """Where a row is drawn.

    Attributes:
        text_lane: The first lane that is free to the right, for its text.
        trunk_lane: Where its trunk goes down: in its own lane, or in the trunk of another version
            that came from the very same.
    """

    row: int
    lane: int
    text_lane: int
    trunk_lane: int

    @property
    def x(self) -> float:
        return _lane_x(self.lane)

    @property
    def y(self) -> float:
        return _ROW * (self.row + 0.5)


def lineage_graph(lineage: "Lineage", *, link: Link | None = None) -> str:
    """Draw a version and everything it came from.

    Args:
        lineage: What `lineage` returned.
        link: The address of a version, given as `space/task@vN`.
    """
    graph = _contracted(_graph_of(lineage))
    places = _places(graph)
    shown = [ref for ref in graph.order if ref in places]
    rows = [_row(ref, graph, places[ref], link) for ref in shown]
    lines = [line for ref in shown for line in _lines(ref, graph, places)]
    versions = count(len(graph.nodes), "version")
    more = len(graph.order) - len(shown)
    if more:
        rows.append(
            (label(_LEFT, _ROW * (len(shown) + 0.5) + 4, f"and {more} more", "muted"), 160.0)
        )
    return drawing(
        "lineage",
        *lines,
        *(row for row, _ in rows),
        title=f"lineage of {lineage.ref}: {versions}",
        description=_describe(lineage, graph.nodes),
        width=max((right for _, right in rows), default=0.0),
        height=_ROW * len(rows),
        linked=link is not None,
    )


def _graph_of(lineage: "Lineage") -> _Graph:
    nodes = {node.ref: node for node in reversed(lineage.nodes)}
    origins: dict[str, list[_Origin]] = defaultdict(list)
    for edge in lineage.edges:
        if edge.ref in nodes and edge.parent in nodes:
            origins[edge.ref].append(_Origin(edge.parent, edge.via))
    # the version before stands below all others, which branch off above it
    for listed in origins.values():
        listed.sort(key=lambda origin: origin.via in _STRAIGHT)
    return _Graph(_ordered(lineage.ref, origins), origins, nodes)


def _ordered(start: str, origins: Mapping[str, Sequence[_Origin]]) -> list[str]:
    """Return references so that each stands above its origins, and these near to it."""
    waits_for = Counter(ref for listed in origins.values() for ref in {o.ref for o in listed})
    order, ready = [], [start]
    while ready:
        ref = ready.pop()
        order.append(ref)
        for origin in dict.fromkeys(origin.ref for origin in reversed(origins.get(ref, ()))):
            waits_for[origin] -= 1
            if not waits_for[origin]:
                ready.append(origin)
    return order


def _contracted(graph: _Graph) -> _Graph:
    """Return the graph with one row for every long stretch of one version after the other."""
    uses = Counter(origin.ref for listed in graph.origins.values() for origin in listed)
    origins, stretches = dict(graph.origins), {}
    order: list[str] = []
    for stretch in _stretches(graph, uses):
        inner = stretch[_ENDS_OF_STRETCH:-_ENDS_OF_STRETCH]
        if len(inner) < _LEAST_STRETCH:
            order += stretch
            continue
        name = f"{inner[0]} to {inner[-1]}"
        before, after = stretch[_ENDS_OF_STRETCH - 1], stretch[-_ENDS_OF_STRETCH]
        order += [*stretch[:_ENDS_OF_STRETCH], name, *stretch[-_ENDS_OF_STRETCH:]]
        origins[before] = [_Origin(name, "version")]
        origins[name] = [_Origin(after, "version")]
        stretches[name] = inner
    return _Graph(order, origins, graph.nodes, stretches)


def _stretches(graph: _Graph, uses: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the order in pieces: each row continues the one before, and is all it came from."""
    piece: list[str] = []
    for ref in graph.order:
        if piece:
            origins = graph.origins.get(piece[-1], ())
            if [(o.ref, o.via) for o in origins] != [(ref, "version")] or uses[ref] != 1:
                yield piece
                piece = []
        piece.append(ref)
    yield piece


def _places(graph: _Graph) -> dict[str, _RowPlace]:
    """Return where every row stands; a trunk keeps its lane down to the last that branches off."""
    open_trunks: dict[str, set[str]] = {}
    lanes: dict[str, int] = {}
    places: dict[str, _RowPlace] = {}
    for row, ref in enumerate(graph.order[:_MOST_ROWS]):
        trunks = [trunk for trunk, waiting in open_trunks.items() if ref in waiting]
        straight = [
            trunk for trunk in trunks if open_trunks[trunk] == {ref} and _goes_on(trunk, ref, graph)
        ]
        occupied = {lanes[trunk] for trunk in open_trunks}
        if straight:
            lane = min(lanes[trunk] for trunk in straight)
        else:
            lane = max((lanes[trunk] + 1 for trunk in trunks), default=0)
            while lane in occupied:
                lane += 1
        for trunk in trunks:
            open_trunks[trunk] -= {ref}
            if not open_trunks[trunk]:
                del open_trunks[trunk]
        waiting = {origin.ref for origin in graph.origins.get(ref, ())}
        joined = [lanes[trunk] for trunk in open_trunks if open_trunks[trunk] == waiting]
        trunk_lane = max((other_lane for other_lane in joined if other_lane < lane), default=lane)
        lanes[ref] = trunk_lane
        places[ref] = _RowPlace(row, lane, max([lane, *occupied]) + 1, trunk_lane)
        if waiting and trunk_lane == lane:
            open_trunks[ref] = waiting
    return places


def _goes_on(trunk: str, ref: str, graph: _Graph) -> bool:
    vias = {origin.via for origin in graph.origins[trunk] if origin.ref == ref}
    return bool(vias & _STRAIGHT)


def _lines(ref: str, graph: _Graph, places: Mapping[str, _RowPlace]) -> Iterator[str]:
    """Yield the trunk of a version with its branches, the shortest first."""
    place = places[ref]
    trunk_x = _lane_x(place.trunk_lane)
    bottom = _ROW * len(places)
    down: list[str | float] = ["M", place.x, place.y]
    if trunk_x != place.x:
        down += ["v", _BEND, "Q", place.x, place.y + _ROW / 2, place.x - _BEND, place.y + _ROW / 2]
        down += ["H", trunk_x + _BEND, "q", -_BEND, 0, -_BEND, _BEND]
    for origin in dict.fromkeys(origin.ref for origin in graph.origins.get(ref, ())):
        end = places.get(origin)
        dashed = end is None or {ref, origin} & graph.stretches.keys()
        look = "axis dashed" if dashed else "axis"
        if end is None:
            yield path(look, *down, "V", bottom)
        elif end.x == trunk_x:
            yield path(look, *down, "V", end.y)
        else:
            bend = _BEND if end.x > trunk_x else -_BEND
            yield path(look, *down, "V", end.y - _BEND, "q", 0, _BEND, bend, _BEND, "H", end.x)


def _row(ref: str, graph: _Graph, place: _RowPlace, link: Link | None) -> tuple[str, float]:
    """Return the mark and the text of a row, and where it ends."""
    x, y = _lane_x(place.text_lane), place.y + 4
    if ref in graph.stretches:
        inner = graph.stretches[ref]
        text = f"{len(inner)} versions, {_version(inner[0])} to {_version(inner[-1])}"
        return label(x, y, text, "muted"), x + width_of(text)
    node = graph.nodes[ref]
    is_asked = not place.row
    look = "ring quiet" if node.removed else "ring" if is_asked else "dot"
    mark = element("circle", class_=look, cx=place.x, cy=place.y, r=6 if is_asked else 5)
    name, about = ending(_short(ref), _LONGEST_NAME), _about(node, graph)
    text = element(
        "text",
        linked_to(
            link(ref) if link else None, element("tspan", one_line_html(name), class_="strong")
        ),
        element("tspan", one_line_html(about), class_="muted", dx=_GAP),
        x=x,
        y=y,
    )
    return tipped(_tip(node), mark, text), x + width_of(f"{name}m{about}") + _GAP


def _about(node: "LineageNode", graph: _Graph) -> str:
    """Return how others came from a version, and when it was made."""
    vias = [
        origin.via
        for listed in graph.origins.values()
        for origin in listed
        if origin.ref == node.ref and origin.via != "version"
    ]
    gone = f"removed in c{node.removed}" if node.removed else ""
    said = [*dict.fromkeys(map(_spoken, vias)), gone, f"c{node.number}", time_text(node.time)[:10]]
    return " · ".join(filter(None, said))


def _spoken(via: str) -> str:
    """Return how a version came from another, a weight with as many digits as people read."""
    merged, _, weight = via.partition(", ")
    return f"{merged}, {float(weight):.4g}" if weight else via


def _tip(node: "LineageNode") -> str:
    said = [
        node.ref,
        f"c{node.number} {node.kind}",
        f"{time_text(node.time)} UTC",
        node.author or "",
        f"error {measured(node.error, bound=node.bound)}",
        node.source,
        node.message,
    ]
    return ", ".join(filter(None, said))


def _describe(lineage: "Lineage", nodes: "Mapping[str, LineageNode]") -> str:
    edges = [
        f"{_short(edge.ref)} from {_short(edge.parent)} ({_spoken(edge.via)})"
        for edge in lineage.edges
    ]
    more = len(edges) - _MOST_NAMED
    named = edges[:_MOST_NAMED] + ([f"and {more} more"] if more > 0 else [])
    base = f"{count(len(nodes), 'version')} on {lineage.base_model}"
    return f"{base}. {'; '.join(named) or 'It came from no other version'}."


def _lane_x(lane: int) -> float:
    return _LEFT + _LANE * lane


def _short(ref: str) -> str:
    return ref.partition("/")[2]


def _version(ref: str) -> str:
    return ref.rpartition("@")[2]
