"""Factorisations answer for every matrix; for those that LAPACK takes, with LAPACK's own bits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from share_registry.algebra.solve import eigh, inverse, solve_right, square_root, svd

ROUNDING = 1e-10
"""Relative: some thousand float64 operations on matrices of condition 100 at most."""
IRREGULAR = ("singular", "duplicate", "zero", "noisy", "huge", "tiny", "nan", "infinite")


def regular(seed: int, count: int, size: int) -> Tensor:
    """Matrices of condition 100."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, size, size, generator=generator, dtype=torch.float64)
    U, _, Vt = torch.linalg.svd(x)
    matrices: Tensor = U * torch.logspace(0, -2, size, dtype=torch.float64) @ Vt
    return matrices


def irregular(kind: str, M: Tensor) -> Tensor:
    M = M.clone()
    match kind:
        case "singular":
            M[:, -1] = M[:, :-1].sum(1)
        case "duplicate":
            M[:] = M[:, :1]
        case "zero":
            M[:] = 0.0
        case "noisy":
            M = M[:, :1] + 1e-7 * M
        case "huge":
            M *= 1e200
        case "tiny":
            M *= 1e-200
        case "nan":
            M[0, 0, 0] = torch.nan
        case "infinite":
            M[-1] = torch.inf
    return M


def gram(M: Tensor) -> Tensor:
    return M @ M.mT


def is_finite(M: Tensor) -> Tensor:
    return M.isfinite().flatten(1).all(1)


def refuse(message: str, *, when: Callable[[Tensor], bool] = lambda _: True) -> Any:
    """Return LAPACK's refusal in place of one of its functions."""

    def function(M: Tensor, *rest: Any, **options: Any) -> Any:
        if when(M):
            raise error(message)
        return original(M, *rest, **options)

    original = torch.linalg.svd
    error = torch.linalg.LinAlgError if "converge" in message else RuntimeError  # type: ignore[attr-defined]
    return function


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 4), size=st.integers(1, 20))
def test_what_lapack_factorises_comes_back_to_the_bit(seed: int, count: int, size: int) -> None:
    M, B = regular(seed, count, size), regular(seed + 1, count, size)[:, :3]
    H = gram(M)
    assert torch.equal(inverse(M), torch.linalg.inv_ex(M).inverse)
    assert torch.equal(solve_right(H, B), torch.linalg.solve(H, B, left=False))
    for actual, expected in (
        *zip(eigh(H), torch.linalg.eigh(H), strict=True),
        *zip(svd(B), torch.linalg.svd(B, full_matrices=False), strict=True),
    ):
        assert torch.equal(actual, expected)
    L, whitened = square_root(H[0], M[0])
    assert torch.equal(L, torch.linalg.cholesky(H[0]))
    assert torch.equal(whitened, torch.linalg.solve_triangular(L, M[0], upper=False))


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(IRREGULAR),
    seed=st.integers(0, 10**6),
    count=st.integers(1, 3),
    size=st.integers(1, 12),
)
def test_every_matrix_has_an_answer_and_takes_none_beside_it_along(
    kind: str, seed: int, count: int, size: int
) -> None:
    M = torch.cat([irregular(kind, regular(seed, count, size)), regular(seed + 1, 1, size)])
    unit = torch.eye(size, dtype=torch.float64)
    U, sigma, Vt = svd(M)
    for matrix, product, norm in zip(M, U * sigma[:, None, :] @ Vt, sigma[:, 0], strict=True):
        if bool(matrix.isfinite().all()):
            assert bool(((product - matrix).abs() <= ROUNDING * norm).all())
    values, V = eigh(gram(M))
    assert bool(values.isfinite().all())
    assert torch.allclose(V.mT @ V, unit.expand_as(V), atol=ROUNDING)
    for M_inverse in (inverse(M), solve_right(M, unit.expand_as(M))):
        assert torch.allclose(M_inverse[-1] @ M[-1], unit, atol=ROUNDING)
    assert not bool(inverse(M)[~is_finite(M)].isfinite().any())
    for S in gram(M):
        L, whitened = square_root(S, unit)
        assert bool(whitened.isfinite().all())
        if bool(S.isfinite().all()):
            assert bool(((L @ L.mT - S).abs() <= 1e-7 * S.diagonal().amax()).all())


def test_a_matrix_without_an_inverse_has_none() -> None:
    M = irregular("duplicate", regular(0, 1, 5))
    assert bool(inverse(M).isnan().all())
    assert bool(inverse(torch.zeros_like(M)).isnan().all())


def test_an_inverse_refused_for_its_pivots_comes_from_the_singular_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    M = regular(0, 3, 9)
    refused = refuse("Pivots given to lu_solve must all be greater or equal to 1")
    monkeypatch.setattr(torch.linalg, "inv_ex", refused)
    monkeypatch.setattr(torch.linalg, "solve_ex", refused)
    unit = torch.eye(9, dtype=torch.float64).expand_as(M)
    assert torch.allclose(inverse(M) @ M, unit, atol=ROUNDING)
    assert torch.allclose(solve_right(M, unit) @ M, unit, atol=ROUNDING)


@pytest.mark.parametrize("always", [False, True])
def test_a_factorisation_that_does_not_converge_is_made_in_another_way(
    monkeypatch: pytest.MonkeyPatch, always: bool
) -> None:
    """Or, where none converges, is that of zero."""
    M = regular(0, 2, 7)[:, :4]
    unconverged = refuse(
        "failed to converge", when=lambda x: bool(x.any()) and (always or x.dim() > 2 or len(x) < 7)
    )
    monkeypatch.setattr(torch.linalg, "eigh", refuse("failed to converge"))
    monkeypatch.setattr(torch.linalg, "svd", unconverged)
    U, sigma, Vt = svd(M)
    expected = torch.zeros_like(M) if always else M
    assert torch.allclose(U * sigma[:, None, :] @ Vt, expected, atol=ROUNDING)
    if not always:
        values, V = eigh(gram(M.mT))
        assert torch.allclose(V * values[:, None, :] @ V.mT, gram(M.mT), atol=ROUNDING)
