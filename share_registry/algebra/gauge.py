"""The balanced gauge: one pair of factors for one dW, its energy split evenly between the sides.

Factors are rows throughout: `a (n, r, in)`, `b (n, r, out)`, n modules at once, and dW = b^T a.
"""

import torch
from torch import Tensor


def balance(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors in the balanced gauge and the singular values of dW.

    (B G, G^-1 A) is the same adapter for every invertible G; this is the one with orthogonal rows
    of falling size on both sides. QR of both factors, then the SVD of the r x r core:
    dW = sum_i sigma_i u_i v_i^T, rows sqrt(sigma_i) v_i and sqrt(sigma_i) u_i.

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
    U, sigma, Vt = torch.linalg.svd(R_b @ R_a.mT, full_matrices=False)
    root = sigma.sqrt()[..., None]
    return (
        _pad(root * (Vt @ Q_a.mT), rank),
        _pad(root * (Q_b @ U).mT, rank),
        _pad(sigma[..., None], rank)[..., 0],
    )


def _pad(rows: Tensor, rank: int) -> Tensor:
    missing = rank - rows.shape[1]
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows
