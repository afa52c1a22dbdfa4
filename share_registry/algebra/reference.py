"""Predict one side of some modules from the integer rows of earlier adapters, where that costs fewer bits than it saves.

Everything is decided from small Grams: H = R R^T of the candidates' rows R and Z = X R^T, with X in
units of each row's step. Least squares give the coefficients; columns that save less than they cost
are left out; the power of two of the coefficients is the one that makes coefficients and residual
together smallest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.quantise import Block, Prediction, power_of_two, stack
from share_registry.algebra.rates import bits, cost

_PRICE: Final = 4.0
"""Bits that a coefficient has to save on average to be kept."""
_NOISE: Final = (1 / 16, 1 / 4, 1.0, 4.0)
"""Variances, in squared steps, that rounding the coefficients may add to the residual.

Each is tried.
"""
_TERM_BITS: Final = 64.0
"""What a term takes in the table."""
_GAIN: Final = 0.995
_RIDGE: Final = 1e-9
_SCREEN_FLOPS: Final = 1e9
_PEAK_BITS: Final = 20
_PRODUCT_BITS: Final = 42
_HUGE: Final = 1e300


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The cheapest way for each of n modules, in estimated bits with the distortion counted in.

    No prediction where none pays.
    """

    prediction: Prediction | None
    cost: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evidence:
    """Grams of one side.

    H (n, K, K), Z (n, r, K) and square (n, r) in steps, width m, columns of each source, bits
    of the largest symbol of each.
    """

    H: Tensor
    Z: Tensor
    square: Tensor
    width: int
    spans: tuple[tuple[int, int], ...]
    symbol_bits: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _LeastSquares:
    """Coefficients (n, r, K of the set) in steps, their exponents (n, T) and the cost (n,)."""

    C: Tensor
    exponents: Tensor
    cost: Tensor


def choose(x: Tensor, scales: Tensor, blocks: Sequence[Block]) -> Choice:
    """Return the cheapest prediction of rows x (n, r, m) with scales (n, r) from some of the blocks."""
    plain = _plain_cost(x, scales)
    present = [
        index for index, block in enumerate(blocks) if any(rows is not None for rows in block)
    ]
    order = (
        tuple(present[rank] for rank in _screen(x, scales, [blocks[index] for index in present]))
        if present
        else ()
    )
    if not order:
        return Choice(prediction=None, cost=plain)
    chosen = [blocks[index] for index in order]
    evidence = _gather(x, scales, chosen)
    fits = [_fit(evidence, tuple(range(length))) for length in range(1, len(order) + 1)]
    best = torch.stack([plain, *(fit.cost for fit in fits)]).min(0)
    if not best.indices.any():
        return Choice(prediction=None, cost=plain)
    return Choice(
        prediction=_prediction(order, chosen, evidence, fits, best.indices, scales),
        cost=best.values,
    )


def _plain_cost(x: Tensor, scales: Tensor) -> Tensor:
    variance = (
        torch.where(
            scales > 0,
            torch.linalg.vector_norm(x, dim=-1) / scales.clamp_min(1e-300),
            torch.zeros_like(scales),
        ).square()
        / x.shape[-1]
    )
    return x.shape[-1] * cost(variance).sum(-1)


def _screen(x: Tensor, scales: Tensor, blocks: Sequence[Block]) -> tuple[int, ...]:
    """Return the candidates worth gathering for every module, best first, judged by all modules or by a few spread over them."""
    flops = (
        x.shape[-1]
        * sum(
            max((len(block) for block in source if block is not None), default=0)
            for source in blocks
        )
        ** 2
    )
    count = min(x.shape[0], max(2, int(_SCREEN_FLOPS / max(flops, 1))))
    sample = (
        torch.linspace(0, x.shape[0] - 1, count, dtype=torch.float32, device="cpu").round().long()
    )
    evidence = _gather(
        x[sample], scales[sample], [[source[i] for i in sample.tolist()] for source in blocks]
    )
    plain = _plain_cost(x[sample], scales[sample])
    order: tuple[int, ...] = ()
    best = float(plain.sum())
    left = list(range(len(blocks)))
    while left:
        values = {
            index: float(torch.minimum(plain, _fit(evidence, (*order, index)).cost).sum())
            for index in left
        }
        nearest = min(left, key=lambda index: values[index])
        if values[nearest] > _GAIN * best:
            break
        order, best = (*order, nearest), values[nearest]
        left.remove(nearest)
    if (
        left
        and float(torch.minimum(plain, _fit(evidence, (*order, *left)).cost).sum()) < _GAIN * best
    ):
        order = (*order, *left)
    return order


