"""Project an adapter onto a basis: coefficients alone, as the Share paper keeps it.

Whatever that loses is lost, and recorded. Per module both sides are projected, P_b dW P_a, which is
the best there is in the two row spaces; balanced again, the leading p directions are kept.
Coefficients are over the integer rows of the basis, fine enough that rounding them is no part of
the loss: rows of a fit are directions at right angles. Over rows that nearly depend on one another
coefficients grow, and where they leave the exact range they are coarser; the error that is recorded
is measured on what decodes, as ever.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from share_registry.algebra.absorb import CodedAdapter, bfloat16_above
from share_registry.algebra.batch import DTypes
from share_registry.algebra.decode import MAX_PRODUCT_BITS, decode_side
from share_registry.algebra.directions import Frame, frame
from share_registry.algebra.error import FactorPair, relative_errors
from share_registry.algebra.gauge import balance
from share_registry.names import Side
from share_registry.stored import StoredModule, StoredSide, Term

# relative error of a module that rounding its coefficients makes
_FINE: Final = 2.0**-14
_PEAK_BITS: Final = 23
_SMALLEST: Final = -126
_LARGEST: Final = 127


def project(
    pairs: Sequence[FactorPair],
    *,
    basis: Sequence[StoredModule | None],
    dtypes: Sequence[DTypes],
    factors: Sequence[int],
    pseudo_rank: int | None = None,
    foreign: Collection[int] = (),
) -> CodedAdapter:
    """Project an adapter onto a basis.

    The error is not limited: the caller records it.

    Args:
        pairs: The modules: dW = scale * b^T a; finite float64, on the device that is to compute.
        basis: Rows of the basis by position of the pairs, as own rows; None where it has none.
        dtypes: Element types of A and B per module, to which export rounds.
        factors: Modules with equal numbers lie in the same tensors.
        pseudo_rank: Directions kept of every module; None for the rank it has.
        foreign: Positions of modules that the basis has for another shape.

    Returns:
        The coded adapter; modules whose dW is 0, and foreign ones, are None, to be kept verbatim.
        Its one source is 0.
    """
    idle = {
        factor
        for position, (factor, pair) in enumerate(zip(factors, pairs, strict=True))
        if position in foreign or not (pair.a.any() and pair.b.any())
    }
    modules: list[StoredModule | None] = [None] * len(pairs)
    decoded = list(pairs)
    for position, pair in enumerate(pairs):
        if factors[position] not in idle:
            modules[position], decoded[position] = _project_module(
                pair, basis[position], dtypes[position], pseudo_rank
            )
    error, errors = relative_errors(decoded, pairs)
    used = any(module is not None and (module.a.terms or module.b.terms) for module in modules)
    return CodedAdapter(
        modules=tuple(
            None if module is None else replace(module, error=bfloat16_above(error))
            for module, error in zip(modules, errors, strict=True)
        ),
        sources=(0,) if used else (),
        error=error,
        previous=False,
    )


def _project_module(
    pair: FactorPair, basis: StoredModule | None, dtypes: DTypes, pseudo_rank: int | None
) -> tuple[StoredModule, FactorPair]:
    """Return a module in integers, its error not measured yet, and what export gives back."""
    pair = replace(pair, a=pair.a.double(), b=pair.b.double())
    rank = pair.a.shape[0]
    rows = [
        x[:0] if basis is None else torch.from_numpy(basis.side(side).own).to(x)
        for side, x in ((Side.A, pair.a), (Side.B, pair.b))
    ]
    if len(rows[0]) and len(rows[1]):
        frames = [frame(block) for block in rows]
        axes_a, axes_b = (coordinates.back @ coordinates.rows for coordinates in frames)
        A, B, sigma = balance((pair.a @ axes_a.mT)[None], (pair.b @ axes_b.mT)[None])
        noise = _row_noise(sigma[0], rank if pseudo_rank is None else min(rank, pseudo_rank))
        sides = [_side(A[0], noise, frames[0]), _side(B[0], noise, frames[1])]
    else:
        sides = [_zero_side(rank, block.shape[1]) for block in rows]
    a, b = (
        decode_side(side, previous=None, blocks=[block] if side.terms else [], device=block.device)
        .to(dtype)
        .double()
        for side, block, dtype in zip(sides, rows, dtypes, strict=True)
    )
    return StoredModule(a=sides[0], b=sides[1], error=0.0), replace(pair, a=a, b=b)


def _row_noise(sigma: Tensor, kept: int) -> Tensor:
    """Return the squared error (r,) that every row of either side may have.

    As much of dW for each row kept, infinite for those that are not.
    """
    noise = _FINE**2 * sigma.square().sum() / (2.0 * kept * sigma.clamp_min(1e-300))
    noise[kept:] = torch.inf
    return torch.where(sigma > 0, noise, torch.inf)


def _side(X: Tensor, noise: Tensor, coordinates: Frame) -> StoredSide:
    """Return coordinates X (r, q) as coefficients over the integer rows of a frame.

    Each row gets a squared error of about `noise` (r,); one below it is left out. The squared error
    of a rounded coefficient is 1/12 of its step's square in the mean and 1/4 at most, which one
    coefficient alone may well have.
    """
    rows = coordinates.rows
    K, square, k = X @ coordinates.back, X.square().sum(-1), len(rows)
    block_bits = int(rows.abs().max()).bit_length() + (k - 1).bit_length()
    room = min(_PEAK_BITS, MAX_PRODUCT_BITS - block_bits)
    fine_square = 12.0 * k / (k + 2) * noise / rows.square().sum()
    fine = torch.log2(fine_square.sqrt().clamp_min(2.0**-149)).floor()
    least = torch.log2(K.abs().amax(-1).clamp_min(2.0**-149)).ceil() + 1 - room
    steps = torch.exp2(fine.maximum(least).clamp(_SMALLEST, _LARGEST))
    scales = torch.where(square > noise, steps, 0.0)
    alive = scales > 0
    if not alive.any():
        return _zero_side(len(K), rows.shape[1])
    C = torch.where(alive[:, None], K / torch.where(alive, scales, 1.0)[:, None], 0.0).round()
    return StoredSide(
        previous=False,
        terms=(Term(source=0, exponent=0, coefficients=C.to(torch.int32).cpu().numpy()),),
        scales=scales.to(torch.float32).cpu().numpy(),
        own=np.zeros((len(K), rows.shape[1]), np.int32),
    )


def _zero_side(rank: int, width: int) -> StoredSide:
    return StoredSide(
        previous=False,
        terms=(),
        scales=np.zeros(rank, np.float32),
        own=np.zeros((rank, width), np.int32),
    )
