"""The balanced gauge keeps dW, and errors from Grams are the errors of the dense matrices."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from share_registry.algebra.error import (
    module_errors,
    pooled_error,
    relative_change,
    relative_changes,
)
from share_registry.algebra.gauge import Overlap, align, balance
from tests.algebra.adapters import Pair, random_pairs

ROUNDING = 1e-12
"""Relative rounding of float64 over the few hundred terms of these sums."""


def dense(pair: Pair) -> torch.Tensor:
    return pair.scale * pair.b.T @ pair.a


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    rank=st.integers(1, 6),
    width=st.integers(1, 9),
    height=st.integers(1, 9),
)
def test_the_balanced_gauge_keeps_the_product_and_splits_its_energy_evenly(
    seed: int, rank: int, width: int, height: int
) -> None:
    (pair,) = random_pairs(seed, modules=1, rank=rank, width=width, height=height)
    x_a, x_b, sigma = balance(pair.a[None], pair.b[None])
    assert x_a.shape == (1, rank, width)
    assert x_b.shape == (1, rank, height)
    assert torch.allclose(x_b[0].T @ x_a[0], dense(pair), atol=ROUNDING * float(dense(pair).norm()))
    for rows in (x_a, x_b):
        assert torch.allclose(
            rows[0] @ rows[0].T, torch.diag(sigma[0]), atol=ROUNDING * float(sigma[0, 0])
        )


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6), noise=st.sampled_from([1e-7, 1e-3, 0.3]), extra=st.integers(0, 2)
)
def test_pooled_error_is_that_of_the_dense_matrices(seed: int, noise: float, extra: int) -> None:
    original = random_pairs(seed, modules=3, rank=3, width=7, height=5, scale=2.0)
    noise_pairs = random_pairs(seed + 1, modules=3, rank=3 + extra, width=7, height=5)
    changed = [
        Pair(
            module=w.module, a=torch.cat([w.a, noise * o.a]), b=torch.cat([w.b, o.b]), scale=w.scale
        )
        for w, o in zip(original, noise_pairs, strict=True)
    ]
    wrong = [float((dense(f) - dense(w)).norm()) for f, w in zip(changed, original, strict=True)]
    total = [float(dense(w).norm()) for w in original]
    expected = torch.tensor(wrong).norm() / torch.tensor(total).norm()
    assert pooled_error(changed, original) == pytest.approx(float(expected), rel=1e-6)
    assert module_errors(changed, original) == pytest.approx(
        [w / t for w, t in zip(wrong, total, strict=True)], rel=1e-6
    )


def test_an_error_of_one_part_in_ten_million_is_seen() -> None:
    original = random_pairs(3, modules=1, rank=4, width=50, height=40)
    changed = [Pair(module=original[0].module, a=original[0].a * (1 + 1e-7), b=original[0].b)]
    assert pooled_error(changed, original) == pytest.approx(1e-7, rel=1e-6)


def test_change_counts_modules_that_only_one_side_has() -> None:
    before = random_pairs(1, modules=2, rank=2, width=6, height=5)
    assert relative_change(before, before) == pytest.approx(0.0, abs=1e-14)
    gone = float(
        (
            dense(before[1]).square().sum() / sum(dense(pair).square().sum() for pair in before)
        ).sqrt()
    )
    assert relative_change(before, before[:1]) == pytest.approx(gone)
    assert relative_change([], before) == float("inf")
    assert relative_change([], []) == 0.0


def test_the_change_of_each_module_is_that_of_an_adapter_of_it_alone() -> None:
    before = random_pairs(1, modules=3, rank=2, width=6, height=5)
    changed = [*before[:-1], replace(before[-1], scale=3.0 * before[-1].scale)]
    pooled, modules = relative_changes(before, changed)
    assert pooled == relative_change(before, changed)
    assert modules == {
        pair.module: pytest.approx(relative_change([pair], [now]), abs=1e-14)
        for pair, now in zip(before, changed, strict=True)
    }
    assert modules[before[-1].module] == pytest.approx(2.0)
    assert relative_changes(before, before[1:])[1][before[0].module] == 1.0
    assert relative_changes(before[1:], before)[1][before[0].module] == float("inf")


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), dropped=st.booleans())
def test_alignment_keeps_the_product_and_finds_the_gauge_of_an_equal_adapter(
    seed: int, dropped: bool
) -> None:
    (pair,) = random_pairs(seed, modules=1, rank=4, width=30, height=20)
    generator = torch.Generator().manual_seed(seed)
    G = torch.linalg.qr(
        torch.randn(4, 4, generator=generator, dtype=torch.float64)
    ).Q * torch.linspace(0.5, 2.0, 4, dtype=torch.float64)
    p_a, p_b = (torch.linalg.inv(G) @ pair.a)[None], (G.T @ pair.b)[None]
    if dropped:
        p_a[:, 3], p_b[:, 3] = 0.0, 0.0
    x_a, x_b, _ = balance(pair.a[None], pair.b[None])
    M_a, M_b = align(Overlap.of(x_a, p_a), Overlap.of(x_b, p_b))
    new_a, new_b = M_a @ x_a, M_b @ x_b
    assert torch.allclose(new_b[0].T @ new_a[0], dense(pair), atol=1e-9 * float(dense(pair).norm()))
    if not dropped:
        assert torch.allclose(new_a, p_a, atol=1e-6 * float(p_a.norm()))


def test_alignment_survives_a_previous_version_of_zeros() -> None:
    (pair,) = random_pairs(0, modules=1, rank=4, width=30, height=20)
    M_a, M_b = align(
        Overlap.of(pair.a[None], torch.zeros(1, 4, 30, dtype=torch.float64)),
        Overlap.of(pair.b[None], torch.zeros(1, 4, 20, dtype=torch.float64)),
    )
    new_a, new_b = M_a @ pair.a, M_b @ pair.b
    assert torch.allclose(new_b[0].T @ new_a[0], dense(pair), atol=1e-9 * float(dense(pair).norm()))