def _gather(x: Tensor, scales: Tensor, blocks: Sequence[Block]) -> _Evidence:
    stacked = [stack(block, x.shape[-1], device=x.device) for block in blocks]
    R = torch.cat(stacked, 1)
    ends = [0]
    for rows in stacked:
        ends.append(ends[-1] + rows.shape[1])
    unit = torch.where(scales > 0, 1.0 / scales.clamp_min(1e-300), torch.zeros_like(scales))
    return _Evidence(
        H=R @ R.mT,
        Z=unit[..., None] * (x @ R.mT),
        square=(unit * torch.linalg.vector_norm(x, dim=-1)).square(),
        width=x.shape[-1],
        spans=tuple(pairwise(ends)),
        symbol_bits=tuple(
            int(rows.abs().max()).bit_length() if rows.numel() else 0 for rows in stacked
        ),
    )


def _fit(evidence: _Evidence, chosen: Sequence[int]) -> _LeastSquares:
    """Fit the rows with the blocks of some sources."""
    columns = torch.cat(
        [torch.arange(*evidence.spans[index], dtype=torch.int64, device="cpu") for index in chosen]
    )
    H, Z = evidence.H[:, columns][:, :, columns], evidence.Z[:, :, columns]
    K, inverse = _solve(H, Z, torch.ones_like(H[:, 0], dtype=torch.bool))
    variance = ((evidence.square - (K * Z).sum(-1)) / evidence.width).clamp_min(0)
    saved = (
        K.square()
        / inverse[:, None, :].clamp_min(1e-300)
        / (2 * log(2) * (variance[..., None] + 1 / 12))
    )
    keep = saved.sum(1) > _PRICE * Z.shape[1]
    K, _ = _solve(H, Z, keep)
    starts = (
        torch.tensor(
            [evidence.spans[index][1] - evidence.spans[index][0] for index in chosen],
            dtype=torch.int64,
            device="cpu",
        )
        .cumsum(0)
        .tolist()
    )
    spans = list(zip([0, *starts[:-1]], starts, strict=True))
    least = torch.stack(
        [
            _least_exponent(K[..., s:e], evidence.symbol_bits[index])
            for index, (s, e) in zip(chosen, spans, strict=True)
        ],
        -1,
    )
    options = [_rounded(evidence, H, Z, K, keep, spans, least, noise) for noise in _NOISE]
    pick = torch.stack([option.cost for option in options]).argmin(0)
    at = torch.arange(len(pick), dtype=torch.int64, device=pick.device)
    return _LeastSquares(
        C=K,
        exponents=torch.stack([option.exponents for option in options])[pick, at],
        cost=torch.stack([option.cost for option in options])[pick, at],
    )


