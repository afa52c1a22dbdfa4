"""Quantise factors at given steps, exactly as they will be decoded.

A row is predicted (from its previous version and from rows of earlier adapters), the prediction is
taken off, the rest is divided by the row's scale, shrunk a little and rounded (see `rates`). The
result is decoded at once with the arithmetic of every later reader: the error that the search sees
is the error that a checkout has.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.rates import shrinkage

MAX_SYMBOL: Final = (1 << 23) - 1
# half a unit of the second mantissa bit in the bits of a float64
_HALF: Final = 1 << 49
_SMALLEST: Final = 2.0**-126
_LARGEST: Final = 2.0**127


# Own rows of one earlier adapter for n modules: integers (k, m), None where a module has none
Block = Sequence[Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What earlier blocks say about one side of n modules.

    Attributes:
        sources: Candidates whose blocks are used, ascending; block t has the columns `spans[t]` of
            K.
        spans: Columns of `coefficients` per source.
        blocks: Integer rows (k, m) per source and module; None where a module has none.
        coefficients: (n, r, K) float64 in units of the factor; zero where a module does not use a
            block.
        exponents: (n, T) int64, powers of two of the coefficients in units of the row's scale.
        used: (n, T) whether a module refers to the block at all.
    """

    sources: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    blocks: tuple[tuple[Tensor | None, ...], ...]
    coefficients: Tensor
    exponents: Tensor
    used: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One side of n modules of equal shape: what is to be coded and what it may be predicted from.

    Attributes:
        x: (n, r, m) float64, the factor in the chosen gauge.
        previous: (n, r, m) float64 or None: a decoded earlier factor, zero for modules that do not
            use it.
        prediction: Coefficients over blocks, or None.
        dtype: What the export rounds to.
    """

    x: Tensor
    previous: Tensor | None
    prediction: Prediction | None
    dtype: torch.dtype

    @property
    def residual(self) -> Tensor:
        """(n, r, m) what is left to code when the previous version is taken off."""
        return self.x if self.previous is None else self.x - self.previous

    @property
    def has_references(self) -> bool:
        """Whether the rows are coded against anything."""
        return self.previous is not None or self.prediction is not None

    @property
    def norms(self) -> Tensor:
        """(n, r) Euclidean norms of the rows."""
        norms: Tensor = torch.linalg.vector_norm(self.x, dim=-1)
        return norms


@dataclass(frozen=True, slots=True, kw_only=True)
class Integers:
    """One side of n modules as stored.

    Attributes:
        scales: (n, r) float32.
        own: (n, r, m) int32.
        coefficients: (n, r, K) int32, or None without a prediction.
    """

    scales: Tensor
    own: Tensor
    coefficients: Tensor | None

    def cpu(self) -> "Integers":
        """Return the same on the CPU."""
        return Integers(
            scales=self.scales.cpu(),
            own=self.own.cpu(),
            coefficients=None if self.coefficients is None else self.coefficients.cpu(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedRows:
    """One side of n modules, coded; every number still a float64.

    Attributes:
        scales: (n, r) bfloat16 values.
        own: (n, r, m) integers.
        coefficients: (n, r, K) integers, or None without a prediction.
        predicted: (n, r, m) what the coefficients give, in units of the scales, or None.
        decoded: (n, r, m) the factor as export gives it.
    """

    scales: Tensor
    own: Tensor
    coefficients: Tensor | None
    predicted: Tensor | None
    decoded: Tensor

    @property
    def peak(self) -> Tensor:
        """(n,) largest integer in absolute value."""
        peak = self.own.abs().amax((-2, -1))
        if self.coefficients is None:
            return peak
        return torch.maximum(peak, self.coefficients.abs().amax((-2, -1)))

    def integers(self) -> Integers:
        """Return what is stored; only meaningful where `peak` is at most `MAX_SYMBOL`."""
        return Integers(
            scales=self.scales.to(torch.float32),
            own=_to_int32(self.own),
            coefficients=None if self.coefficients is None else _to_int32(self.coefficients),
        )


def round_scales(scales: Tensor) -> Tensor:
    """Round scales to two bits of mantissa (bfloat16 values); 0 where they leave the normal range.

    A step that is off by up to 11 % costs .004 bits per parameter; the five bits that a finer one
    needs cost ten times that on small adapters.
    """
    mantissa = (scales.contiguous().view(torch.int64) + _HALF) & ~(2 * _HALF - 1)
    rounded = mantissa.view(torch.float64)
    return torch.where((rounded >= _SMALLEST) & (rounded <= _LARGEST), rounded, 0.0)


def column_steps(exponents: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Return 2**e (n, 1, K) for every column, from exponents (n, T) of spans of columns."""
    widths = torch.tensor(
        [stop - start for start, stop in spans], dtype=torch.int64, device=exponents.device
    )
    return _power_of_two(exponents).repeat_interleave(widths, -1)[:, None, :]


