"""Drawings show what the values say: every version, move, edge and module, and where it is."""

from itertools import pairwise
from typing import Any, Final
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given, settings, strategies as st

from share_registry.look.heat_map import ends_of, without_shared_beginning
from share_registry.look.lineage_graph import lineage_graph
from share_registry.look.module_grid import grid_of
from share_registry.look.module_map import bits_map, directions_map, error_map
from share_registry.look.retention_map import retention_map
from share_registry.look.sparkline import sparkline
from share_registry.look.spectrum_map import spectrum_map
from share_registry.look.timeline import timeline
from share_registry.names import CommitNumber
from share_registry.values.commits import Log
from tests.look import samples
from tests.look.samples import task_version

PHONE: Final = 390.0


def _texts(root: Element) -> list[str]:
    """Return what is written, without the tips."""
    return [
        "".join(text.itertext()).removeprefix(text.findtext("title") or "")
        for text in root.iter("text")
    ]


def _with(root: Element, look: str) -> list[Element]:
    return [part for part in root.iter() if look in (part.get("class") or "").split()]


def _tips(root: Element) -> list[str]:
    return [group[0].text or "" for group in root.iter("g") if group[0].tag == "title"]


def _number(part: Element, name: str) -> float:
    return float(part.get(name) or 0)


def test_a_sparkline_ends_in_the_newest_version_and_has_the_steps_of_the_budget() -> None:
    versions = [task_version(3), task_version(1, budget=0.1, error=0.09), task_version(2)]
    root = fromstring(sparkline(versions))
    assert root[1].text == "v1 9.00 %, v2 2.00 %, v3 2.00 %; budget 2.5 %."
    (line,), (budget,), (dot,) = (_with(root, look) for look in ("line", "dashed", "dot"))
    assert (line.get("d") or "").endswith(f"{dot.get('cx')} {dot.get('cy')}")
    assert (budget.get("d") or "").count("V") == 2


def test_an_error_above_its_budget_is_a_ring_of_another_colour() -> None:
    above = fromstring(sparkline([task_version(1), task_version(2, error=0.03)]))
    assert len(_with(above, "bad")) == 1
    assert "ring" in (_with(above, "bad")[0].get("class") or "")
    assert not _with(fromstring(sparkline([task_version(1)])), "bad")
    assert not _with(fromstring(sparkline([task_version(1, budget=None)])), "dashed")


def test_bytes_are_drawn_without_a_budget() -> None:
    root = fromstring(sparkline([task_version(1), task_version(2)], measure="bytes"))
    assert root[1].text == "v1 49 kB, v2 48 kB."
    assert not _with(root, "dashed")


def test_many_versions_are_one_line_and_the_newest_are_named() -> None:
    root = fromstring(sparkline([task_version(number) for number in range(1, 201)]))
    assert (root[1].text or "").startswith("188 earlier versions before, v189 ")
    assert _number(root, "width") == 120


def test_a_time_line_has_a_point_a_version_and_a_bar_a_stand_of_an_alias() -> None:
    root = fromstring(timeline(samples.history()))
    assert [text for text in _texts(root) if text.startswith("v")] == [
        *("versions", "v1", "v2", "v1", "v2", "v3"),
    ]
    first, second = _with(root, "span")
    assert _number(first, "x") + _number(first, "width") < _number(second, "x")
    tips = _tips(root)
    assert "prod is v1 from c3 to c5" in tips
    assert "prod is v2 from c5 to c6" in tips
    assert any(tip.startswith("c7 drop") for tip in tips)
    assert len(_with(root, "dot")) == 2
    assert len(_with(root, "ring")) == 1, "a refit is not a version that somebody committed"