def _solve(H: Tensor, Z: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least-squares K (n, r, K) over the columns kept, 0 elsewhere, and the diagonal of the inverse Gram."""
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    unit = torch.where(
        keep & (diagonal > 0), diagonal.clamp_min(1e-300).rsqrt(), torch.zeros_like(diagonal)
    )
    normal = unit[:, :, None] * H * unit[:, None, :]
    normal = normal + torch.diag_embed(
        torch.where(unit > 0, torch.full_like(unit, _RIDGE), torch.ones_like(unit))
    )
    inverse = torch.linalg.inv_ex(normal).inverse
    return (Z * unit[:, None, :]) @ inverse * unit[:, None, :], unit.square() * inverse.diagonal(
        dim1=-2, dim2=-1
    )


def _least_exponent(K: Tensor, symbol_bits: int) -> Tensor:
    """Return the smallest exponent (n,) that keeps coefficients and products inside the exact range, with room for smaller steps."""
    room = min(_PEAK_BITS, _PRODUCT_BITS - symbol_bits - (K.shape[-1] - 1).bit_length())
    return torch.log2(K.abs().amax((-2, -1)).clamp(1e-30, _HUGE)).ceil().long() - room


def _rounded(
    evidence: _Evidence,
    H: Tensor,
    Z: Tensor,
    K: Tensor,
    keep: Tensor,
    spans: Sequence[tuple[int, int]],
    least: Tensor,
    noise: float,
) -> _LeastSquares:
    """Round the coefficients so that the residual grows by about `noise` and count what that costs."""
    diagonal = torch.where(keep, H.diagonal(dim1=-2, dim2=-1), torch.zeros_like(H[:, 0]))
    energy = torch.stack([diagonal[:, s:e].sum(-1) for s, e in spans], -1).clamp_min(1e-300)
    exponents = (
        (0.5 * torch.log2(12.0 * noise * evidence.width / (len(spans) * energy)))
        .floor()
        .clamp(-100, 100)
        .long()
        .maximum(least)
    )
    factors = power_of_two(exponents)
    steps = torch.cat(
        [factors[:, None, t : t + 1].expand(-1, 1, e - s) for t, (s, e) in enumerate(spans)], -1
    )
    q = (K / steps).round()
    C = q * steps
    square = evidence.square - 2.0 * (C * Z).sum(-1) + ((C @ H) * C).sum(-1)
    price = torch.zeros_like(square[:, 0])
    for s, e in spans:
        used = keep[:, s:e].sum(-1).clamp_min(1)
        variance = q[..., s:e].square().sum((-2, -1)) / (K.shape[1] * used)
        price = price + K.shape[1] * used * bits(variance) + _TERM_BITS
    return _LeastSquares(
        C=C,
        exponents=exponents,
        cost=price + evidence.width * cost((square / evidence.width).clamp_min(0)).sum(-1),
    )


def _prediction(
    order: Sequence[int],
    blocks: Sequence[Block],
    evidence: _Evidence,
    fits: Sequence[_LeastSquares],
    best: Tensor,
    scales: Tensor,
) -> Prediction:
    """Put together what each module chose: the first `best` blocks of the order."""
    n, K, T = len(best), evidence.H.shape[-1], len(order)
    coefficients = torch.zeros((n, scales.shape[1], K), dtype=torch.float64, device=scales.device)
    exponents = torch.zeros((n, T), dtype=torch.int64, device=scales.device)
    used = torch.zeros((n, T), dtype=torch.bool, device=scales.device)
    for length, fit in enumerate(fits, start=1):
        mine = best == length
        coefficients[mine, :, : fit.C.shape[-1]] = fit.C[mine]
        exponents[mine, :length] = fit.exponents[mine]
        for t in range(length):
            s, e = evidence.spans[t]
            used[mine, t] = fit.C[mine][:, :, s:e].abs().amax((-2, -1)) > 0 if mine.any() else False
    ranked = sorted(range(T), key=lambda t: order[t])
    columns = torch.cat(
        [torch.arange(*evidence.spans[t], dtype=torch.int64, device="cpu") for t in ranked]
    )
    ends = (
        torch.tensor(
            [evidence.spans[t][1] - evidence.spans[t][0] for t in ranked],
            dtype=torch.int64,
            device="cpu",
        )
        .cumsum(0)
        .tolist()
    )
    return Prediction(
        sources=tuple(order[t] for t in ranked),
        spans=tuple(zip([0, *ends[:-1]], ends, strict=True)),
        blocks=tuple(tuple(blocks[t]) for t in ranked),
        coefficients=scales[..., None] * coefficients[..., columns],
        exponents=exponents[:, ranked],
        used=used[:, ranked],
    )
