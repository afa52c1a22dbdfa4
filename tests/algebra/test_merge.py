"""Merges on dW against dense products: the weighted sum, TIES and DARE in common coordinates."""

import pytest
import torch

from share_registry.algebra.merge_methods import (
    MergeRule,
    Method,
    common_entries,
    disjoint_mean,
    drop_entries,
    merge_rows,
    trim,
)
from tests.algebra.adapters import Pair, random_pairs

ROUNDING = 1e-12
"""Relative: float64 sums in another order."""
WEIGHTS = [0.5, -0.25, 1.5]


def tasks(count: int = 3) -> list[Pair]:
    return [
        random_pairs(seed, modules=1, rank=2 + seed, width=24, height=18, scale=0.5 + seed)[0]
        for seed in range(count)
    ]


def dense(pair: Pair) -> torch.Tensor:
    return pair.scale * pair.b.mT @ pair.a


def merged(pairs: list[Pair], weights: list[float], method: Method, **rule: float) -> torch.Tensor:
    a, b = merge_rows(
        pairs,
        weights,
        module="m",
        rule=MergeRule(
            method=method, density=rule.get("density", 1.0), seed=int(rule.get("seed", 0))
        ),
    )
    return b.mT @ a


def close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((actual - expected).norm() <= ROUNDING * expected.norm())


def reference_entries(pairs: list[Pair]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Dense KnOTS: the SVD of the updates side by side."""
    U, sigma, Vt = torch.linalg.svd(
        torch.cat([dense(pair) for pair in pairs], dim=1), full_matrices=False
    )
    k = int((sigma > 1e-9 * sigma[0]).sum())
    return U[:, :k], list((sigma[:k, None] * Vt[:k]).split(pairs[0].a.shape[1], dim=1))


def test_linear_is_the_weighted_sum_of_dw() -> None:
    pairs = tasks()
    expected = torch.stack(
        [weight * dense(pair) for weight, pair in zip(WEIGHTS, pairs, strict=True)]
    ).sum(0)
    a, b = merge_rows(pairs, WEIGHTS, module="m", rule=MergeRule(method="linear"))
    assert close(b.mT @ a, expected)
    assert a.shape[0] == sum(pair.a.shape[0] for pair in pairs)
    assert close(a @ a.mT, b @ b.mT)


def test_the_rank_is_no_more_than_the_shape_allows() -> None:
    pairs = [random_pairs(seed, modules=1, rank=8, width=12, height=20)[0] for seed in range(3)]
    assert merge_rows(pairs, [1.0] * 3, module="m", rule=MergeRule(method="linear"))[0].shape == (
        12,
        12,
    )


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_equal_tasks_merge_to_themselves(method: Method) -> None:
    pair = tasks()[2]
    assert close(merged([pair] * 4, [0.25] * 4, method, density=0.2), dense(pair))


def test_common_entries_give_every_task_back() -> None:
    pairs = tasks()
    U, entries = common_entries(pairs)
    assert close(U.mT @ U, torch.eye(U.shape[1], dtype=torch.float64))
    assert all(close(U @ t, dense(pair)) for t, pair in zip(entries, pairs, strict=True))


@pytest.mark.parametrize("density", [0.2, 0.7, 1.0])
def test_ties_is_that_of_a_dense_reference(density: float) -> None:
    pairs = tasks()
    U, entries = reference_entries(pairs)
    kept = []
    for t in entries:
        threshold = t.abs().flatten().sort(descending=True).values[int(density * t.numel()) - 1]
        kept.append(torch.where(t.abs() >= threshold, t, 0.0))
    weighted = torch.stack([weight * t for weight, t in zip(WEIGHTS, kept, strict=True)])
    sign = weighted.sum(0).sign()
    expected = torch.zeros_like(sign)
    for row in range(sign.shape[0]):
        for column in range(sign.shape[1]):
            agree = [
                i for i in range(3) if weighted[i, row, column].sign() == sign[row, column] != 0
            ]
            if agree:
                expected[row, column] = sum(weighted[i, row, column] for i in agree) / sum(
                    abs(WEIGHTS[i]) for i in agree
                )
    assert close(merged(pairs, WEIGHTS, "ties", density=density), U @ expected)


def test_dare_keeps_a_share_and_rescales_it() -> None:
    t = torch.ones(400, 500, dtype=torch.float64)
    mask = drop_entries(t, MergeRule(method="dare", density=0.3, seed=7), "m/0")
    assert torch.unique(mask).tolist() == [0.0, pytest.approx(1 / 0.3)]
    assert float((mask != 0).double().mean()) == pytest.approx(
        0.3, abs=0.005
    )  # five standard deviations


def test_dare_is_linear_on_what_it_keeps_and_reproducible() -> None:
    pairs, rule = tasks(), MergeRule(method="dare", density=0.4, seed=3)
    U, entries = common_entries(pairs)
    expected = U @ torch.stack(
        [
            weight * drop_entries(t, rule, f"m/{i}")
            for i, (t, weight) in enumerate(zip(entries, WEIGHTS, strict=True))
        ]
    ).sum(0)
    first = merged(pairs, WEIGHTS, "dare", density=0.4, seed=3)
    assert close(first, expected)
    assert torch.equal(first, merged(pairs, WEIGHTS, "dare", density=0.4, seed=3))
    assert not close(merged(pairs, WEIGHTS, "dare", density=0.4, seed=4), first)


def test_what_is_chosen_at_random_is_the_same_on_every_machine() -> None:
    mask = drop_entries(
        torch.ones(1, 16, dtype=torch.float64), MergeRule(method="dare", density=0.5, seed=1), "m/0"
    )
    assert [int(value > 0) for value in mask[0]] == KNOWN


def test_trimming_keeps_the_largest() -> None:
    assert trim(torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.5]]), 0.4).tolist() == [
        [0.0, -4.0, 3.0, 0.0, 0.0]
    ]


def test_the_mean_is_over_those_that_agree() -> None:
    entries = [torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, 5.0]]), torch.tensor([[0.0, -2.0]])]
    assert disjoint_mean(entries, [1.0, 1.0, 1.0]).tolist() == [[2.0, 5.0]]


def test_a_missing_module_counts_as_zero() -> None:
    pair = tasks()[1]
    assert close(merged_dense([pair, None], [0.5, 0.5]), 0.5 * dense(pair))


def merged_dense(pairs: list[Pair | None], weights: list[float]) -> torch.Tensor:
    a, b = merge_rows(pairs, weights, module="m", rule=MergeRule(method="linear"))
    return b.mT @ a


KNOWN = [1, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0]
"""Philox4x64 under the sha256 of the seed and the name."""
