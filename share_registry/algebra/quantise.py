"""Quantise factors at given steps, exactly as they will be decoded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.rates import shrinkage

MAX_SYMBOL: Final = (1 << 23) - 1
_HALF: Final = 1 << 49
"""Half a unit of the second mantissa bit in the bits of a float64."""
_SMALLEST: Final = 2.0**-126
_LARGEST: Final = 2.0**127


Block = Sequence[Tensor | None]
"""Own rows of one earlier adapter for n modules.

Integers (k, m), or None where a module has none.
"""


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
    def wanted(self) -> Tensor:
        """(n, r, m) what is left to code when the previous version is taken off."""
        return self.x if self.previous is None else self.x - self.previous

    @property
    def free(self) -> bool:
        """Whether the rows are coded against nothing."""
        return self.previous is None and self.prediction is None

    @property
    def norms(self) -> Tensor:
        """(n, r) Euclidean norms of the rows."""
        norms: Tensor = torch.linalg.vector_norm(self.x, dim=-1)
        return norms


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
        return (
            peak
            if self.coefficients is None
            else torch.maximum(peak, self.coefficients.abs().amax((-2, -1)))
        )

    def integers(self) -> "Integers":
        """Return what is stored; only meaningful where `peak` is at most `MAX_SYMBOL`."""
        limit = MAX_SYMBOL + 1
        C = (
            None
            if self.coefficients is None
            else self.coefficients.clamp(-limit, limit).to(torch.int32)
        )
        return Integers(
            scales=self.scales.to(torch.float32),
            own=self.own.clamp(-limit, limit).to(torch.int32),
            coefficients=C,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Integers:
    """One side of n modules as stored.

    Scales (n, r) float32, own rows (n, r, m) int32, coefficients (n, r, K) int32 or None.
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


def coarse(scales: Tensor) -> Tensor:
    """Round scales to two bits of mantissa (bfloat16 values); 0 where they leave the normal range.

    A step that is off by up to 11 % costs .004 bits per parameter; the five bits that a finer one
    needs cost ten times that on small adapters.
    """
    rounded = ((scales.contiguous().view(torch.int64) + _HALF) & ~(2 * _HALF - 1)).view(
        torch.float64
    )
    return torch.where(
        (rounded >= _SMALLEST) & (rounded <= _LARGEST), rounded, torch.zeros_like(rounded)
    )


def power_of_two(exponents: Tensor) -> Tensor:
    """Return 2**e as float64, exactly, for int64 exponents of the normal range."""
    return ((exponents + 1023) << 52).view(torch.float64)


def quantise(rows: Rows, scales: Tensor) -> CodedRows:
    """Code rows (n, r, m) with these scales (n, r): predict, subtract, shrink, round, decode.

    A row of scale 0 decodes to `previous`.
    """
    usable = scales > 0.0
    unit = torch.where(usable, scales, torch.ones_like(scales))[..., None]
    target = torch.where(usable[..., None], rows.wanted / unit, torch.zeros_like(rows.x))
    C, predicted = _predict(rows.prediction, unit, rows.x.shape[-1])
    if predicted is not None:
        target -= predicted
    factor = shrinkage(target.square().mean(-1, keepdim=True))
    own = target.mul_(factor).round_()
    return CodedRows(
        scales=scales,
        own=own,
        coefficients=C,
        predicted=predicted,
        decoded=_decode(rows, scales, own, predicted),
    )


def without_own(rows: Rows, coded: CodedRows, drop: Tensor) -> CodedRows:
    """Return the same with the own rows marked in `drop` (n, r) set to zero."""
    own = torch.where(drop[..., None], torch.zeros_like(coded.own), coded.own)
    return replace(coded, own=own, decoded=_decode(rows, coded.scales, own, coded.predicted))


def stack(block: Block, width: int, *, device: torch.device, least: int = 0) -> Tensor:
    """Return the rows of a block for n modules as float64 (n, k, m), k at `least` so many, short ones padded with zero rows."""
    k = max([least, *(len(rows) for rows in block if rows is not None)])
    stacked = torch.zeros((len(block), k, width), dtype=torch.float64, device=device)
    for index, rows in enumerate(block):
        if rows is not None:
            stacked[index, : len(rows)] = rows
    return stacked


def _predict(
    prediction: Prediction | None, unit: Tensor, width: int
) -> tuple[Tensor | None, Tensor | None]:
    if prediction is None:
        return None, None
    factors = power_of_two(prediction.exponents)[:, None, :]
    steps = torch.cat(
        [
            factors[..., t : t + 1].expand(-1, -1, stop - start)
            for t, (start, stop) in enumerate(prediction.spans)
        ],
        -1,
    )
    C = (prediction.coefficients / (steps * unit)).round()
    return C, _products(prediction, C, width)


def _products(prediction: Prediction, C: Tensor, width: int) -> Tensor:
    total: Tensor | None = None
    for t, (start, stop) in enumerate(prediction.spans):
        rows = stack(
            prediction.blocks[t], width, device=C.device, least=stop - start
        )  # the longest may be of a module that is not among these
        product = (C[..., start:stop] @ rows) * power_of_two(prediction.exponents[:, t, None, None])
        total = product if total is None else total + product
    assert total is not None
    return total


def _decode(rows: Rows, scales: Tensor, own: Tensor, predicted: Tensor | None) -> Tensor:
    """Decode as `decode_side` does, then round as export does."""
    total = own if predicted is None else predicted + own
    scaled = total * scales[..., None]
    if rows.previous is not None:
        scaled = rows.previous + scaled
    return scaled.to(torch.float32).to(rows.dtype).to(torch.float64)
