"""Coefficients alone.

An adapter projected onto a basis, as the Share paper keeps it, whatever that loses.

Per module both sides are projected, P_b dW P_a, which is the best there is in the two row spaces;
balanced again, the leading p directions are kept. Coefficients are over the integer rows of the
basis, fine enough that rounding them is no part of the loss: rows of a fit are directions at right
angles. Over rows that nearly depend on one another coefficients grow, and where they leave the
exact range they are coarser; the error that is recorded is measured on what decodes, as ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from share_registry.algebra.decode import MAX_PRODUCT_BITS, decode_side
from share_registry.algebra.directions import Frame, frame
from share_registry.algebra.error import ScaledPair, module_errors, pooled_error
from share_registry.algebra.gauge import balanced
from share_registry.algebra.outcome import CodedAdapter, bfloat16_above
from share_registry.names import Side
from share_registry.stored import StoredModule, StoredSide, Term

DTypes = tuple[torch.dtype, torch.dtype]
_FINE: Final = 2.0**-14
"""Relative error of a module that rounding its coefficients makes."""
_PEAK_BITS: Final = 23
_SMALLEST: Final = -126
_LARGEST: Final = 127


def project(
    pairs: Sequence[ScaledPair],
    *,
    basis: Sequence[StoredModule | None],
    dtypes: Sequence[DTypes],
    factors: Sequence[int],
    pseudo_rank: int | None = None,
) -> CodedAdapter:
    """Return an adapter as coefficients over a basis.

    Args:
        pairs: The modules: dW = scale * b^T a; finite float64, on the device that is to compute.
        basis: Rows of the basis by position of the pairs, as own rows; None where it has none.
        dtypes: Element types of A and B per module, to which export rounds.
        factors: Modules with equal numbers lie in the same tensors.
        pseudo_rank: Directions kept of every module; None for the rank it has.

    Returns:
        The outcome; modules whose dW is 0 are None, to be kept verbatim. Its one source is 0.
    """
    idle = {
        factor
        for factor, pair in zip(factors, pairs, strict=True)
        if not (pair.a.any() and pair.b.any())
    }
    found = [
        None if factor in idle else _module(pair, rows, dtype, pseudo_rank)
        for pair, rows, dtype, factor in zip(pairs, basis, dtypes, factors, strict=True)
    ]
    coded = [(pair, made) for pair, made in zip(pairs, found, strict=True) if made is not None]
    errors = iter(module_errors([made.pair for _, made in coded], [pair for pair, _ in coded]))
    modules = tuple(
        None if made is None else replace(made.stored, error=bfloat16_above(next(errors)))
        for made in found
    )
    wanted, decoded = (
        list(pairs),
        [pair if made is None else made.pair for pair, made in zip(pairs, found, strict=True)],
    )
    used = any(module is not None and (module.a.terms or module.b.terms) for module in modules)
    return CodedAdapter(
        modules=modules,
        sources=(0,) if used else (),
        error=pooled_error(decoded, wanted),
        previous=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoded:
    """A module as export gives it back."""

    module: str
    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Projected:
    """A module in integers, and what export gives back."""

    stored: StoredModule
    pair: ScaledPair


def _module(
    pair: ScaledPair, basis: StoredModule | None, dtypes: DTypes, pseudo_rank: int | None
) -> _Projected:
    rank = pair.a.shape[0]
    rows = [_rows(basis, side, x) for side, x in ((Side.A, pair.a), (Side.B, pair.b))]
    frames = [frame(block) if len(block) else None for block in rows]
    if frames[0] is None or frames[1] is None:
        sides = [_idle(rank, block.shape[1]) for block in rows]
    else:
        A, B, sigma = balanced(
            (pair.a @ _axes(frames[0]).mT)[None], (pair.b @ _axes(frames[1]).mT)[None]
        )
        noise = _noise(sigma[0], rank if pseudo_rank is None else min(rank, pseudo_rank))
        sides = [_side(X[0], noise, found) for X, found in ((A, frames[0]), (B, frames[1]))]
    decoded = [
        decode_side(side, previous=None, blocks=[block] if side.terms else [], device=block.device)
        .to(dtype)
        .double()
        for side, block, dtype in zip(sides, rows, dtypes, strict=True)
    ]
    pair = _Decoded(module=pair.module, a=decoded[0], b=decoded[1], scale=pair.scale)
    return _Projected(stored=StoredModule(a=sides[0], b=sides[1], error=0.0), pair=pair)


def _rows(basis: StoredModule | None, side: Side, x: Tensor) -> Tensor:
    """Return the rows of a basis for a factor x (r, m), as float64 on its device."""
    return x[:0] if basis is None else torch.from_numpy(basis.side(side).own).to(x)


def _axes(found: Frame) -> Tensor:
    return found.back @ found.rows


def _noise(sigma: Tensor, kept: int) -> Tensor:
    """Return the squared error (r,) that every row of either side may have.

    As much of dW for each row kept, infinite for those that are not.
    """
    noise = _FINE**2 * sigma.square().sum() / (2.0 * kept * sigma.clamp_min(1e-300))
    noise[kept:] = torch.inf
    return torch.where(sigma > 0, noise, torch.inf)


def _side(X: Tensor, noise: Tensor, found: Frame) -> StoredSide:
    """Return coordinates X (r, q) as coefficients over the integer rows of a frame, each row with a squared error of about `noise` (r,); one below it is left out.

    The squared error of a rounded coefficient is 1/12 of its step's square in the mean and 1/4 at
    most, which one coefficient alone may well have.
    """
    K, square, k = X @ found.back, X.square().sum(-1), len(found.rows)
    room = min(
        _PEAK_BITS,
        MAX_PRODUCT_BITS - int(found.rows.abs().max()).bit_length() - (k - 1).bit_length(),
    )
    fine = torch.log2(
        (12.0 * k / (k + 2) * noise / found.rows.square().sum()).sqrt().clamp_min(2.0**-149)
    ).floor()
    least = torch.log2(K.abs().amax(-1).clamp_min(2.0**-149)).ceil() + 1 - room
    scales = torch.where(
        square > noise,
        torch.exp2(fine.maximum(least).clamp(_SMALLEST, _LARGEST)),
        torch.zeros_like(square),
    )
    alive = scales > 0
    if not alive.any():
        return _idle(len(K), found.rows.shape[1])
    C = (
        torch.where(
            alive[:, None],
            K / torch.where(alive, scales, torch.ones_like(scales))[:, None],
            torch.zeros_like(K),
        )
        .round()
        .to(torch.int32)
        .cpu()
        .numpy()
    )
    own = np.zeros((len(K), found.rows.shape[1]), np.int32)
    return StoredSide(
        previous=False,
        terms=(Term(source=0, exponent=0, coefficients=C),),
        scales=scales.to(torch.float32).cpu().numpy(),
        own=own,
    )


def _idle(rank: int, width: int) -> StoredSide:
    return StoredSide(
        previous=False,
        terms=(),
        scales=np.zeros(rank, np.float32),
        own=np.zeros((rank, width), np.int32),
    )
