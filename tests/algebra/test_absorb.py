"""The budget is a contract: measured, met, and not wasted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from share_registry.algebra import step
from share_registry.algebra.absorb import absorb
from share_registry.algebra.decode import decode_side
from share_registry.algebra.error import module_errors, pooled_error
from share_registry.format.object_file import unpack
from tests.algebra.adapters import (
    DEMO,
    DEMO_TASKS,
    Pair,
    Shelf,
    demo_pairs,
    parameters,
    random_pairs,
)

CLOSE = 0.98
"""Share of the budget that a search over thousands of numbers reaches; its aim is .99."""
MODULE_CAP = 2.0
"""No module's own error exceeds this multiple of the budget: a promise, not a setting."""
BFLOAT16 = 1 + 2**-7
"""A module's error is recorded as the next bfloat16."""


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    budget=st.floats(1e-4, 0.7),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    rank=st.integers(1, 5),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
)
def test_the_error_of_what_comes_back_is_within_the_budget_and_as_recorded(
    seed: int, budget: float, dtype: torch.dtype, rank: int, width: int, height: int
) -> None:
    pairs = random_pairs(
        seed, modules=3, rank=rank, width=width, height=height, scale=0.5, dtype=dtype
    )
    kept = Shelf(budget=budget, dtype=dtype).add(pairs)
    error = pooled_error(kept.exported, pairs)
    assert error <= budget
    assert kept.absorbed.error == pytest.approx(error, rel=1e-5, abs=1e-13)
    for module, actual in zip(
        kept.stored.modules, module_errors(kept.exported, pairs), strict=True
    ):
        assert actual <= MODULE_CAP * budget * (1 + 1e-9)
        if module is not None:
            assert actual * (1 - 1e-6) <= module.error <= max(actual * BFLOAT16, 1e-30) * (1 + 1e-6)


