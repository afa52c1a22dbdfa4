"""Gauges: which of the factors that have one product dW = b^T a are looked at.

(B G, G^-1 A) is the same adapter for every invertible G. `balance` finds the one whose energy is
split evenly between the sides, `align` the one that differs least from an earlier adapter.

Factors are rows throughout: `a (n, r, in)`, `b (n, r, out)`, n modules at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
_EPSILON: Final = 2.0**-52
# Eigenvalues of a Gram, relative to the largest: from where on they are right, and below which they
# are nothing but rounding; and of a squared product, relative to its factors' squared norms
_CLEAR: Final = 1e-9
_ZERO: Final = 1e-15
_PRODUCT: Final = 1e-6
_LOST: Final = 1e-12


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


def balancing(S_a: Tensor, S_b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what brings factors into the balanced gauge, from their Grams alone.

    With S = R R^T from eigenvectors, a = R_a E_a with orthonormal rows E_a, and dW = E_b^T (R_b^T
    R_a) E_a: the singular value decomposition of the r x r core is that of dW. An eigenvalue of a
    Gram has half of the digits of a singular value: factors whose rows nearly depend on one
    another, or whose product is small beside them, need `balance`.

    Args:
        S_a: (n, r, r) a a^T.
        S_b: (n, r, r) b b^T.

    Returns:
        M_a and M_b (n, r, r), with X_a = M_a a and X_b = M_b b; sigma (n, r), descending; and for
        which modules (n,) the Grams tell enough.
    """
    root_a, back_a, clear_a, dropped_a = _roots(S_a)
    root_b, back_b, clear_b, dropped_b = _roots(S_b)
    U, sigma, Vt = svd(root_b.mT @ root_a)
    half = sigma.sqrt()[..., None]
    square = sigma.square().sum(-1)
    whole = _trace(S_a) * _trace(S_b)
    told = clear_a & clear_b & (square > _PRODUCT * whole) & square.isfinite() & whole.isfinite()
    # what is dropped may stand beside rows that are large
    told &= dropped_a * _trace(S_b) + dropped_b * _trace(S_a) < _LOST * square
    return half * (Vt @ back_a), half * (U.mT @ back_b), sigma, told


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """One side of n modules beside an earlier version p of it, among Grams.

    Attributes:
        S: (n, r, r) x x^T.
        P: (n, r, r) p x^T.
        p: (n, r) |p|^2 of every row.
    """

    S: Tensor
    P: Tensor
    p: Tensor

    @classmethod
    def of(cls, x: Tensor, p: Tensor) -> "Overlap":
        """Return the Grams of x and p (n, r, m)."""
        return cls(S=x @ x.mT, P=p @ x.mT, p=p.square().sum(-1))

    @classmethod
    def join(cls, parts: Sequence["Overlap"]) -> "Overlap":
        """Return parts as one."""
        return cls(
            S=torch.cat([part.S for part in parts]),
            P=torch.cat([part.P for part in parts]),
            p=torch.cat([part.p for part in parts]),
        )

    def turned(self, M: Tensor) -> "Overlap":
        """Return the same for M x."""
        return Overlap(S=M @ self.S @ M.mT, P=self.P @ M.mT, p=self.p)

    def distance(self, weights: Tensor) -> Tensor:
        """Return |W (x - p)|^2 (n,)."""
        diagonal = (self.S - 2.0 * self.P).diagonal(dim1=-2, dim2=-1)
        return (weights.square() * (diagonal + self.p).clamp_min(0.0)).sum(-1)


