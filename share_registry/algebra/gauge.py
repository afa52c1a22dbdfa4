"""Gauges: which of the factors that have one product dW = b^T a are looked at.

(B G, G^-1 A) is the same adapter for every invertible G. `balance` finds the one whose energy is
split evenly between the sides, `align` the one that differs least from an earlier adapter.

Factors are rows throughout: `a (n, r, in)`, `b (n, r, out)`, n modules at once.
"""

from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.solve import eigh, inverse, solve_right, svd

_STEPS: Final = 5
_HUGE: Final = 1e100
_OPEN: Final = 0.01
# weights and Grams are kept above this share of their largest value. Rows that carry nothing must
# not make the equation singular.
_FLOOR: Final = 1e-6
# Largest relative change of the product: far above what rounding does to it, far below any budget
_DRIFT: Final = 1e-8


def balance(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors in the balanced gauge and the singular values of dW.

    Its rows are orthogonal and of falling size on both sides. QR of both factors, then the SVD of
    the r x r core: dW = sum_i sigma_i u_i v_i^T, rows sqrt(sigma_i) v_i and sqrt(sigma_i) u_i.

    Args:
        a: (n, r, in) float64.
        b: (n, r, out) float64.

    Returns:
        X_a (n, r, in), X_b (n, r, out) and sigma (n, r), descending; rows past the rank that dW can
        have are zero.
    """
    rank = a.shape[1]
    Q_a, R_a = torch.linalg.qr(a.mT)
    Q_b, R_b = torch.linalg.qr(b.mT)
    U, sigma, Vt = svd(R_b @ R_a.mT)
    root = sigma.sqrt()[..., None]
    return (
        _pad(root * (Vt @ Q_a.mT), rank),
        _pad(root * (Q_b @ U).mT, rank),
        _pad(sigma[..., None], rank)[..., 0],
    )


def align(a: Tensor, b: Tensor, p_a: Tensor, p_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return a (n, r, in) and b (n, r, out) in the gauge closest to p_a, p_b of the same shapes.

    a = M^-1 a', b = M^T b' for any invertible M. Coded is the difference to the earlier factors
    p_a, p_b, an error in row i of one side weighs as much as row i of the other side is long, so M
    minimises

        |W_a (M a - p_a)|^2 + |W_b (M^-T b - p_b)|^2,  W_a = diag |p_b rows|,  W_b = diag |p_a rows|

    by Gauss-Newton, M <- (I + E) M. Each step is the generalised Sylvester equation
    W_a^2 E S_a + S_b E W_b^2 = R, solved by two symmetric eigenproblems.

    Two starts, the least-squares gauge of either side; the better end is taken module by module. A
    module for which neither is finite and keeps the product comes back unchanged: factors of very
    uneven rows leave no gauge near another's that float64 can hold.
    """
    weights = _row_weights(p_b), _row_weights(p_a)
    best_a, best_b, best = a, b, a.new_full((a.shape[0],), torch.inf)
    for M in (
        _open(_least_squares(p_a, a)),
        inverse(_open(_least_squares(p_b, b))).mT,
    ):
        new_a, new_b, value = _descend(M @ a, inverse(M).mT @ b, p_a, p_b, weights)
        better = (value < best)[:, None, None]
        best_a, best_b = torch.where(better, new_a, best_a), torch.where(better, new_b, best_b)
        best = torch.minimum(best, value.nan_to_num(nan=torch.inf))
    kept = (_change(a, b, best_a, best_b) <= _DRIFT)[:, None, None]
    return torch.where(kept, best_a, a), torch.where(kept, best_b, b)


def _change(a: Tensor, b: Tensor, new_a: Tensor, new_b: Tensor) -> Tensor:
    """Return |new_b^T new_a - b^T a| / |b^T a| (n,); Grams would lose half of the digits."""
    rank = a.shape[1]
    R_a = torch.linalg.qr(torch.cat([a, new_a], 1).mT, mode="r").R
    R_b = torch.linalg.qr(torch.cat([b, new_b], 1).mT, mode="r").R
    before = R_b[..., :rank] @ R_a[..., :rank].mT
    after = R_b[..., rank:] @ R_a[..., rank:].mT
    norms = torch.linalg.matrix_norm(torch.stack([after - before, before]))
    change: Tensor = norms[0] / norms[1].clamp_min(1e-300)
    return change


def _pad(rows: Tensor, rank: int) -> Tensor:
    missing = rank - rows.shape[1]
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows


def _descend(
    a: Tensor, b: Tensor, p_a: Tensor, p_b: Tensor, weights: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors after some Gauss-Newton steps, and their distances (n,)."""
    unit = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    value = _distance(a, b, p_a, p_b, weights)
    for _ in range(_STEPS):
        step = unit + _step(a, b, p_a, p_b, weights)
        new_a, new_b = step @ a, inverse(step).mT @ b
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
    values, Y = eigh(_tame(root[:, :, None] * S * root[:, None, :]))
    return (
        root[:, :, None] * Y,
        values.clamp_min(_FLOOR * values.amax(-1, keepdim=True).clamp_min(1e-300)),
    )


def _least_squares(p: Tensor, x: Tensor) -> Tensor:
    """Return the M (n, r, r) that minimises |M x - p|, regularised."""
    S = x @ x.mT
    floor = _FLOOR * S.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(1e-300)
    unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return solve_right(S + floor[:, None, None] * unit, p @ x.mT)


def _open(M: Tensor) -> Tensor:
    """Raise the small singular values.

    Rows that the earlier version dropped leave their direction open.
    """
    U, values, Vt = svd(_tame(M))
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