@pytest.mark.parametrize("budget", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("task", DEMO_TASKS[:2])
def test_the_budget_of_a_real_adapter_is_used_up(task: str, budget: float) -> None:
    assert Shelf(budget=budget).add(demo_pairs(task, "v1")).absorbed.error >= CLOSE * budget


@pytest.mark.parametrize(
    ("budget", "most"), [(0.01, 6.22), (0.05, 3.70), (0.10, 2.72), (0.30, 1.16)]
)
def test_real_adapters_take_at_most_the_bits_that_were_aimed_at(budget: float, most: float) -> None:
    bits_per_number = []
    for folder in sorted(DEMO.glob("*/*/adapter_config.json")):
        pairs = demo_pairs(folder.parts[-3], folder.parts[-2])
        bits_per_number.append(8 * len(Shelf(budget=budget).add(pairs).content) / parameters(pairs))
    assert np.mean(bits_per_number) <= most


def test_header_and_table_of_a_small_adapter_take_less_than_700_bytes() -> None:
    content = Shelf(budget=0.05).add(demo_pairs("wn-pos-gloss", "v1")).content
    _, parts = unpack(content, ("planes", "symbols", "table"), subject="object")
    assert len(content) - len(parts["symbols"]) < 700


def test_budget_nothing_keeps_every_module_verbatim() -> None:
    assert not any(
        absorb(
            random_pairs(0, modules=2, rank=2, width=8, height=8),
            budget=0.0,
            dtypes=[(torch.float32, torch.float32)] * 2,
        ).modules
    )


@pytest.mark.parametrize(
    ("dtype", "budget"), [(torch.bfloat16, 1e-3), (torch.float16, 1e-4), (torch.float32, 1e-8)]
)
def test_a_budget_below_what_the_element_type_can_hold_keeps_everything_verbatim(
    dtype: torch.dtype, budget: float
) -> None:
    pairs = random_pairs(1, modules=2, rank=4, width=64, height=64, dtype=dtype)
    kept = Shelf(budget=budget, dtype=dtype).add(pairs)
    assert not any(kept.stored.modules)
    assert kept.absorbed.error == 0.0


def test_a_module_without_effect_is_kept_verbatim_and_alone() -> None:
    pairs = random_pairs(2, modules=3, rank=4, width=32, height=32)
    pairs[1] = Pair(module=pairs[1].module, a=pairs[1].a, b=torch.zeros_like(pairs[1].b))
    modules = Shelf(budget=0.05).add(pairs).stored.modules
    assert [module is None for module in modules] == [False, True, False]


def test_modules_in_the_same_tensors_are_coded_or_kept_together() -> None:
    pairs = random_pairs(2, modules=4, rank=4, width=32, height=32)
    pairs[1] = Pair(module=pairs[1].module, a=pairs[1].a, b=torch.zeros_like(pairs[1].b))
    coded = absorb(
        pairs, budget=0.05, dtypes=[(torch.float32, torch.float32)] * 4, factors=[0, 0, 1, 1]
    )
    assert [module is None for module in coded.modules] == [True, True, False, False]


def test_a_weak_module_is_kept_within_twice_the_budget() -> None:
    pairs = random_pairs(4, modules=3, rank=4, width=64, height=64)
    pairs[0] = Pair(module=pairs[0].module, a=pairs[0].a * 1e-4, b=pairs[0].b)
    kept = Shelf(budget=0.05).add(pairs)
    assert 1.5 * 0.05 < module_errors(kept.exported, pairs)[0] <= MODULE_CAP * 0.05


def test_the_gauge_of_the_source_does_not_matter() -> None:
    pairs = demo_pairs("wn-syn-ant", "v1")
    G = torch.linspace(0.1, 3.0, 8, dtype=torch.float64).diag() + 0.1
    turned = [
        Pair(module=pair.module, a=torch.linalg.inv(G) @ pair.a, b=G.T @ pair.b, scale=pair.scale)
        for pair in pairs
    ]
    sizes = [len(Shelf(budget=0.05).add(gauge).content) for gauge in (pairs, turned)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.003)


def test_coding_is_given_up_where_the_tensors_themselves_are_smaller() -> None:
    row = torch.ones(2, 4000, dtype=torch.float64)
    pairs = [
        Pair(module="m0000", a=row, b=torch.tensor([[1.0] * 3, [2.0] * 3], dtype=torch.float64))
    ]
    coded = absorb(
        pairs,
        budget=1e-5,
        dtypes=[(torch.float32, torch.float32)],
        size=lambda coded: 1 if coded.modules[0] is None else 64_000,
    )
    assert coded.modules == (None,)


@pytest.mark.parametrize("shape", [(8, 2, 64), (8, 64, 3), (4, 1, 1)])
def test_ranks_above_the_width_are_coded(shape: tuple[int, int, int]) -> None:
    rank, width, height = shape
    pairs = random_pairs(5, modules=2, rank=rank, width=width, height=height)
    kept = Shelf(budget=0.05).add(pairs)
    assert pooled_error(kept.exported, pairs) <= 0.05


@pytest.mark.parametrize("size", [1e-15, 1e-6, 1e6, 1e15])
def test_the_size_of_the_numbers_does_not_matter(size: float) -> None:
    plain = random_pairs(6, modules=2, rank=4, width=64, height=64)
    pairs = [replace(pair, a=pair.a * size, b=pair.b * size) for pair in plain]
    kept = Shelf(budget=0.05).add(pairs)
    assert all(kept.stored.modules)
    assert pooled_error(kept.exported, pairs) <= 0.05


@pytest.mark.parametrize("budget", [0.0024, 0.0026])
def test_a_large_adapter_is_coded_near_the_precision_of_its_element_type(
    budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # large from the first number on
    monkeypatch.setattr(step, "_LARGE", 0)
    pairs = random_pairs(
        8, modules=4, rank=8, width=512, height=512, scale=2.0, dtype=torch.bfloat16
    )
    kept = Shelf(budget=budget, dtype=torch.bfloat16).add(pairs)
    assert all(kept.stored.modules)
    assert 0.9 * budget < pooled_error(kept.exported, pairs) <= budget


def test_rows_that_a_gram_does_not_tell_from_nothing_are_coded() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.linalg.qr(torch.randn(256, 32, generator=generator, dtype=torch.float64)).Q.T
        for _ in range(2)
    )
    sizes = torch.full((32, 1), 1e-4, dtype=torch.float64)
    small, large = sizes.clone(), sizes.clone()
    small[0], small[-1], large[0], large[-1] = 1.0, 1.5e-7, 1.2e-3, 1.0
    pairs = [Pair(module="m0000", a=a * small, b=b * large)]
    coded = absorb(pairs, budget=1e-4, dtypes=[(torch.float64, torch.float64)])
    assert coded.modules[0] is not None
    sides = [
        decode_side(side, previous=None, blocks=[]).double()
        for side in (coded.modules[0].a, coded.modules[0].b)
    ]
    decoded = [Pair(module="m0000", a=sides[0], b=sides[1])]
    assert pooled_error(decoded, pairs) <= 1e-4
