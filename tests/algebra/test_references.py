"""References are taken where they save bytes, and only there."""

import pytest
import torch

from share_registry.algebra import reference
from share_registry.algebra.error import pooled_error
from share_registry.algebra.quantise import Rows
from share_registry.algebra.reference import choose, sample, screen
from tests.algebra.adapters import DEMO_TASKS, Pair, Shelf, demo_pairs, planted, random_pairs

BUDGET = 0.05


def sizes(shelf: Shelf) -> list[int]:
    return [len(kept.content) for kept in shelf.kept]


@pytest.mark.parametrize("candidates", [0, 8])
def test_continued_versions_take_at_most_three_fifths_of_the_first(candidates: int) -> None:
    shelf = Shelf(budget=BUDGET, candidates=candidates)
    first = shelf.add(demo_pairs("wn-pos-gloss", "v1"))
    second = shelf.add(demo_pairs("wn-pos-gloss", "v2"), previous=first)
    third = shelf.add(demo_pairs("wn-pos-gloss", "v3"), previous=second)
    for version, kept in (("v2", second), ("v3", third)):
        assert len(kept.content) <= 0.60 * len(first.content)
        assert pooled_error(kept.exported, demo_pairs("wn-pos-gloss", version)) <= BUDGET


def test_a_chain_is_made_only_without_the_rows_of_the_previous_version() -> None:
    for candidates, chained in ((0, True), (8, False)):
        shelf = Shelf(budget=BUDGET, candidates=candidates)
        first = shelf.add(demo_pairs("wn-pos-gloss", "v1"))
        second = shelf.add(demo_pairs("wn-pos-gloss", "v2"), previous=first)
        third = shelf.add(demo_pairs("wn-pos-gloss", "v3"), previous=second)
        for kept in (second, third):
            assert (kept.stored.previous is not None) is chained
            assert bool(kept.stored.sources) is not chained


def test_adapters_from_one_start_take_less_together_than_apart() -> None:
    together, apart = Shelf(budget=BUDGET), Shelf(budget=BUDGET, references=False)
    for task in DEMO_TASKS:
        together.add(demo_pairs(task, "s42"))
        apart.add(demo_pairs(task, "s42"))
    assert sum(sizes(together)[1:]) <= 0.92 * sum(sizes(apart)[1:])


def test_adapters_that_share_nothing_cost_what_they_cost_without_references() -> None:
    together, apart = Shelf(budget=BUDGET), Shelf(budget=BUDGET, references=False)
    for task in DEMO_TASKS:
        together.add(demo_pairs(task, "v1"))
        apart.add(demo_pairs(task, "v1"))
    assert sum(sizes(together)) <= 1.01 * sum(sizes(apart))


def test_a_planted_collection_costs_less_than_a_third_each_once_its_rows_are_known() -> None:
    shelf = Shelf(budget=BUDGET)
    for pairs in planted(10, modules=1, rank=16, width=1024, shared=32, noise=0.01):
        assert pooled_error(shelf.add(pairs).exported, pairs) <= BUDGET
    first, *_, last_but_one, last = sizes(shelf)
    assert max(last_but_one, last) < first / 3


def test_a_copy_costs_next_to_nothing() -> None:
    shelf = Shelf(budget=BUDGET)
    pairs = demo_pairs("wn-syn-ant", "v1")
    shelf.add(pairs)
    assert len(shelf.add(pairs).content) < 0.1 * len(shelf.kept[0].content)


def test_blocks_of_another_rank_or_width_do_no_harm() -> None:
    shelf = Shelf(budget=BUDGET)
    pairs = random_pairs(0, modules=2, rank=4, width=64, height=48)
    shelf.add(pairs)
    shelf.add([Pair(module=pair.module, a=pair.a[:2], b=pair.b[:2]) for pair in pairs])
    wider = [Pair(module=pair.module, a=torch.cat([pair.a, pair.a], 1), b=pair.b) for pair in pairs]
    kept = shelf.add(wider)
    assert pooled_error(kept.exported, wider) <= BUDGET


def test_sources_are_named_once_and_used() -> None:
    shelf = Shelf(budget=BUDGET)
    for pairs in planted(5, modules=2, rank=8, width=256, shared=12, noise=0.01):
        kept = shelf.add(pairs)
        used = {
            term.source
            for module in kept.stored.modules
            if module
            for side in (module.a, module.b)
            for term in side.terms
        }
        assert used == set(range(len(kept.stored.sources)))
    assert shelf.kept[-1].stored.sources


def test_rows_that_no_sampled_module_has_are_left_out() -> None:
    # so many rows that the first and the last of four modules stand for all
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, 512, generator=generator, dtype=torch.float64)
    block = [None, torch.eye(512, dtype=torch.int32).repeat(2, 1), None, None]
    scales = torch.full((4, 2), 0.1, dtype=torch.float64)
    rows = Rows(
        factors=tuple(x), gauge=None, gram=x @ x.mT, previous=None, prediction=None, dtype=x.dtype
    )
    some = sample(4, 512, [block])
    assert some == [0, 3]
    order = screen(rows.select(some), scales[some], [[block[number] for number in some]])
    prediction, costs = choose(rows, scales, [block], order)
    assert prediction is None
    assert costs.shape == (4,)


def test_choices_that_are_fitted_together_come_out_as_those_fitted_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(1)
    count, width = 5, 96

    def integers(rows: int) -> torch.Tensor:
        return torch.randint(-9, 10, (rows, width), generator=generator, dtype=torch.int32)

    # blocks of several heights, one of which a module does not have
    whole = [[integers(height) for _ in range(count)] for height in (3, 4, 3, 2, 3)]
    blocks = [[None if (i, n) == (2, 1) else whole[i][n] for n in range(count)] for i in range(5)]
    mixed = [torch.cat([whole[i][n][:2] for i in (4, 0, 3)]).double() for n in range(count)]
    noise = torch.randn(count, 6, width, generator=generator, dtype=torch.float64)
    x = torch.stack(mixed) + 0.3 * noise
    rows = Rows(
        factors=tuple(x), gauge=None, gram=x @ x.mT, previous=None, prediction=None, dtype=x.dtype
    )
    scales = torch.full((count, 6), 0.5, dtype=torch.float64)
    together = screen(rows, scales, blocks)
    monkeypatch.setattr(reference, "_FITTED_TOGETHER", 1)
    assert screen(rows, scales, blocks) == together
    assert {*together[:3]} == {0, 3, 4}
