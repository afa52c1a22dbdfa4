"""The log as a graph: what each commit's versions come from, in letters, a line a commit.

Lines run down from a commit to those it builds on. Where one ends in another, it turns to it in the
line of the commit where they meet.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

# Lines side by side; more would leave no room for what is said of the commits
MOST_LINES: Final = 8
# A commit that made a version, one whose versions build on nothing that is drawn, and any other
VERSION: Final = "●"
FIRST: Final = "◆"
WITHOUT: Final = "○"
_ACROSS: Final = "─"
_DOWN: Final = "│"
# Where the line across meets another: one that ends there, one that begins, one that it joins on
# its way down. On the left end of the line across, on the right end, and between.
_LEFT: Final = {(True, False): "╰", (False, True): "╭", (True, True): "├"}
_RIGHT: Final = {(True, False): "╯", (False, True): "╮", (True, True): "┤"}
_BETWEEN: Final = {(True, False): "┴", (False, True): "┬", (True, True): "┼"}
_Key: TypeAlias = Hashable


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """A commit in the graph.

    Attributes:
        key: What tells it from others.
        parents: Keys of what it builds on.
        makes: Whether it made a version; what did not stands in no line.
    """

    key: _Key
    parents: tuple[_Key, ...] = ()
    makes: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A graph.

    Attributes:
        rows: A text a node, in their order.
        left_out: How many connections are not drawn.
    """

    rows: tuple[str, ...]
    left_out: int


def draw(nodes: Sequence[GraphNode]) -> Drawing:
    """Return a graph of nodes, each of which comes before what it builds on."""
    lines = _Lines()
    return Drawing(
        rows=tuple(lines.row(node) if node.makes else lines.row_beside() for node in nodes),
        left_out=lines.left_out,
    )


@dataclass(slots=True)
class _Lines:
    """The lines that run at one place: what each leads to, None where there is none."""

    heads: list[_Key | None] = field(default_factory=list)
    left_out: int = 0

    def row(self, node: GraphNode) -> str:
        """Return the row of a commit that made versions."""
        above = [*self.heads]
        met = [place for place, head in enumerate(above) if head == node.key]
        place = met[0] if met else self._free()
        if place >= MOST_LINES:
            self.heads.pop()
            self.left_out += len(node.parents)
            return self._beside(FIRST)
        self.heads[place] = None
        touched = {place, *met} | self._lead_to(node.parents, place)
        for ended in met[1:]:
            self.heads[ended] = None
        above += [None] * (len(self.heads) - len(above))
        row = self._drawn(above, place, touched)
        while self.heads and self.heads[-1] is None:
            self.heads.pop()
        return row

    def row_beside(self) -> str:
        """Return the row of what stands in no line: to the right of all."""
        return self._beside(WITHOUT)

    def _beside(self, mark: str) -> str:
        return "".join([*("  " if head is None else "│ " for head in self.heads), mark])

    def _lead_to(self, parents: Iterable[_Key], place: int) -> set[int]:
        """Lead a line to every parent, the first in the place of the node; return the others."""
        others: set[int] = set()
        for parent in dict.fromkeys(parents):
            if self.heads[place] is None:
                self.heads[place] = parent
                continue
            if parent in self.heads:
                others.add(self.heads.index(parent))
                continue
            free = self._free()
            if free >= MOST_LINES:
                self.heads.pop()
                self.left_out += 1
                continue
            self.heads[free] = parent
            others.add(free)
        return others

    def _free(self) -> int:
        """Return a place without a line, a new one where there is none."""
        if None not in self.heads:
            self.heads.append(None)
        return self.heads.index(None)

    def _drawn(self, above: Sequence[_Key | None], place: int, touched: set[int]) -> str:
        first, last = min(touched), max(touched)
        cells = []
        for at, head in enumerate(above):
            is_crossed = first <= at <= last
            meeting = (head is not None, self.heads[at] is not None)
            if at == place:
                cell = VERSION if self.heads[at] is not None else FIRST
            elif at in touched:
                cell = (_LEFT if at == first else _RIGHT if at == last else _BETWEEN)[meeting]
            elif head is not None:
                cell = _DOWN
            else:
                cell = _ACROSS if is_crossed else " "
            cells.append(cell + (_ACROSS if first <= at < last else " "))
        return "".join(cells).rstrip()
