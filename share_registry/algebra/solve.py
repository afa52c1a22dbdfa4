"""Factorisations that answer for every matrix: no error of the library below gets out.

What it can factorise comes back untouched, to the bit. The rest it refuses, each routine in its own
way: a status, an error about pivots, no convergence; and with a number that is not finite, several
threads may never end. So a matrix that is not finite counts as zero here, or has no inverse, and
what is refused all the same is tried alone and in another way.

Matrices are float64, of any leading dimensions.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

_EPSILON: Final = torch.finfo(torch.float64).eps
# its module does not export it by name, though its documentation has it
_NotConverged: Final[type[RuntimeError]] = torch.linalg.LinAlgError  # type: ignore[attr-defined]


def inverse(M: Tensor) -> Tensor:
    """Return inverses (..., k, k); NaN for a matrix that has none to working precision."""
    tame = _tame(M)
    try:
        by_elimination: Tensor
        by_elimination, status = torch.linalg.inv_ex(tame)
    # Pivots given to lu_solve must all be greater or equal to 1
    except RuntimeError:
        return _spectral_inverse(M)
    sound = (status == 0)[..., None, None] & _is_finite(by_elimination) & _is_finite(M)
    if bool(sound.all()):
        return by_elimination
    return torch.where(sound, by_elimination, _spectral_inverse(M))


def solve_right(S: Tensor, B: Tensor) -> Tensor:
    """Return B S^-1 (..., r, k); NaN where S (..., k, k) has no inverse."""
    try:
        by_elimination: Tensor
        by_elimination, status = torch.linalg.solve_ex(_tame(S), B, left=False)
    except RuntimeError:
        return B @ inverse(S)
    sound = (status == 0)[..., None, None] & _is_finite(by_elimination) & _is_finite(S)
    if bool(sound.all()):
        return by_elimination
    return torch.where(sound, by_elimination, B @ inverse(S))


def square_root(S: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    """Return L (k, q) with L L^T = S and L^+ X (q, m), for S (k, k) at least 0 and X (k, m).

    q is k, or the rank of S where it is less than positive.
    """
    lower, status = torch.linalg.cholesky_ex(_tame(S))
    if not int(status) and bool(_is_finite(S)):
        return lower, torch.linalg.solve_triangular(lower, X, upper=False)
    values, V = eigh(S)
    keep = values > len(S) * _EPSILON * values.abs().amax()
    root = values[keep].sqrt()
    return V[:, keep] * root, (V[:, keep] / root).mT @ X


def eigh(S: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (..., k), ascending, and eigenvectors (..., k, k), of S at least 0."""
    S = _tame(S)
    try:
        values, V = torch.linalg.eigh(S)
    except _NotConverged:
        if S.dim() > 2:
            values, V = _one_by_one(eigh, S)
        else:
            V, values, _ = (x.flip(-1) for x in svd(S))
    return values, V


def svd(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (..., m, k), singular values (..., k), descending, and V^T (..., k, n)."""
    M = _tame(M)
    try:
        U, sigma, Vt = torch.linalg.svd(M, full_matrices=False)
    except _NotConverged:
        if M.dim() > 2:
            U, sigma, Vt = _one_by_one(svd, M)
        else:
            U, sigma, Vt = _transposed_svd(M)
    return U, sigma, Vt


def _one_by_one(factorise: Callable[[Tensor], tuple[Tensor, ...]], M: Tensor) -> tuple[Tensor, ...]:
    parts = zip(*(factorise(matrix) for matrix in M), strict=True)
    return tuple(torch.stack(part) for part in parts)


def _transposed_svd(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the SVD by way of the transpose, which takes other steps; else that of zero."""
    try:
        V, sigma, Ut = torch.linalg.svd(M.mT, full_matrices=False)
    except _NotConverged:
        return svd(torch.zeros_like(M))
    return Ut.mT, sigma, V.mT


def _spectral_inverse(M: Tensor) -> Tensor:
    U, sigma, Vt = svd(M)
    least = M.shape[-1] * _EPSILON * sigma[..., :1]
    inverted = torch.where((sigma > least) & (sigma > 0), 1.0 / sigma, torch.nan)
    return Vt.mT @ (inverted[..., None] * U.mT)


def _is_finite(M: Tensor) -> Tensor:
    """Tell which matrices are finite (..., 1, 1)."""
    return M.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)


def _tame(M: Tensor) -> Tensor:
    finite = _is_finite(M)
    return M if bool(finite.all()) else torch.where(finite, M, 0.0)
