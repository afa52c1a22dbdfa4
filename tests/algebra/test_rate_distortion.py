"""The Gaussian bound: reverse water-filling as in the book, and what real coding stays above."""

from math import log2

import pytest
import torch

from share_registry.algebra.rate_distortion import bits_per_element, bound
from tests.algebra.adapters import DEMO_TASKS, Pair, demo_pairs, random_pairs

CLOSE = 1e-9


def rows(*variances: float, width: float = 10.0) -> tuple[torch.Tensor, torch.Tensor]:
    widths = torch.full((len(variances),), width, dtype=torch.float64)
    return torch.tensor(variances, dtype=torch.float64), widths


def test_one_variance_takes_half_a_bit_for_half_the_distortion() -> None:
    budget = 0.1  # both sides err: half of the squared error is each side's
    assert bits_per_element(*rows(3.0), budget=budget) == pytest.approx(
        0.5 * log2(2 / budget**2), rel=CLOSE
    )


def test_water_covers_the_weak_rows() -> None:
    strong, weak, level = 4.0, 0.01, 0.1
    spent = level + weak
    budget = (spent / ((strong + weak) / 2)) ** 0.5
    assert bits_per_element(*rows(strong, weak), budget=budget) == pytest.approx(
        0.5 * log2(strong / level) / 2, rel=1e-6
    )


def test_nothing_takes_no_bits() -> None:
    assert (
        bound(
            [Pair(module="m", a=torch.ones(2, 8).double(), b=torch.zeros(2, 8).double())],
            budget=0.1,
        )
        == 0.0
    )


def test_the_bound_falls_with_the_budget_and_knows_no_gauge() -> None:
    pairs = random_pairs(0, modules=2, rank=4, width=48, height=32)
    bounds = [bound(pairs, budget=budget) for budget in (0.01, 0.05, 0.1, 0.3)]
    assert bounds == sorted(bounds, reverse=True)
    swapped = [
        Pair(module=pair.module, a=2.0 * pair.a.flip(0), b=0.5 * pair.b.flip(0)) for pair in pairs
    ]
    assert bound(swapped, budget=0.05) == pytest.approx(bounds[1], rel=1e-6)


@pytest.mark.parametrize(
    ("budget", "expected"), [(0.01, 5.4), (0.05, 3.1), (0.1, 2.1), (0.3, 0.72)]
)
def test_real_adapters_have_the_bound_that_was_measured(budget: float, expected: float) -> None:
    assert bound(demo_pairs(DEMO_TASKS[1], "v1"), budget=budget) == pytest.approx(
        expected, rel=0.03
    )