def test_a_bar_ends_where_the_alias_moves_on_and_the_last_one_goes_on() -> None:
    moves = [("c2", 1), ("c3", 2)]
    commits = [
        samples.commit(2, "absorb", version=1),
        samples.commit(3, "alias", version=1, detail="cola@prod is v1"),
        samples.commit(4, "absorb", version=2),
        samples.commit(5, "alias", version=2, detail="cola@prod is v2"),
    ]
    root = fromstring(timeline(Log(commits=tuple(reversed(commits)))))
    bars = _with(root, "span")
    assert len(bars) == len(moves)
    assert _number(bars[1], "x") + _number(bars[1], "width") > _number(root, "width") - 4
    assert "prod is v2 from c5 to now" in _tips(root)
    dots = {
        tip.split(",")[0]: dot for tip, dot in zip(_tips(root)[2:], _with(root, "dot"), strict=True)
    }
    assert _number(dots["v1"], "cx") < _number(bars[0], "x") < _number(dots["v2"], "cx")


def test_a_dropped_task_has_a_gap_in_its_line() -> None:
    root = fromstring(timeline(samples.history()))
    lives = [line.get("d") for line in _with(root, "axis")]
    assert len(lives) == 2


def test_a_long_history_is_drawn_narrow_and_names_do_not_overlap() -> None:
    commits = [samples.commit(n, "absorb", version=n - 1, said="") for n in range(2, 302)]
    root = fromstring(timeline(Log(commits=tuple(reversed(commits)))))
    assert _number(root, "width") < 3_200
    assert len(_with(root, "dot")) == 300
    named = [text for text in root.iter("text") if (text.text or "").startswith("v")][1:]
    assert 30 < len(named) < 300
    assert all(after - before > 17 for before, after in pairwise(_number(n, "x") for n in named))


def test_versions_link_where_an_address_is_given() -> None:
    root = fromstring(timeline(samples.history(), link=lambda ref: f"/{ref}"))
    assert [link.get("href") for link in root.iter("a")] == [
        f"/minilm/cola@v{version}" for version in (1, 2, 3)
    ]


Edges = list[tuple[str, str, str]]


def _rows(root: Element) -> dict[str, float]:
    """Return the height of each version's mark."""
    return {
        tip.partition(",")[0].partition("/")[2]: _number(mark, "cy")
        for tip, mark in zip(
            (group[0].text or "" for group in root.iter("g")), root.iter("circle"), strict=True
        )
    }


@st.composite
def _histories(draw: st.DrawFn) -> Edges:
    """Draw edges from version n to some with greater numbers: ancestors of version 0."""
    count = draw(st.integers(1, 14))
    edges = []
    for number in range(1, count):
        users = draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=4, unique=True))
        via = draw(st.sampled_from(["version", "derived", "merged, 0.5", "restored"]))
        edges += [(f"t{user}@v1", f"t{number}@v1", via) for user in users]
    return edges


@settings(max_examples=50, deadline=None)
@given(_histories())
def test_every_version_stands_once_above_all_that_it_came_from(edges: Edges) -> None:
    lineage = samples.lineage("t0@v1", edges, said="")
    rows = _rows(fromstring(lineage_graph(lineage)))
    assert {*rows} == {node.ref.partition("/")[2] for node in lineage.nodes}
    assert len({*rows.values()}) == len(rows)
    for ref, origin, _ in edges:
        assert rows[ref] < rows[origin]


@settings(max_examples=50, deadline=None)
@given(_histories())
def test_every_edge_is_a_line_from_the_version_to_its_origin(edges: Edges) -> None:
    root = fromstring(lineage_graph(samples.lineage("t0@v1", edges, said="")))
    marks = {
        (_number(mark, "cx"), _number(mark, "cy")): ref
        for ref, mark in zip(_rows(root), root.iter("circle"), strict=True)
    }
    drawn = []
    for line in _with(root, "axis"):
        start, end = _ends(line.get("d") or "")
        drawn.append((marks[start], marks[end]))
    assert sorted(drawn) == sorted({(ref, origin) for ref, origin, _ in edges})


