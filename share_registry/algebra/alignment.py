"""The gauge in which an adapter differs least from an earlier one.

dW = b^T a has a = M^-1 a', b = M^T b' for any invertible M. Coded is the difference to the earlier
factors p_a, p_b, an error in row i of one side weighs as much as row i of the other side is long,
so M minimises

    |W_a (M a - p_a)|^2 + |W_b (M^-T b - p_b)|^2,     W_a = diag |p_b rows|,  W_b = diag |p_a rows|

by Gauss-Newton, M <- (I + E) M. Each step is the generalised Sylvester equation W_a^2 E S_a + S_b E
W_b^2 = R, solved by two symmetric eigenproblems.
"""

from typing import Final

import torch
from torch import Tensor

_STEPS: Final = 5
_HUGE: Final = 1e100
_OPEN: Final = 0.01
_FLOOR: Final = 1e-6
"""Weights and Grams are kept above this share of their largest value.

Rows that carry nothing must not make the equation singular.
"""


def aligned(a: Tensor, b: Tensor, p_a: Tensor, p_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return a (n, r, in) and b (n, r, out) in the gauge closest to p_a, p_b of the same shapes.

    Two starts, the least-squares gauge of either side; the better end is taken module by module. A
    module for which neither is finite comes back unchanged.
    """
    weights = _weights(p_b), _weights(p_a)
    best_a, best_b, best = a, b, a.new_full((a.shape[0],), torch.inf)
    for M in (_invertible(_fit(p_a, a)), _inverse(_invertible(_fit(p_b, b))).mT):
        new_a, new_b, value = _descend(M @ a, _inverse(M).mT @ b, p_a, p_b, weights)
        better = (value < best)[:, None, None]
        best_a, best_b = torch.where(better, new_a, best_a), torch.where(better, new_b, best_b)
        best = torch.minimum(best, value.nan_to_num(nan=torch.inf))
    return best_a, best_b


def _descend(
    a: Tensor, b: Tensor, p_a: Tensor, p_b: Tensor, weights: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    value = _distance(a, b, p_a, p_b, weights)
    for _ in range(_STEPS):
        step = torch.eye(a.shape[1], dtype=a.dtype, device=a.device) + _step(
            a, b, p_a, p_b, weights
        )
        new_a, new_b = step @ a, _inverse(step).mT @ b
        new_value = _distance(new_a, new_b, p_a, p_b, weights)
        better = new_value < value
        a, b = (
            torch.where(better[:, None, None], new_a, a),
            torch.where(better[:, None, None], new_b, b),
        )
        value = torch.where(better, new_value, value)
    return a, b, value


def _step(a: Tensor, b: Tensor, p_a: Tensor, p_b: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Solve W_a^2 E S_a + S_b E W_b^2 = b d_b^T W_b^2 - W_a^2 d_a a^T for E (n, r, r)."""
    square_a, square_b = weights[0].square(), weights[1].square()
    R = (b @ (b - p_b).mT) * square_b[:, None, :] - square_a[:, :, None] * ((a - p_a) @ a.mT)
    U, left = _eigen(b @ b.mT, square_a)
    V, right = _eigen(a @ a.mT, square_b)
    E: Tensor = U @ ((U.mT @ R @ V) / (left[:, :, None] + right[:, None, :])) @ V.mT
    return E


def _eigen(S: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """Return U and l with S U = D U diag(l), U^T D U = I, for D = diag(square)."""
    root = square.rsqrt()
    values, Y = torch.linalg.eigh(_finite(root[:, :, None] * S * root[:, None, :]))
    return root[:, :, None] * Y, values.clamp_min(
        _FLOOR * values.amax(-1, keepdim=True).clamp_min(1e-300)
    )


def _fit(p: Tensor, x: Tensor) -> Tensor:
    """Return the M (n, r, r) that minimises |M x - p|, regularised."""
    S = x @ x.mT
    floor = _FLOOR * S.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(1e-300)
    M: Tensor = torch.linalg.solve(
        S + floor[:, None, None] * torch.eye(x.shape[1], dtype=x.dtype, device=x.device),
        p @ x.mT,
        left=False,
    )
    return M


def _invertible(M: Tensor) -> Tensor:
    """Raise the small singular values.

    Rows that the earlier version dropped leave their direction open.
    """
    U, values, Vt = torch.linalg.svd(_finite(M))
    opened: Tensor = (
        U * values.maximum(_OPEN * values.amax(-1, keepdim=True)).clamp_min(1e-150)[:, None, :] @ Vt
    )
    return opened


def _inverse(M: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.inv_ex(M).inverse
    return inverse


def _finite(M: Tensor) -> Tensor:
    """Keep LAPACK from failing on a module that has gone astray.

    Its distance decides that it is not used.
    """
    return M.nan_to_num(nan=0.0).clamp(-_HUGE, _HUGE)


def _weights(other: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(other, dim=-1)
    return norms.clamp_min(1e-150).maximum(_FLOOR * norms.amax(-1, keepdim=True))


def _distance(
    a: Tensor, b: Tensor, p_a: Tensor, p_b: Tensor, weights: tuple[Tensor, Tensor]
) -> Tensor:
    return (
        (weights[0][..., None] * (a - p_a)).square().sum((-2, -1))
        + (weights[1][..., None] * (b - p_b)).square().sum((-2, -1))
    ).nan_to_num(nan=torch.inf)
