"""RoutingIndex: an input goes to the task whose rows it lies in, whatever gauge or rank."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

import share_registry as sr
from tests.routing.drawn import (
    MODULES,
    WIDTH,
    dense_scores,
    draw_task,
    index_of,
    normal,
    pair,
)

ROUNDED = 2e-3
"""Rows of float16 have 11 bits; a share sums their products."""


def inputs(seed: int, tokens: int = 5) -> dict[str, Tensor]:
    return {name: normal(seed + n, tokens, WIDTH) for n, name in enumerate(MODULES)}


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    ranks=st.lists(st.integers(1, 8), min_size=2, max_size=6),
    data=st.data(),
)
def test_an_input_of_the_rows_of_a_task_goes_to_it(
    seed: int, ranks: list[int], data: st.DataObject
) -> None:
    tasks = [draw_task(seed + n, rank) for n, rank in enumerate(ranks)]
    task = data.draw(st.sampled_from(range(len(ranks))))
    x = {
        each.module: normal(seed + 77 + n, 3, ranks[task]) @ each.a
        for n, each in enumerate(tasks[task])
    }
    best = index_of(tasks).route(x)[0]
    assert best.ref == f"tiny/t{task}@v1"
    assert best.share == pytest.approx(1.0, abs=ROUNDED)


def test_scores_are_those_of_dense_products() -> None:
    tasks = [draw_task(n, rank) for n, rank in enumerate((8, 4, 1))]
    x = inputs(5)
    assert torch.allclose(index_of(tasks).scores(x), dense_scores(tasks, x), atol=ROUNDED)


@pytest.mark.parametrize("max_rank", [1, 3, None])
def test_another_gauge_gives_the_same_index(max_rank: int | None) -> None:
    tasks = [draw_task(n, 4) for n in range(3)]
    turned = []
    for n, pairs in enumerate(tasks):
        M = normal(50 + n, 4, 4)
        turned.append(
            [replace(each, a=torch.linalg.solve(M, each.a), b=M.mT @ each.b) for each in pairs]
        )
    first, second = index_of(tasks, max_rank), index_of(turned, max_rank)
    x = inputs(9)
    assert torch.allclose(first.scores(x), second.scores(x), atol=ROUNDED)
    for name in MODULES:
        rows, again = (index.table.rows[name][: max_rank or 4] for index in (first, second))
        assert torch.allclose(rows.mT @ rows, again.mT @ again, atol=ROUNDED)


def test_rows_are_the_strongest_of_dw_and_not_of_a() -> None:
    # the second row of A is long, but B uses it least
    a = torch.zeros(2, WIDTH, dtype=torch.float64)
    a[0, 0], a[1, 1] = 1.0, 10.0
    b = torch.tensor([[1.0, 0.0], [0.0, 0.01]], dtype=torch.float64)
    index = index_of([[replace(pair(0, 2), a=a, b=b)]], max_rank=1)
    assert torch.allclose(index.table.rows[MODULES[0]].abs(), torch.eye(WIDTH)[:1], atol=1e-4)


def test_no_task_wins_by_its_rank() -> None:
    ranks = (1, 2, 4, 8, 16)
    index = index_of([draw_task(n, rank) for n, rank in enumerate(ranks)])
    scores = torch.stack([index.scores(inputs(100 + n)) for n in range(300)])
    # the mean of 300 inputs without direction: two modules, five tokens each
    assert float(scores.mean(0).abs().max()) < 0.006
    wins = torch.bincount(scores.argmax(1), minlength=len(ranks)) / len(scores)
    assert float(wins.max()) < 0.5


def test_a_module_without_dw_has_no_rows() -> None:
    half = [pair(1, 4), replace(pair(2, 4, module=MODULES[1]), b=torch.zeros(4, 24))]
    unscaled = [replace(each, scale=0.0) for each in draw_task(3, 4)]
    index = index_of([half, draw_task(4, 4), unscaled])
    assert index.table.counts.tolist() == [[4, 4, 0], [0, 4, 0]]
    x = inputs(6)
    scores = index.scores(x)
    assert torch.allclose(scores[:1], dense_scores([half[:1]], x), atol=ROUNDED)
    assert scores[2] == -torch.inf
    assert len(index.route(x, k=3)) == 2


def test_modules_that_activations_lack_are_left_out() -> None:
    tasks = [draw_task(n, 4) for n in range(3)]
    index = index_of(tasks)
    x = inputs(7)
    some = {MODULES[1]: x[MODULES[1]], "elsewhere": torch.ones(3)}
    expected = dense_scores([[pairs[1]] for pairs in tasks], x)
    assert torch.allclose(index.scores(some), expected, atol=ROUNDED)


def test_modules_stand_in_one_order_whatever_task_has_them_first() -> None:
    index = index_of([[pair(0, 2, module=MODULES[1])], draw_task(1, 2)])
    assert list(index.modules) == [*MODULES]
    assert index.table.counts.tolist() == [[0, 2], [2, 2]]


def test_a_single_vector_is_enough_for_an_index_of_one_module() -> None:
    index = index_of([[pair(0, 2)], [pair(1, 2)]])
    x = normal(3, WIDTH)
    assert torch.equal(index.scores(x), index.scores({MODULES[0]: x[None]}))
    with pytest.raises(sr.InvalidInputError, match="index of 2 modules"):
        index_of([draw_task(0, 2)]).scores(x)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_the_size_of_an_input_does_not_matter(factor: float) -> None:
    index = index_of([draw_task(n, 4) for n in range(2)])
    x = inputs(8)
    large = {name: (tokens * factor).float() for name, tokens in x.items()}
    assert torch.allclose(index.scores(large), index.scores(x), atol=1e-5)


def test_tokens_of_zeros_count_for_nothing() -> None:
    index = index_of([draw_task(n, 4) for n in range(2)])
    x = inputs(8)
    padded = {name: torch.cat([tokens, torch.zeros(4, WIDTH)]) for name, tokens in x.items()}
    assert torch.allclose(index.scores(padded), index.scores(x), atol=1e-6)


def test_standardised_scores_have_mean_0_and_deviation_1_over_the_examples() -> None:
    index = index_of([draw_task(n, rank) for n, rank in enumerate((2, 8, 4))])
    # all inputs lean to the first task
    lean = index.table.rows[MODULES[0]][0].double() * 20
    examples = [
        {name: tokens + lean for name, tokens in inputs(200 + n).items()} for n in range(60)
    ]
    assert {index.route(x)[0].ref for x in examples} == {"tiny/t0@v1"}
    standard = index.standardised(iter(examples))
    scores = torch.stack([standard.scores(x) for x in examples])
    assert torch.allclose(scores.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(scores.std(0), torch.ones(3, dtype=torch.float64), atol=1e-6)
    assert (standard.examples, index.examples) == (60, 0)
    # its shares are those that it had
    x = examples[0]
    shares = {route.ref: route.share for route in index.route(x)}
    assert {route.ref: route.share for route in standard.route(x)} == shares


def test_examples_tell_which_modules_are_asked_for() -> None:
    index = index_of([draw_task(n, 4) for n in range(2)])
    examples = [{MODULES[1]: inputs(n)[MODULES[1]]} for n in range(3)]
    standard = index.standardised(examples)
    assert list(standard.modules) == [MODULES[1]]
    assert len(standard.route(inputs(4))) == 2
    with pytest.raises(sr.InvalidInputError, match=r"example 4 .*layers\.1\.proj"):
        index.standardised([*examples, {MODULES[0]: inputs(4)[MODULES[0]]}])


def test_one_example_or_the_same_again_is_no_measure() -> None:
    index = index_of([draw_task(n, 4) for n in range(2)])
    with pytest.raises(sr.InvalidInputError, match="1 example to"):
        index.standardised([inputs(1)])
    with pytest.raises(sr.InvalidInputError, match="one share in tiny/t0@v1"):
        index.standardised([inputs(1), inputs(1)])
    with pytest.raises(sr.InvalidInputError, match="a list of activations"):
        index.standardised(inputs(1))  # type: ignore[arg-type]


BAD = {
    "none in common": ({"x": torch.ones(3, WIDTH)}, "no module in common"),
    "nothing": ({}, "no module in common"),
    "width": ({MODULES[0]: torch.ones(3, WIDTH + 1)}, rf"\(tokens, {WIDTH}\)"),
    "dimensions": ({MODULES[0]: torch.ones(1, 3, WIDTH)}, rf"\(tokens, {WIDTH}\)"),
    "whole numbers": ({MODULES[0]: torch.ones(3, WIDTH, dtype=torch.int64)}, "of floats"),
    "NaN": ({MODULES[0]: torch.full((3, WIDTH), torch.nan)}, "NaN"),
    "infinite": ({MODULES[0]: torch.full((3, WIDTH), torch.inf)}, "infinite"),
    "zeros": ({MODULES[0]: torch.zeros(3, WIDTH)}, "0 throughout"),
    "no token": ({MODULES[0]: torch.ones(0, WIDTH)}, "0 throughout"),
    "no tensor": ({MODULES[0]: [1.0] * WIDTH}, "a tensor by a name"),
    "a text": ("activations", "module -> tensor"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_what_is_no_activation_is_refused(name: str) -> None:
    activations, message = BAD[name]
    with pytest.raises(sr.InvalidInputError, match=message):
        index_of([draw_task(0, 2)]).scores(activations)  # type: ignore[arg-type]


def test_modules_of_two_widths_are_refused() -> None:
    with pytest.raises(sr.InvalidInputError, match="is 16 wide, of tiny/t0@v1 32"):
        index_of([[pair(0, 2)], [pair(1, 2, width=16)]])


def test_tasks_without_a_row_are_refused() -> None:
    with pytest.raises(sr.InvalidInputError, match="no task has a row"):
        index_of([[replace(pair(0, 2), scale=0.0)]])
