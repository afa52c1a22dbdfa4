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
# weights and Grams are kept above this share of their largest value. Rows that carry nothing must
# not make the equation singular.
_FLOOR: Final = 1e-6


def align(a: Tensor, b: Tensor, p_a: Tensor, p_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return a (n, r, in) and b (n, r, out) in the gauge closest to p_a, p_b of the same shapes.

    Two starts, the least-squares gauge of either side; the better end is taken module by module. A
    module for which neither is finite comes back unchanged.
    """
    weights = _row_weights(p_b), _row_weights(p_a)
    best_a, best_b, best = a, b, a.new_full((a.shape[0],), torch.inf)
    for M in (
        _open(_least_squares(p_a, a)),
        torch.linalg.inv_ex(_open(_least_squares(p_b, b))).inverse.mT,
    ):
        new_a, new_b, value = _descend(
            M @ a, torch.linalg.inv_ex(M).inverse.mT @ b, p_a, p_b, weights
        )
        better = (value < best)[:, None, None]
        best_a, best_b = torch.where(better, new_a, best_a), torch.where(better, new_b, best_b)
        best = torch.minimum(best, value.nan_to_num(nan=torch.inf))
    return best_a, best_b


def _descend(
    a: Tensor, b: Tensor, p_a: Tensor, p_b: Tensor, weights: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors after some Gauss-Newton steps, and their distances (n,)."""
    unit = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    value = _distance(a, b, p_a, p_b, weights)
    for _ in range(_STEPS):
        step = unit + _step(a, b, p_a, p_b, weights)
        new_a, new_b = step @ a, torch.linalg.inv_ex(step).inverse.mT @ b
        new_value = _distance(new_a, new_b, p_a, p_b, weights)
        is_better = new_value < value
        better = is_better[:, None, None]
        a, b = torch.where(better, new_a, a), torch.where(better, new_b, b)
        value = torch.where(is_better, new_value, value)
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
    values, Y = torch.linalg.eigh(_tame(root[:, :, None] * S * root[:, None, :]))
    least = _FLOOR * values.amax(-1, keepdim=True).clamp_min(1e-300)
    return root[:, :, None] * Y, values.clamp_min(least)


def _least_squares(p: Tensor, x: Tensor) -> Tensor:
    """Return the M (n, r, r) that minimises |M x - p|, regularised."""
    S = x @ x.mT
    floor = _FLOOR * S.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(1e-300)
    unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    M: Tensor = torch.linalg.solve(S + floor[:, None, None] * unit, p @ x.mT, left=False)
    return M


def _open(M: Tensor) -> Tensor:
    """Raise the small singular values.

    Rows that the earlier version dropped leave their direction open.
    """
    U, values, Vt = torch.linalg.svd(_tame(M))
    raised = values.maximum(_OPEN * values.amax(-1, keepdim=True)).clamp_min(1e-150)
    opened: Tensor = U * raised[:, None, :] @ Vt
    return opened


# keeps LAPACK from failing on a module that has gone astray, whose distance will rule it out
def _tame(M: Tensor) -> Tensor:
    return M.nan_to_num(nan=0.0).clamp(-_HUGE, _HUGE)


def _row_weights(partner: Tensor) -> Tensor:
    """Return what an error in each row of one side weighs: the length of the row beside it."""
    norms: Tensor = torch.linalg.vector_norm(partner, dim=-1)
    return norms.clamp_min(1e-150).maximum(_FLOOR * norms.amax(-1, keepdim=True))


def _distance(
    a: Tensor, b: Tensor, p_a: Tensor, p_b: Tensor, weights: tuple[Tensor, Tensor]
) -> Tensor:
    square_a = (weights[0][..., None] * (a - p_a)).square().sum((-2, -1))
    square_b = (weights[1][..., None] * (b - p_b)).square().sum((-2, -1))
    return (square_a + square_b).nan_to_num(nan=torch.inf)
