"""Orthonormal rows that span the row space of dW: what an adapter listens to in its input."""

from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.error import FactorPair
from share_registry.algebra.solve import svd

# Singular values below this share of the largest are rounding noise, and span nothing
_FULL: Final = 1e-6


def row_space(pair: FactorPair, *, max_rank: int | None = None) -> Tensor:
    """Return orthonormal rows (k, in) that span the row space of dW = scale * b^T a.

    They are its right singular vectors, the strongest first, so that another gauge of the pair
    gives the same space, and the first of them are the same too. Float64.

    Args:
        pair: a (r, in) and b (r, out).
        max_rank: At most so many; None for all.

    Returns:
        No row where dW is 0.
    """
    if pair.scale == 0:
        return pair.a.new_zeros((0, pair.a.shape[1]), dtype=torch.float64)
    # b^T = Q R with orthonormal columns in Q, so R a has the right singular vectors of b^T a
    R = torch.linalg.qr(pair.b.double().mT).R
    _, sigma, Vt = svd(R @ pair.a.double())
    is_full = sigma > _FULL * sigma.amax() if len(sigma) else sigma.bool()
    rows: Tensor = Vt[is_full][:max_rank]
    return rows
