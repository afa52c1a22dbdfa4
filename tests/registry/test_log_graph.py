"""The log as a graph: lines that lead where versions came from, by eye and by following them."""

from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, strategies as st

import share_registry as sr
from share_registry.values.log_graph import FIRST, MOST_LINES, VERSION, WITHOUT, GraphNode, draw
from tests.cli.tiny import write_adapter

MARKS = {VERSION, FIRST, WITHOUT}
# Where the line across meets one that begins there, one that ends, one that it joins
BEGINS, ENDS, JOINS = {"╭", "╮", "┬"}, {"╰", "╯", "┴"}, {"├", "┤", "┼"}


def picture(*nodes: tuple[int, list[int]]) -> list[str]:
    return [*draw([GraphNode(key=key, parents=tuple(parents)) for key, parents in nodes]).rows]


def test_versions_stand_in_a_line() -> None:
    assert picture((3, [2]), (2, [1]), (1, [])) == ["●", "●", "◆"]


def test_a_merge_joins_lines_and_a_fork_parts_them() -> None:
    assert picture((5, [4, 3]), (4, [2]), (3, [2]), (2, [1]), (1, [])) == [
        "●─╮",
        "● │",
        "│ ●",
        "●─╯",
        "◆",
    ]


def test_lines_cross_on_the_way_to_a_line_far_away() -> None:
    rows = picture((9, [5]), (8, [6]), (7, [6, 5]), (6, [4]), (5, [4]), (4, []))
    assert rows == ["●", "│ ●", "├─│─●", "│ ●─╯", "● │", "◆─╯"]


def test_what_made_no_version_stands_beside_the_lines() -> None:
    nodes = [
        GraphNode(key=4, parents=(2,)),
        GraphNode(key=3, makes=False),
        GraphNode(key=2, parents=(1,)),
        GraphNode(key=1),
    ]
    assert [*draw(nodes).rows] == ["●", "│ ○", "●", "◆"]


def test_more_lines_than_fit_are_counted() -> None:
    first = MOST_LINES + 4
    nodes = [
        GraphNode(key=first + 1, parents=tuple(range(first, 0, -1))),
        *(GraphNode(key=key) for key in range(first, 0, -1)),
    ]
    drawing = draw(nodes)
    assert drawing.left_out == first - MOST_LINES
    assert max(map(len, drawing.rows)) <= 2 * MOST_LINES + 1


@given(st.data())
def test_every_line_leads_where_it_must(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 14))
    nodes = [
        GraphNode(
            key=key,
            parents=tuple(data.draw(st.lists(st.integers(1, key - 1), max_size=3, unique=True))),
        )
        for key in range(count, 1, -1)
    ]
    nodes.append(GraphNode(key=1))
    drawing = draw(nodes)
    led = [_led_to(drawing.rows, position) for position in range(count)]
    shown = [{nodes[row].key for row in rows} for rows in led]
    assert all(keys <= {*node.parents} for keys, node in zip(shown, nodes, strict=True))
    parents = sum(len(node.parents) for node in nodes)
    assert drawing.left_out == parents - sum(map(len, shown))
    assert drawing.left_out == 0 or max(map(len, drawing.rows)) >= 2 * MOST_LINES - 1


def _led_to(rows: Sequence[str], start: int) -> set[int]:
    """Return the rows of the commits that lines from one lead down to."""
    here = rows[start]
    lines = {at for at, cell in enumerate(here) if cell in BEGINS | JOINS | {VERSION}}
    reached = set()
    for number, row in enumerate(rows[start + 1 :], start + 1):
        padded = row.ljust(max(lines, default=0) + 1)
        met = {at for at in lines if padded[at] in ENDS | MARKS}
        if met:
            reached.add(number)
        lines -= met
        assert all(padded[at] in JOINS | {"│"} for at in lines), rows
    assert not lines
    return reached


def test_the_log_says_what_versions_were_made_from(registry: sr.Registry, tmp_path: Path) -> None:
    first = registry.commit(write_adapter(tmp_path / "a", seed=1), task="a")
    other = registry.commit(write_adapter(tmp_path / "b", seed=2), task="b")
    second = registry.commit(write_adapter(tmp_path / "c", seed=3), task="a")
    merged = registry.merge({"a": 0.5, "b": 0.5}, task="m")
    registry.set_alias("a@v1", "prod")
    restored = registry.restore("a@v1")
    log = registry.log(graph=True)
    assert {each.number: each.builds_on for each in log if each.builds_on} == {
        second.number: (first.number,),
        merged.number: (second.number, other.number),
        restored.number: (first.number,),
    }
    graph = [line[:7].rstrip() for line in str(log).splitlines()[1:]]
    assert graph == ["●", "│ ○", "│ ●─╮", "│ ● │", "│ │ ◆", "◆─╯", "○"]
    assert {each.builds_on for each in registry.log()} == {()}
    # a line leads to no commit that is not listed
    assert str(registry.log(graph=True, limit=1)).splitlines()[1].startswith(FIRST)