@settings(max_examples=50, deadline=None)
@given(_histories())
def test_no_line_goes_through_a_version_and_lines_share_a_lane_for_one_origin_alone(
    edges: Edges,
) -> None:
    root = fromstring(lineage_graph(samples.lineage("t0@v1", edges, said="")))
    marks = [(_number(mark, "cx"), _number(mark, "cy")) for mark in root.iter("circle")]
    upright: list[tuple[float, float, float, tuple[float, float]]] = []
    for line in _with(root, "axis"):
        points = _points(line.get("d") or "")
        for (x, y), (to_x, to_y) in pairwise(points):
            if x == to_x:
                assert not [mark for mark in marks if mark[0] == x and y < mark[1] < to_y]
                upright.append((x, y, to_y, points[0]))
    for x, y, to_y, start in upright:
        for other_x, other_y, other_to_y, other_start in upright:
            if (x, start) < (other_x, other_start) and x == other_x:
                overlap = min(to_y, other_to_y) - max(y, other_y)
                origins = [_origins(edges, root, place) for place in (start, other_start)]
                assert overlap <= 0 or origins[0] & origins[1]


def _origins(edges: Edges, root: Element, place: tuple[float, float]) -> set[str]:
    """Return what the version with a mark at this place came from."""
    refs = {height: ref for ref, height in _rows(root).items()}
    return {origin for ref, origin, _ in edges if ref == refs[place[1]]}


def _ends(path: str) -> tuple[tuple[float, float], tuple[float, float]]:
    points = _points(path)
    return points[0], points[-1]


def _points(path: str) -> list[tuple[float, float]]:
    """Return where the steps of a path end, of the commands that lines of a lineage have."""
    tokens, points = path.split(), []
    x = y = 0.0
    while tokens:
        command = tokens.pop(0)
        count = {"M": 2, "V": 1, "v": 1, "H": 1, "Q": 4, "q": 4}[command]
        numbers = [float(tokens.pop(0)) for _ in range(count)]
        match command:
            case "M" | "Q":
                x, y = numbers[-2:]
            case "q":
                x, y = x + numbers[2], y + numbers[3]
            case "V":
                y = numbers[0]
            case "v":
                y += numbers[0]
            case "H":
                x = numbers[0]
        points.append((round(x, 2), round(y, 2)))
    return points


def test_200_versions_one_after_the_other_are_a_few_rows() -> None:
    edges = [(f"cola@v{n}", f"cola@v{n - 1}", "version") for n in range(200, 1, -1)]
    edges.append(("cola@v100", "base@v1", "derived"))
    root = fromstring(lineage_graph(samples.lineage("cola@v200", edges)))
    assert len([*root.iter("circle")]) == 9
    assert [text for text in _texts(root) if " versions, " in text] == [
        "97 versions, v198 to v102",
        "95 versions, v97 to v3",
    ]
    assert len(_with(root, "dashed")) == 4
    assert "200 versions" not in (root[0].text or "")
    assert (root[0].text or "").endswith("201 versions")


def test_a_merge_of_64_that_came_from_one_version_fits_a_phone() -> None:
    edges: Edges = [("both@v1", f"p{n}@v1", "merged, 0.015625") for n in range(64)]
    edges += [(f"p{n}@v1", "base@v1", "derived") for n in range(64)]
    root = fromstring(lineage_graph(samples.lineage("both@v1", edges, said="")))
    assert len([*root.iter("circle")]) == 66
    assert _number(root, "width") < PHONE


def test_a_very_large_lineage_says_what_it_leaves_out() -> None:
    edges: Edges = [("both@v1", f"p{n}@v1", "derived") for n in range(500)]
    root = fromstring(lineage_graph(samples.lineage("both@v1", edges, said="")))
    assert _texts(root)[-1] == "and 101 more"
    assert "and 480 more" in (root[1].text or "")


