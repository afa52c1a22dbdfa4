"""Spectra: directions, energies and what is left out are those of a dense decomposition.

A joint basis pays where rows are shared.
"""

import pytest
import torch
from torch import Tensor

from share_registry.algebra.comparison import directions, joint_saving, left_out, stack, weighted
from share_registry.names import Side
from tests.algebra.adapters import Pair, planted, random_pairs

CLOSE = 1e-10
"""Squares of singular values through a Gram, relative to the largest."""
STEP = 1e-3
"""A fine quantiser relative to a norm of 1: about nine bits for a strong row."""


def rows(count: int, *, width: int = 32, rank: int = 4) -> list[Tensor]:
    return [
        torch.randn(rank, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed in range(count)
    ]


@pytest.mark.parametrize("count", [1, 3, 12])
def test_energies_are_squared_singular_values(count: int) -> None:
    spectrum, sigma = stack(rows(count)), torch.linalg.svdvals(torch.cat(rows(count)))
    assert torch.allclose(spectrum.energies, sigma.square(), rtol=CLOSE)
    assert torch.allclose(spectrum.coefficients.square().sum(0), sigma.square(), rtol=CLOSE)
    assert torch.allclose(
        spectrum.coefficients.square().sum(1), torch.cat(rows(count)).square().sum(1), rtol=CLOSE
    )


@pytest.mark.parametrize("count", [1, 3, 12])
def test_directions_are_the_leading_right_singular_vectors(count: int) -> None:
    Q, Vt = (
        directions(rows(count), 4),
        torch.linalg.svd(torch.cat(rows(count)), full_matrices=False).Vh[:4],
    )
    assert torch.allclose(Q @ Q.T, torch.eye(4).double(), atol=CLOSE)
    assert torch.allclose((Q @ Vt.T).square().sum(), torch.tensor(4.0).double(), atol=1e-6)


def test_there_are_no_more_directions_than_rows_span() -> None:
    assert directions([torch.ones(3, 8).double()], 2).shape == (1, 8)
    assert directions(rows(1), 0).shape == (0, 32)


def test_the_weight_of_a_side_is_the_energy_of_the_product() -> None:
    pairs = random_pairs(0, modules=2, rank=3, width=20, height=12, scale=2.0)
    total = sum(float((2.0 * pair.b.T @ pair.a).square().sum()) for pair in pairs)
    by_module = weighted(pairs)
    for pair in pairs:
        part = by_module[pair.module]
        energy = float((2.0 * pair.b.T @ pair.a).square().sum()) / total
        assert float(part.a.square().sum()) == pytest.approx(energy)
        assert float(part.b.square().sum()) == pytest.approx(energy)
        assert torch.allclose(part.core_b.T @ part.core_a, 2.0 * pair.b.T @ pair.a / total**0.5)


def test_an_adapter_among_copies_of_itself_loses_nothing() -> None:
    adapter = weighted(random_pairs(0, modules=2, rank=3, width=20, height=12))
    errors, chance = left_out(adapter, [adapter, adapter])
    assert max(errors) < 1e-6
    assert chance[0] == pytest.approx((1 - (3 / 20) * (3 / 12)) ** 0.5)


def test_what_no_other_adapter_has_is_lost() -> None:
    pairs = random_pairs(0, modules=2, rank=3, width=20, height=12)
    adapter, reduced = weighted(pairs), weighted(pairs[:1])
    share = float(adapter[pairs[1].module].a.square().sum())
    assert left_out(adapter, [reduced])[0][0] == pytest.approx(share**0.5)


def test_no_more_than_a_quarter_of_the_width_is_taken_from_the_others() -> None:
    adapters = [
        weighted(random_pairs(seed, modules=1, rank=4, width=32, height=32)) for seed in range(20)
    ]
    _, (_, chance_a, _) = left_out(adapters[0], adapters[1:])
    assert chance_a == pytest.approx(0.75**0.5)


@pytest.mark.parametrize(("shared", "least", "most"), [(4, 0.5, 1.0), (400, 0.0, 0.02)])
def test_a_joint_basis_pays_where_rows_are_shared(shared: int, least: float, most: float) -> None:
    adapters = [
        weighted(pairs)
        for pairs in planted(16, modules=1, rank=4, width=128, shared=shared, noise=0.001)
    ]
    bits, saved, k = joint_saving(stack([part["m0000"].side(Side.A) for part in adapters]), STEP)
    assert least <= saved / bits <= most
    assert (k > 0) == (saved > 0)


def test_one_adapter_needs_no_joint_basis() -> None:
    pairs: list[Pair] = random_pairs(0, modules=1, rank=4, width=64, height=64)
    bits, saved, _ = joint_saving(stack([weighted(pairs)["m0000"].a]), STEP)
    assert saved <= 0.02 * bits