def quantise(rows: Rows, scales: Tensor) -> CodedRows:
    """Code rows (n, r, m) with these scales (n, r): predict, subtract, shrink, round, decode.

    A row of scale 0 decodes to `previous`.
    """
    usable = scales > 0.0
    unit = torch.where(usable, scales, 1.0)[..., None]
    target = torch.where(usable[..., None], rows.residual / unit, 0.0)
    C = predicted = None
    if rows.prediction is not None:
        prediction = rows.prediction
        steps = column_steps(prediction.exponents, prediction.spans) * unit
        C = (prediction.coefficients / steps).round()
        predicted = _products(prediction, C, rows.x.shape[-1])
        target -= predicted
    own = target.mul_(shrinkage(target.square().mean(-1, keepdim=True))).round_()
    return CodedRows(
        scales=scales,
        own=own,
        coefficients=C,
        predicted=predicted,
        decoded=_decode(rows, scales, own, predicted),
    )


def without_own(rows: Rows, coded: CodedRows, drop: Tensor) -> CodedRows:
    """Return the same with the own rows marked in `drop` (n, r) set to zero."""
    own = torch.where(drop[..., None], 0.0, coded.own)
    return replace(coded, own=own, decoded=_decode(rows, coded.scales, own, coded.predicted))


def stack(block: Block, width: int, *, device: torch.device, least: int = 0) -> Tensor:
    """Return the rows of a block for n modules as float64 (n, k, m), padded with zero rows.

    Args:
        block: The rows of each module.
        width: m.
        device: Where to.
        least: Smallest k; else that of the module with the most rows.
    """
    k = max([least, *(len(rows) for rows in block if rows is not None)])
    stacked = torch.zeros((len(block), k, width), dtype=torch.float64, device=device)
    for index, rows in enumerate(block):
        if rows is not None:
            stacked[index, : len(rows)] = rows
    return stacked


def _to_int32(values: Tensor) -> Tensor:
    return values.clamp(-MAX_SYMBOL - 1, MAX_SYMBOL + 1).to(torch.int32)


def _power_of_two(exponents: Tensor) -> Tensor:
    """Return 2**e as float64, exactly, for int64 exponents of the normal range."""
    return ((exponents + 1023) << 52).view(torch.float64)


def _products(prediction: Prediction, C: Tensor, width: int) -> Tensor:
    """Return sum_t 2**e_t * C_t @ q_t (n, r, m), the terms added in order of t (spec DEC-04)."""
    factors = _power_of_two(prediction.exponents)[..., None, None]
    # the longest of a block may be of a module that is not among these
    return reduce(
        torch.add,
        (
            (C[..., start:stop] @ stack(block, width, device=C.device, least=stop - start))
            * factors[:, t]
            for t, (block, (start, stop)) in enumerate(
                zip(prediction.blocks, prediction.spans, strict=True)
            )
        ),
    )


def _decode(rows: Rows, scales: Tensor, own: Tensor, predicted: Tensor | None) -> Tensor:
    """Decode as `decode_side` does, then round as export does."""
    scaled = (own if predicted is None else predicted + own) * scales[..., None]
    if rows.previous is not None:
        scaled = rows.previous + scaled
    return scaled.to(torch.float32).to(rows.dtype).to(torch.float64)