def test_a_version_that_was_removed_is_a_ring_and_says_so() -> None:
    edges: Edges = [("cola@v2", "gone@v1", "derived")]
    root = fromstring(lineage_graph(samples.lineage("cola@v2", edges)))
    assert len(_with(root, "quiet")) == 1
    assert "removed in c9" in _texts(root)[1]


MODULES: Final = {
    f"base.layers.{layer}.{projection}": 0.01 * layer
    for layer in (10, 2, 0)
    for projection in ("attn.q_proj", "attn.v_proj", "mlp.up_proj.0")
}


def test_modules_are_rows_by_layer_and_columns_by_projection() -> None:
    root = fromstring(error_map(samples.report({**MODULES, "lm_head": 0.5})))
    names = _texts(root)
    assert [name for name in names if name in {"0", "2", "10", "lm_head"}][:4] == [
        *("0", "2", "10", "lm_head"),
    ]
    assert {"attn.q_proj", "attn.v_proj", "mlp.up_proj.0", "whole"} <= {*names}
    assert len(_with(root, "cell")) == len(MODULES) + 1 + 9
    assert "base.layers.10.attn.q_proj: error 10.0 %" in _tips(root)


def test_bits_are_those_of_both_factors_by_their_parameters() -> None:
    root = fromstring(bits_map(samples.report({"layers.0.q": 0.1})))
    # 2 bits on 8,000 parameters and 4 bits on as many
    assert "3.00" in _texts(root)
    (tip,) = [tip for tip in _tips(root) if tip.startswith("layers.0.q")]
    assert "A 2.00 bits per parameter, 2.0 kB, none; B 4.00" in tip


def test_directions_are_whole_numbers_by_layer_and_projection() -> None:
    spectra = [samples.spectrum(f"layers.{layer}.q", k90=layer + 3) for layer in (0, 1)]
    root = fromstring(directions_map(spectra))
    assert {"3", "4"} <= {*_texts(root)}
    assert "layers.1.q: 90 % of the energy in 4 directions of 16, effective rank 6.5" in _tips(root)


PART: Final = st.sampled_from(["layers", "0", "1", "10", "attn", "q", "to_out", "experts", "whole"])
NAME: Final = st.lists(PART, min_size=1, max_size=6).map(".".join)


@settings(max_examples=50, deadline=None)
@given(st.lists(NAME, min_size=1, max_size=30, unique=True))
def test_no_module_is_lost_whatever_its_path(modules: list[str]) -> None:
    root = fromstring(error_map(samples.report(dict.fromkeys(modules, 0.1))))
    drawn = {tip.partition(": error")[0] for tip in _tips(root)}
    assert drawn >= {*modules}


def test_a_large_model_is_drawn_small_and_without_numbers() -> None:
    modules = {f"layers.{layer}.p{n}": 0.1 for layer in range(126) for n in range(7)}
    root = fromstring(error_map(samples.report(modules)))
    assert _number(root, "width") < PHONE
    assert len(_with(root, "cell")) == 126 * 7 + 9
    assert not _with(root, "middle")


def test_modules_that_share_neither_layer_nor_projection_are_one_column() -> None:
    modules = {f"a{n}x.{n}.p{n}": 0.1 + 0.001 * n for n in range(150)}
    assert [len(row) for row in grid_of(modules).modules] == [1] * 150
    root = fromstring(error_map(samples.report(modules)))
    assert len(_with(root, "cell")) == 150 + 9


def test_of_very_many_rows_those_with_the_largest_numbers_are_drawn_and_that_is_said() -> None:
    modules = {f"layers.{n}.q": 0.1 + 0.001 * (n * 7 % 300) for n in range(300)}
    root = fromstring(error_map(samples.report(modules)))
    drawn = {tip.partition(": error")[0] for tip in _tips(root)} & {*modules}
    assert drawn == {*sorted(modules, key=lambda module: modules[module])[-200:]}
    assert _texts(root)[-1] == "200 of 300 rows: those with the largest numbers"