def align(a: Overlap, b: Overlap) -> tuple[Tensor, Tensor]:
    """Return M_a and M_b (n, r, r): the gauge that is closest to that of an earlier version p.

    Rows are M_a a and M_b b. M_b is the inverse transpose
    of M_a, which may be any invertible M. Coded is the difference to the earlier factors, an error
    in row i of one side weighs as much as row i of the other side is long, so M minimises

        |W_a (M a - p_a)|^2 + |W_b (M^-T b - p_b)|^2,  W_a = diag |p_b rows|,  W_b = diag |p_a rows|

    by Gauss-Newton, M <- (I + E) M. Each step is the generalised Sylvester equation
    W_a^2 E S_a + S_b E W_b^2 = R, solved by two symmetric eigenproblems. All of it happens among
    Grams.

    Two starts, the least-squares gauge of either side; the better end is taken module by module. A
    module for which neither is finite and keeps the product is left as it is: factors of very
    uneven rows leave no gauge near another's that float64 can hold.
    """
    own = _Aligned(a=a, b=b)
    weights = _row_weights(b.p), _row_weights(a.p)
    unit = torch.eye(a.S.shape[1], dtype=a.S.dtype, device=a.S.device).expand_as(a.S)
    best, best_a, best_b = torch.full_like(a.p[:, 0], torch.inf), unit, unit
    for M_a in (
        _open(_least_squares(own.a.P, own.a.S)),
        inverse(_open(_least_squares(own.b.P, own.b.S))).mT,
    ):
        M_a, M_b, value = _descend(own, M_a, inverse(M_a).mT, weights)
        better = (value < best)[:, None, None]
        best_a, best_b = torch.where(better, M_a, best_a), torch.where(better, M_b, best_b)
        best = torch.minimum(best, value)
    kept = (_change(own, best_a, best_b) <= _DRIFT)[:, None, None]
    return torch.where(kept, best_a, unit), torch.where(kept, best_b, unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Aligned:
    """Both sides."""

    a: Overlap
    b: Overlap

    def turned(self, M_a: Tensor, M_b: Tensor) -> "_Aligned":
        return _Aligned(a=self.a.turned(M_a), b=self.b.turned(M_b))

    def distance(self, weights: tuple[Tensor, Tensor]) -> Tensor:
        value = self.a.distance(weights[0]) + self.b.distance(weights[1])
        return value.nan_to_num(nan=torch.inf)


def _roots(S: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return R and R^+ (n, r, r) with R R^T = S, whether its rank is clear, and what is dropped.

    Both (n,); the latter is a sum of eigenvalues.
    """
    values, V = eigh(S)
    largest = values[..., -1:]
    keep = values > _ZERO * S.shape[-1] * largest
    root = torch.where(keep, values, 1.0).sqrt()
    clear = (~keep | (values > _CLEAR * largest)).all(-1)
    return (
        V * torch.where(keep, root, 0.0)[..., None, :],
        (V * torch.where(keep, 1.0 / root, 0.0)[..., None, :]).mT,
        clear,
        torch.where(keep, 0.0, values.abs()).sum(-1),
    )


def _trace(S: Tensor) -> Tensor:
    trace: Tensor = S.diagonal(dim1=-2, dim2=-1).sum(-1)
    return trace


def _change(own: _Aligned, M_a: Tensor, M_b: Tensor) -> Tensor:
    """Return how far the product may change (n,), relative to it: what rounding the gauges does."""
    rank = M_a.shape[-1]
    D = M_b.mT @ M_a - torch.eye(rank, dtype=M_a.dtype, device=M_a.device)
    drift = ((D @ own.a.S @ D.mT) * own.b.S).sum((-2, -1)).clamp_min(0.0).sqrt()
    sizes = [
        torch.linalg.matrix_norm(M) * _trace(side.S).sqrt()
        for M, side in ((M_a, own.a), (M_b, own.b))
    ]
    rounded = _EPSILON * sizes[0] * sizes[1]
    product = (own.a.S * own.b.S).sum((-2, -1)).clamp_min(0.0).sqrt()
    change: Tensor = ((drift + rounded) / product.clamp_min(1e-300)).nan_to_num(nan=torch.inf)
    return change


def _pad(rows: Tensor, rank: int) -> Tensor:
    missing = rank - rows.shape[1]
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows


def _descend(
    own: _Aligned, M_a: Tensor, M_b: Tensor, weights: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gauges after some Gauss-Newton steps, and the distances there (n,)."""
    unit = torch.eye(M_a.shape[-1], dtype=M_a.dtype, device=M_a.device)
    now = own.turned(M_a, M_b)
    value = now.distance(weights)
    for _ in range(_STEPS):
        step = unit + _step(now, weights)
        new_a, new_b = step @ M_a, inverse(step).mT @ M_b
        then = own.turned(new_a, new_b)
        new_value = then.distance(weights)
        better = new_value < value
        M_a, M_b = (
            torch.where(better[:, None, None], new, old)
            for new, old in ((new_a, M_a), (new_b, M_b))
        )
        now = own.turned(M_a, M_b)
        value = torch.where(better, new_value, value)
    return M_a, M_b, value


def _step(now: _Aligned, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Solve W_a^2 E S_a + S_b E W_b^2 = b d_b^T W_b^2 - W_a^2 d_a a^T for E (n, r, r)."""
    square_a, square_b = weights[0].square(), weights[1].square()
    a, b = now.a, now.b
    R = (b.S - b.P.mT) * square_b[:, None, :] - square_a[:, :, None] * (a.S - a.P)
    U, left = _eigen(b.S, square_a)
    V, right = _eigen(a.S, square_b)
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


def _least_squares(P: Tensor, S: Tensor) -> Tensor:
    """Return the M (n, r, r) that minimises |M x - p|, regularised."""
    floor = _FLOOR * S.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(1e-300)
    unit = torch.eye(S.shape[1], dtype=S.dtype, device=S.device)
    return solve_right(S + floor[:, None, None] * unit, P)


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


def _row_weights(square: Tensor) -> Tensor:
    """Return what an error in each row of one side weighs: the length of the row beside it."""
    norms = square.sqrt()
    return norms.clamp_min(1e-150).maximum(_FLOOR * norms.amax(-1, keepdim=True))