def test_of_very_many_columns_those_with_the_largest_numbers_are_drawn_and_that_is_said() -> None:
    modules = {f"layers.{layer}.p{n}": 0.1 + 0.01 * n for layer in range(3) for n in range(50)}
    root = fromstring(error_map(samples.report(modules)))
    drawn = {tip.partition(": error")[0] for tip in _tips(root)} & {*modules}
    assert drawn == {f"layers.{layer}.p{n}" for layer in range(3) for n in range(10, 50)}
    assert _texts(root)[-1] == "40 of 50 columns: those with the largest numbers"


def test_a_retention_map_marks_what_a_commit_made_and_what_is_a_bound() -> None:
    root = fromstring(retention_map(samples.retention(6)))
    assert len(_with(root, "marked")) == 6
    assert len([*root.iter("path")]) == 6
    assert _texts(root)[-1] == "corner: an upper bound"
    assert "task-0@v1 at c5 refit, 2026-11-17: error <= 16.0 %" in _tips(root)


def test_of_a_metric_nothing_is_a_bound() -> None:
    root = fromstring(retention_map(samples.retention(6, metric="acc")))
    assert not [*root.iter("path")]
    assert "0.9" in _texts(root)


def test_of_many_tasks_and_commits_the_last_are_drawn_and_that_is_said() -> None:
    root = fromstring(retention_map(samples.retention(80)))
    assert len(_with(root, "marked")) == 60
    assert {"60 of 80 tasks: those that changed last", "60 of 80 commits: the newest"} <= {
        *_texts(root)
    }


@pytest.mark.parametrize(("k90", "column"), [(1, 1), (2, 2), (3, 4), (5, 8), (16, 16)])
def test_a_spectrum_frames_the_first_column_with_90_percent(k90: int, column: int) -> None:
    root = fromstring(spectrum_map([samples.spectrum("q", k90=k90)], "a"))
    (frame,) = _with(root, "marked")
    names = [text for text in root.iter("text") if (text.text or "") == str(column)]
    middle = _number(frame, "x") + _number(frame, "width") / 2
    assert any(abs(_number(name, "x") - middle) < 1 for name in names)


def test_a_spectrum_has_the_shares_between_those_that_are_known() -> None:
    root = fromstring(spectrum_map([samples.spectrum("q"), samples.spectrum("q", side="b")], "a"))
    assert [text for text in _texts(root) if text in {"40", "60", "80", "90", "100"}][:5] == [
        *("40", "60", "80", "90", "100"),
    ]
    assert len(_with(root, "marked")) == 1


def test_the_ends_of_colours_are_never_so_near_that_noise_has_some() -> None:
    assert ends_of([0.0, 1.0]) == (0.0, 1.0)
    low, high = ends_of([0.0249, 0.0250], least=0.1)
    assert low < 0.0249
    assert high - low == pytest.approx(2 * 0.1 * 0.02495)
    assert ends_of([0.0]) == (-0.5, 0.5)


@pytest.mark.parametrize(
    ("paths", "short"),
    [
        ([], []),
        (["a.b"], ["b"]),
        (["m.l.0.q", "m.l.1.q"], ["0.q", "1.q"]),
        (["a", "a.b"], ["a", "a.b"]),
    ],
)
def test_what_all_paths_begin_with_is_left_out(paths: list[str], short: list[str]) -> None:
    assert without_shared_beginning(paths) == short


def test_a_history_of_another_name_keeps_its_moves() -> None:
    """The detail of a move has the name that the task had then."""
    moved: Any = samples.commit(3, "alias", version=1, detail="old@prod is v1")
    log = Log(commits=(moved, samples.commit(2, "absorb", version=1)))
    assert log[0].number == CommitNumber(3)
    assert len(_with(fromstring(timeline(log)), "span")) == 1
